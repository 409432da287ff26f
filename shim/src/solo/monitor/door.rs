//! The monitor's listening socket: how many clients come in, and what happens when no more can.
//!
//! The socket is watched level-triggered, so one that cannot be accepted from must not be watched: the loop would spin.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::{Resource, getrlimit};

use super::serve::LISTENER;
use crate::error::{Context, Result};

/// Descriptors that clients do not get: the container's streams, the log, and what a call of the runtime and the record
/// of the end take. Without them the end of the container could not be recorded.
const SPARE: u64 = 32;
/// The most clients at a time, whatever the limit of descriptors.
const MOST: u64 = 1024;
/// How long after a failed accept the next is tried, if no client leaves before: the machine may be short of files.
const PATIENCE: Duration = Duration::from_secs(1);

/// A listening socket within an event loop.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    /// The most clients at a time. Others wait in the socket's queue.
    most: usize,
    /// When to try again after a failure.
    retry: Option<Instant>,
}

impl Door {
    /// Watches `listener` under the name [`LISTENER`].
    pub(super) fn new(listener: UnixListener, epoll: &OwnedFd) -> Result<Self> {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = descriptors.saturating_sub(SPARE).clamp(1, MOST) as usize;
        epoll::add(epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).context(|| "watch the socket")?;
        Ok(Self { listener, most, retry: None })
    }

    /// Lets in one client, if `present` leave room for it. If none can come in, the door is shut.
    pub(super) fn accept(&mut self, epoll: &OwnedFd, present: usize) -> Option<UnixStream> {
        if present >= self.most {
            self.watch(epoll, EventFlags::empty());
            return None;
        }
        match self.listener.accept() {
            Ok((stream, _)) => Some(stream),
            // Gone again.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) =>
            {
                None
            }
            Err(_) => {
                self.retry = Some(Instant::now() + PATIENCE);
                self.watch(epoll, EventFlags::empty());
                None
            }
        }
    }

    /// Opens the door again: a client has left, or it is time to try.
    pub(super) fn open(&mut self, epoll: &OwnedFd) {
        self.retry = None;
        self.watch(epoll, EventFlags::IN);
    }

    /// When the door is to be opened even though nobody has left.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Shuts the door for good.
    pub(super) fn close(&mut self, epoll: &OwnedFd) {
        self.retry = None;
        let _: rustix::io::Result<()> = epoll::delete(epoll, &self.listener);
    }

    fn watch(&self, epoll: &OwnedFd, flags: EventFlags) {
        let _: rustix::io::Result<()> = epoll::modify(epoll, &self.listener, EventData::new_u64(LISTENER), flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::Timespec;
    use rustix::event::epoll::{CreateFlags, Event};

    fn knocks(epoll: &OwnedFd) -> usize {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 4];
        epoll::wait(epoll, &mut events[..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap()
    }

    #[test]
    fn a_full_house_is_not_disturbed_until_somebody_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attach");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let mut door = Door::new(listener, &epoll).unwrap();
        door.most = 1;
        let _first = UnixStream::connect(&path).unwrap();
        let _second = UnixStream::connect(&path).unwrap();
        assert!(door.accept(&epoll, 0).is_some());
        assert_eq!(knocks(&epoll), 1, "the second waits");
        assert!(door.accept(&epoll, 1).is_none());
        assert_eq!(knocks(&epoll), 0, "the loop would spin");
        door.open(&epoll);
        assert_eq!(knocks(&epoll), 1);
        assert!(door.accept(&epoll, 0).is_some());
        assert!(door.accept(&epoll, 0).is_none(), "nobody is left");
        assert!(door.retry().is_none(), "which is no failure");
    }
}
