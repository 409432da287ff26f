//! Waiting for what happens to a container: the kernel killing one of its processes for want of memory.

use super::{Cgroup, Mode, file};
use crate::error::{At, Result};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{OFlags, inotify},
    io::Errno,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Tells of processes that were killed because the container's memory was at its limit.
#[derive(Debug)]
pub struct OomWatch {
    /// Readable when something happened that may be one.
    wake: OwnedFd,
    /// The file that has the count, open.
    counter: OwnedFd,
    /// How many there were when we looked last.
    seen: u64,
    mode: Mode,
}

impl Cgroup {
    /// Watches from now on. None where the container has no memory controller.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        let Some(dir) = self.dir_of("memory") else { return Ok(None) };
        let name = match self.placement().mode {
            Mode::V1 => "memory.oom_control",
            Mode::V2 => "memory.events",
        };
        let counter = match file::open(dir, name, OFlags::RDONLY) {
            Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
            counter => counter.at_with(|| format!("open {name}"))?,
        };
        let wake = match self.placement().mode {
            Mode::V1 => eventfd_of(dir, counter.as_fd())?,
            Mode::V2 => inotify_of(counter.as_fd())?,
        };
        let mut watch = OomWatch { wake, counter, seen: 0, mode: self.placement().mode };
        watch.seen = watch.count().unwrap_or_default();
        Ok(Some(watch))
    }
}

/// cgroup v1's way (<https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>, "OOM Control").
fn eventfd_of(dir: BorrowedFd<'_>, counter: BorrowedFd<'_>) -> Result<OwnedFd> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).at("eventfd")?;
    let order = format!("{} {}", wake.as_raw_fd(), counter.as_raw_fd());
    file::write(dir, "cgroup.event_control", &order).at("write cgroup.event_control")?;
    Ok(wake)
}

/// Files of v2 are "modified" when what they would say has changed.
fn inotify_of(counter: BorrowedFd<'_>) -> Result<OwnedFd> {
    let wake = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).at("inotify_init")?;
    // By the descriptor: the path may be another container's by now.
    let path = format!("/proc/self/fd/{}", counter.as_raw_fd());
    inotify::add_watch(&wake, path, inotify::WatchFlags::MODIFY).at("watch memory.events")?;
    Ok(wake)
}

impl OomWatch {
    /// Whether the kernel has killed since the last call. To be called when [`AsFd`] is readable, and once more after the
    /// container's end: v2 tells of a change some milliseconds late.
    pub fn happened(&mut self) -> bool {
        let woken = self.drain();
        match self.count() {
            // Here the kernel tells before it kills and counts.
            Some(_) if self.mode == Mode::V1 => woken,
            Some(count) => std::mem::replace(&mut self.seen, count) < count,
            // The cgroup is gone, which wakes as well. systemd removes a scope with its last process: what the kernel counted
            // just before cannot be known then, and what woke may have been any of the file's lines.
            None => false,
        }
    }

    fn drain(&self) -> bool {
        let mut woken = false;
        let mut buffer = [0_u8; 512];
        // Nothing left is EAGAIN.
        while matches!(rustix::io::read(&self.wake, &mut buffer), Ok(1..)) {
            woken = true;
        }
        woken
    }

    fn count(&self) -> Option<u64> {
        let text = file::reread(self.counter.as_fd()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
