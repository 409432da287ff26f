//! Under the engines that people use: containerd with our shim, dockerd and Podman with the runtime under test.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod checkpoint;
mod conmon;
mod containerd;
mod docker;
mod hostile;
mod pipeline;
mod podman;
mod profiles;
mod sandbox;
mod shim_killed;
