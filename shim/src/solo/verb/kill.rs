//! `shim kill`: sends a signal to a container's init.

use crate::error::Result;
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::frames::Type;
use crate::solo::session::Session;
use crate::solo::verb::not_running;
use crate::solo::{say, signal};

const KILL: u8 = 9;

/// Sends the signal.
pub(crate) fn kill(layout: &Layout, name: &str, signal: u8) -> Result<()> {
    let directory = layout.find(name)?;
    if !matches!(directory.status()?, Status::Running { .. }) {
        return Err(not_running(name));
    }
    // Whoever kills does not want it back; other signals are news to the container.
    if signal == KILL || signal::parse(&directory.options()?.stop_signal).is_ok_and(|stop| stop == signal) {
        end(&directory, signal)?;
    } else {
        send(&directory, signal)?;
    }
    say(name);
    Ok(())
}

/// The same, and the container is not run again.
pub(crate) fn end(directory: &Directory, signal: u8) -> Result<()> {
    if end_by_monitor(directory, signal)? { Ok(()) } else { send(directory, signal) }
}

/// The same of one that may not run at the moment. False if it has no monitor, which alone would run it again.
pub(crate) fn end_by_monitor(directory: &Directory, signal: u8) -> Result<bool> {
    let Some(mut session) = Session::connect(directory, false)? else { return Ok(false) };
    session.send(Type::Stop, &[])?;
    session.send(Type::Signal, &[signal])?;
    Ok(true)
}

/// Has the monitor send the signal, or the runtime if there is no monitor any more.
pub(crate) fn send(directory: &Directory, signal: u8) -> Result<()> {
    if let Some(mut session) = Session::connect(directory, false)? {
        return session.send(Type::Signal, &[signal]);
    }
    let runtime = directory.runtime(&directory.options()?);
    runtime.call("kill").arg(&directory.name).arg(signal.to_string()).run().map(drop)
}
