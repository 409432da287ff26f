//! Passes a step's connections on to an SSH agent, so that the agent's own socket, which is its owner's alone, stays where
//! it is.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::error::{Result, Step};

/// Listens at `socket` until the process ends.
pub(crate) fn relay(socket: &Path, agent: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket).with(|| socket.display().to_string())?;
    let agent: PathBuf = agent.to_owned();
    std::thread::Builder::new().name("ssh".into()).spawn(move || {
        for guest in listener.incoming().flatten() {
            let agent = agent.clone();
            // Without a thread for it the guest's connection ends: it is told so.
            let _ = std::thread::Builder::new().name("ssh".into()).spawn(move || drop(pass(&guest, &agent)));
        }
    })?;
    Ok(())
}

fn pass(guest: &UnixStream, agent: &Path) -> io::Result<()> {
    let host = UnixStream::connect(agent)?;
    let (from_guest, to_host) = (guest.try_clone()?, host.try_clone()?);
    let up = std::thread::Builder::new().name("ssh".into()).spawn(move || drop(stream(from_guest, to_host)))?;
    let result = stream(host, guest.try_clone()?);
    let _ = up.join();
    result
}

fn stream(mut from: UnixStream, mut to: UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return to.shutdown(Shutdown::Write),
            len => to.write_all(&buffer[..len])?,
        }
    }
}
