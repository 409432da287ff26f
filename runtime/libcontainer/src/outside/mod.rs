//! What the host's side does for a container: cgroups, id maps, limits, hooks.

pub mod cgroup;
pub mod hooks;
pub(crate) mod ids;
pub(crate) mod limits;
pub mod network;
pub mod own_binary;
pub mod rdt;
pub(crate) mod seccomp_agent;
