//! `shim kill`: sends a signal to a container's init.

use crate::error::Result;
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::frames::Type;
use crate::solo::say;
use crate::solo::session::Session;
use crate::solo::verb::not_running;

/// Sends the signal.
pub(crate) fn kill(layout: &Layout, name: &str, signal: u8) -> Result<()> {
    let directory = layout.find(name)?;
    if !matches!(directory.status()?, Status::Running { .. }) {
        return Err(not_running(name));
    }
    send(&directory, signal)?;
    say(name);
    Ok(())
}

/// Has the monitor send the signal, or the runtime if there is no monitor any more.
pub(crate) fn send(directory: &Directory, signal: u8) -> Result<()> {
    if let Some(mut session) = Session::connect(directory, false)? {
        return session.send(Type::Signal, &[signal]);
    }
    let runtime = directory.runtime(&directory.options()?);
    runtime
        .call("kill")
        .arg(&directory.name)
        .arg(signal.to_string())
        .run()
        .map(drop)
}
