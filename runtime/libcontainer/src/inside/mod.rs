//! What init does to itself: mounts, console, identity, limits, seccomp.

pub mod seccomp;
