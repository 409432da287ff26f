//! `shim` holds a container: its stdio, its exit status, its terminal.
//!
//! Called as `containerd-shim-tare-v2` (or any `containerd-shim-…` link) it speaks containerd's shim protocol, version 2
//! and 3 of the task service. Called as `shim` it runs containers from a shell, each under a small resident monitor.
//! Either way it knows the OCI runtime only by its command line.

#![forbid(unsafe_code)]

mod cli;
mod containerd;
mod descriptors;
mod error;
mod io;
mod reap;
mod runtime;
mod solo;

use std::path::Path;
use std::process::ExitCode;

/// Names that start so belong to containerd.
const CONTAINERD_PREFIX: &str = "containerd-shim-";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().peekable();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.starts_with(CONTAINERD_PREFIX) {
        return containerd::main(&name, arguments);
    }
    // Before any parsing: a monitor stays for the container's life, and every page that it touches counts.
    if arguments.next_if(|first| first == solo::monitor::VERB).is_some() {
        return solo::monitor::main(arguments);
    }
    solo::main(arguments)
}
