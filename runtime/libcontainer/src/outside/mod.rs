//! What the host's side does for a container: cgroups, id maps, limits, hooks.

pub(crate) mod affinity;
pub mod cgroup;
pub mod hooks;
pub(crate) mod id_list;
pub mod ids;
pub(crate) mod limits;
pub(crate) mod net_devices;
pub mod network;
pub mod own_binary;
pub mod rdt;
mod rtnetlink;
pub(crate) mod seccomp_agent;
