//! `shim` holds a container: its stdio, its exit status, its terminal.
//!
//! Called as `containerd-shim-tare-v2` (or any `containerd-shim-…` link) it speaks containerd's shim protocol, version 2
//! and 3 of the task service. Called as `conmon` it does for Podman and CRI-O what conmon does. Called as `shim` it runs
//! containers from a shell, each under a small resident monitor. Either way it knows the OCI runtime only by its command line.

#![deny(unsafe_code)]

mod cgroup;
mod cli;
mod conmon;
mod containerd;
mod descriptors;
mod error;
#[cfg(test)]
mod fuzz;
mod io;
mod oom;
mod reap;
mod runtime;
mod solo;
mod stat;
mod sys;

use clap::CommandFactory as _;
use std::env::ArgsOs;
use std::iter::Peekable;
use std::path::Path;
use std::process::ExitCode;

/// Names that start so belong to containerd.
const CONTAINERD_PREFIX: &str = "containerd-shim-";

/// What remains of the command line.
type Arguments = Peekable<ArgsOs>;

/// What the program can be besides the shell's face.
type Face = fn(Arguments) -> ExitCode;

/// First arguments that ask for one of them.
const FACES: [(&str, Face); 8] = [
    (solo::HOLD, |_| solo::hold()),
    (solo::monitor::VERB, |arguments| solo::monitor::main(arguments)),
    (solo::probe::VERB, |arguments| solo::probe::main(arguments)),
    (conmon::NAME, |arguments| conmon::main(arguments)),
    (conmon::STAY, |arguments| conmon::stay(arguments)),
    (containerd::PAUSE_VERB, |_| containerd::pause()),
    (containerd::OWNERS_VERB, |_| containerd::hold_owners()),
    (conmon::LAUNCH, |arguments| conmon::launch(arguments)),
];

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().peekable();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.starts_with(CONTAINERD_PREFIX) {
        return containerd::main(&name, arguments);
    }
    // Before any parsing: a monitor stays for the container's life, and every page that it touches counts.
    for (word, face) in FACES {
        if arguments.next_if(|first| first == word).is_some() {
            return face(arguments);
        }
    }
    if name == conmon::NAME {
        return conmon::main(arguments);
    }
    solo::main(arguments)
}

/// The definition of its command line, for man pages and completion.
#[must_use]
pub fn command() -> clap::Command {
    cli::Cli::command()
}
