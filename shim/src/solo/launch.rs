//! Starting a monitor for a container directory.

use std::env;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::directory::Directory;
use super::frames::Type;
use super::monitor;
use super::session::Session;
use crate::error::{Context, Error, Kind, Result};

/// Starts the container of `directory` under a monitor of its own. The session is the starter's: with `foreground` it
/// gets all output from the first byte on.
pub(crate) fn launch(directory: &Directory, foreground: bool) -> Result<Session> {
    let running = || {
        Error::new(
            Kind::FailedPrecondition,
            format!("container {} is running already", directory.name),
        )
    };
    let lock = directory.lock()?.ok_or_else(running)?;
    let (ours, theirs) = UnixStream::pair().context(|| "make a connection for the monitor")?;
    let mut session = Session::over(ours);
    session.send(Type::Hello, &[u8::from(foreground)])?;
    let executable = env::current_exe().context(|| "find my own executable")?;
    let mut command = Command::new(executable);
    command
        .arg0("shim")
        .arg(monitor::VERB)
        .arg(&directory.path)
        .arg(&directory.run)
        .current_dir("/");
    command
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(lock)
        .stderr(Stdio::null());
    // Nobody waits for it: it outlives us, or ends right before us.
    command
        .spawn()
        .context(|| "start the container's monitor")?;
    Ok(session)
}
