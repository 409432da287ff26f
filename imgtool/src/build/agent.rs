//! Passes a step's connections on to an SSH agent, so that the agent's own socket, which is its owner's alone, stays where
//! it is.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::error::{Result, Step};

/// Connections that are served at a time; each has two threads. Who opens more waits, as the step's others do.
const AT_A_TIME: usize = 64;

/// How many more there may be.
struct Places {
    free: Mutex<usize>,
    changed: Condvar,
}

/// One of them, until it is dropped.
struct Place(Arc<Places>);

impl Places {
    fn take(self: &Arc<Self>) -> Place {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Place(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}

/// Listens at `socket` until the process ends.
pub(crate) fn relay(socket: &Path, agent: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket).with(|| socket.display().to_string())?;
    let agent: PathBuf = agent.to_owned();
    let places = Arc::new(Places { free: Mutex::new(AT_A_TIME), changed: Condvar::new() });
    std::thread::Builder::new().name("ssh".into()).spawn(move || {
        loop {
            let place = places.take();
            let Ok((guest, _)) = listener.accept() else { continue };
            let agent = agent.clone();
            // Without a thread for it the guest's connection ends: it is told so.
            let _ = std::thread::Builder::new().name("ssh".into()).spawn(move || {
                let _place = place;
                let _ = pass(&guest, &agent);
            });
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads of this process that serve connections.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "ssh\n")).count()
    }

    #[test]
    fn a_step_that_opens_many_connections_makes_no_more_than_so_many_threads_and_all_are_served() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, agent) = (dir.path().join("socket"), dir.path().join("agent"));
        let listener = UnixListener::bind(&agent).unwrap();
        std::thread::spawn(move || {
            for mut guest in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while guest.read_exact(&mut byte).is_ok() && guest.write_all(&byte).is_ok() {}
                });
            }
        });
        relay(&socket, &agent).unwrap();
        let mut guests: Vec<UnixStream> = (0..AT_A_TIME + 40).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        let answered = |guest: &mut UnixStream| {
            guest.write_all(b"x").unwrap();
            let mut byte = [0];
            guest.read_exact(&mut byte).unwrap();
            byte == *b"x"
        };
        assert!(guests[..AT_A_TIME].iter_mut().all(answered));
        assert!(threads() <= 1 + 2 * AT_A_TIME, "{} threads", threads());
        // The places of those that end are others'.
        let mut waiting = guests.split_off(AT_A_TIME);
        drop(guests);
        assert!(waiting.iter_mut().all(answered));
    }
}
