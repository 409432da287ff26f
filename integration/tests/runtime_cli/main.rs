//! The runtime, from its command line, as its users see it. Every test runs against any OCI runtime
//! (`TARE_TEST_RUNTIME`) and on any cgroup version (`TARE_TEST_CGROUPS`).

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod apparmor;
mod attacks;
mod badinput;
mod cgroups;
mod checkpoint;
mod devices;
mod events;
mod exec;
mod exec_cgroup;
mod habits;
mod hooks;
mod idmap;
mod killed;
mod lifecycle;
mod mount_flags;
mod mounts;
mod namespaces;
mod ordinary_user;
mod placement;
mod process;
mod rootless;
mod seccomp;
mod services;
mod systemd;
mod terminal;
mod update;
mod verbs;
