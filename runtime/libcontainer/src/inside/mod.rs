//! What init does to itself: mounts, console, identity, limits, seccomp.

pub(crate) mod command;
pub(crate) mod console;
pub mod descriptors;
pub(crate) mod devices;
pub(crate) mod identity;
pub mod memory_policy;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod procfs;
pub(crate) mod root;
pub mod seccomp;
pub(crate) mod selinux;
pub(crate) mod sysctl;

pub use identity::capability_names;
pub use mounts::MOUNT_OPTIONS;
