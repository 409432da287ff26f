//! The part that all our event loops on descriptors have in common.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::error::{Context, Result};

/// A time as system calls take it.
pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

/// Waits for events, at most for the time that is `left`: then there are none. Each has the name under which its
/// descriptor is watched. `None` means that a signal came first.
pub(crate) fn wait(epoll: &OwnedFd, left: Option<Duration>) -> Result<Option<Vec<(u64, EventFlags)>>> {
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 16];
    let count = match epoll::wait(epoll, &mut events[..], left.map(timespec).as_ref()) {
        Err(Errno::INTR) => return Ok(None),
        other => other.context(|| "wait for events")?,
    };
    Ok(Some(events[..count].iter().map(|event| (event.data.u64(), event.flags)).collect()))
}

/// Forgets which changes inotify tells: that there were some is all that matters.
pub(crate) fn forget_changes(changes: &impl AsFd) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(changes, &mut space);
    loop {
        match events.next() {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno).context(|| "read what has changed"),
        }
    }
}
