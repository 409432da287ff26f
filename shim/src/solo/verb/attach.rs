//! `shim attach`: connects to a running container.

use std::io;

use rustix::termios::isatty;

use crate::cli::Attach;
use crate::error::{Error, Result};
use crate::solo::directory::{Layout, Status};
use crate::solo::relay::Signals;
use crate::solo::session::{Manner, Session};
use crate::solo::verb::{not_running, run, unwatched};

/// Attaches. Returns the container's exit code, or 0 after detaching.
pub(crate) fn attach(layout: &Layout, attach: &Attach) -> Result<u8> {
    let name = &attach.name;
    let directory = layout.find(name)?;
    let options = directory.options()?;
    match directory.status()? {
        Status::Running { watched: true, .. } | Status::Restarting(_) => {}
        Status::Running { .. } => return Err(unwatched(name)),
        Status::Starting => {
            return Err(Error::other(format!("container {name} is just being started: try again")));
        }
        Status::Exited(_) | Status::Lost => return Err(not_running(name)),
    }
    // Whether or not it takes input: as in Docker, only --no-stdin says that none is meant to come.
    if options.terminal && !attach.no_stdin && !isatty(io::stdin()) {
        return Err(Error::invalid("the input device is not a TTY: use --no-stdin to attach without input"));
    }
    let session = Session::connect(&directory, true)?.ok_or_else(|| not_running(name))?;
    let keys = attach.detach_keys.clone().or(options.detach_keys);
    let manner = Manner { terminal: options.terminal, stdin: options.stdin && !attach.no_stdin, keys };
    run::follow(&directory, session, &Signals::take(attach.sig_proxy)?, manner)
}
