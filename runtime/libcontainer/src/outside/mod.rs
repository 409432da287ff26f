//! What the host's side does for a container: cgroups, id maps, hooks, devices to hand in.

pub mod cgroup;
