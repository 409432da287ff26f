//! `shim attach`: connects to a running container.

use crate::error::{Error, Result};
use crate::solo::directory::{Layout, Status};
use crate::solo::relay::Signals;
use crate::solo::session::Session;
use crate::solo::verb::{not_running, run, unwatched};

/// Attaches. Returns the container's exit code, or 0 after detaching.
pub(crate) fn attach(layout: &Layout, name: &str) -> Result<u8> {
    let directory = layout.find(name)?;
    let options = directory.options()?;
    match directory.status()? {
        Status::Running { watched: true, .. } => {}
        Status::Running { .. } => return Err(unwatched(name)),
        Status::Starting => {
            return Err(Error::other(format!("container {name} is just being started: try again")));
        }
        Status::Exited(_) | Status::Lost => return Err(not_running(name)),
    }
    let session = Session::connect(&directory, true)?.ok_or_else(|| not_running(name))?;
    run::follow(&directory, session, &Signals::take()?, options.terminal, options.stdin)
}
