//! Noticing that the kernel killed for want of memory, on cgroup v1 and v2, without polling.
//!
//! Version 2 says that one of several counters has changed: the one of kills is looked at. Version 1 speaks up before it
//! kills and counts, and once more when the cgroup is removed: what counts is that the cgroup is still there.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::cgroup::Cgroup;

/// A watch over one container's memory cgroup.
#[derive(Debug)]
pub(crate) struct OomWatch {
    /// Becomes readable when something happened.
    signal: OwnedFd,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The cgroup's directory.
    V1(PathBuf),
    /// The path of `memory.events`, and the number of kills when it was last looked at. A descriptor that is open all the
    /// time would tell no more: it says nothing once the cgroup is gone.
    V2(PathBuf, u64),
}

impl OomWatch {
    /// Watches the container whose cgroup this is. `None` means that the kernel offers nothing to watch.
    pub(crate) fn open(cgroup: &Cgroup) -> Option<Self> {
        if cgroup.unified { watch_v2(&cgroup.unified_dir()?) } else { watch_v1(cgroup.legacy_dir("memory")?) }
    }

    /// Forgets what made the watch readable, and tells whether there was a kill since it was last asked.
    pub(crate) fn check(&mut self) -> bool {
        let mut buffer = [0_u8; 4096];
        let mut signalled = false;
        while let Ok(length) = rustix::io::read(&self.signal, &mut buffer[..]) {
            signalled = true;
            // An eventfd is one number; inotify may have more.
            if length <= size_of::<u64>() {
                break;
            }
        }
        match &mut self.source {
            Source::V1(dir) => signalled && dir.exists(),
            Source::V2(counters, kills) => {
                let before = *kills;
                *kills = count(counters).unwrap_or(before);
                *kills > before
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.signal.as_raw_fd()
    }
}

/// `memory.events` changes with every event.
fn watch_v2(dir: &Path) -> Option<OomWatch> {
    let path = dir.join("memory.events");
    let signal = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    inotify::add_watch(&signal, &path, WatchFlags::MODIFY).ok()?;
    // A cgroup that was there before the container may have a past.
    let kills = count(&path)?;
    Some(OomWatch { signal, source: Source::V2(path, kills) })
}

/// An eventfd that the kernel is told of in `cgroup.event_control`.
fn watch_v1(dir: PathBuf) -> Option<OomWatch> {
    let control = File::open(dir.join("memory.oom_control")).ok()?;
    let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let registration = format!("{} {}", signal.as_raw_fd(), control.as_raw_fd());
    std::fs::write(dir.join("cgroup.event_control"), registration).ok()?;
    Some(OomWatch { signal, source: Source::V1(dir) })
}

fn count(counters: &Path) -> Option<u64> {
    kills(&std::fs::read_to_string(counters).ok()?)
}

/// The value of `oom_kill` in `memory.events`.
fn kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_told_from_other_events() {
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(kills("low 0\n"), None);
    }
}
