//! The shim as containerd knows it: `containerd-shim-tare-v2`.
//!
//! containerd calls the binary with `start` in a container's bundle; that finds or starts the resident shim
//! ([`bootstrap`]) which serves the task service on a unix socket ([`serve`], [`task`]) until the last container is
//! deleted. `delete` cleans up after a shim that died ([`cleanup`]).

mod bootstrap;
mod cleanup;
mod container;
mod door;
mod events;
mod flags;
mod info;
mod log;
mod logger;
mod metrics;
mod operations;
mod options;
mod owners;
mod pause;
mod pod;
mod process;
mod pump;
mod rootfs;
mod sandbox;
mod serve;
mod spec;
mod streams;
mod task;
mod uri;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::error::Result;
use flags::{Action, Flags};

pub(crate) use self::owners::{VERB as OWNERS_VERB, hold as hold_owners};
pub(crate) use self::pause::pause;
pub(crate) use self::pod::PAUSE_VERB;

/// Does what containerd asks for and turns an error into a line and an exit code.
pub(crate) fn main(name: &str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match act(name, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _: io::Result<()> = writeln!(io::stderr(), "{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(name: &str, arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let flags = Flags::parse(arguments)?;
    match flags.action {
        Action::Start => bootstrap::start(name, &flags),
        Action::Delete => cleanup::delete(&flags),
        Action::Info => info::info(name),
        Action::Version => {
            let _: io::Result<()> = writeln!(io::stdout(), "{name}:\n  Version:  {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Serve => {
            let served = serve::serve(&flags);
            // The log fifo is all that containerd reads of a resident shim.
            if let Err(error) = &served {
                log::warn(error.text());
            }
            served
        }
    }
}
