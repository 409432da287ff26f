//! Waiting for events, with a limit: the end of a process, the content of a file, a socket that answers. No polling by time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Whether the descriptor became readable in time.
pub fn readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout =
            rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}

/// Whether the process ended in time. One that is not there any more has ended.
pub fn exited(pid: i32, limit: Duration) -> bool {
    let Some(pid) = Pid::from_raw(pid) else {
        return true;
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => readable(fd.as_fd(), limit),
        Err(rustix::io::Errno::SRCH) => true,
        Err(e) => panic!("pidfd_open: {e}"),
    }
}

/// Whether the content of the file came to satisfy the test in time. The file's directory must exist.
pub fn file(path: &Path, limit: Duration, mut test: impl FnMut(&str) -> bool) -> bool {
    let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
    let what = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE;
    notify.add_watch(path.parent().expect("a directory"), what).expect("watch the directory");
    let end = Instant::now() + limit;
    loop {
        // After the watch is set, so that no change falls between the look and the wait.
        if std::fs::read(path).is_ok_and(|bytes| test(&String::from_utf8_lossy(&bytes))) {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !readable(notify.as_fd(), left) {
            return false;
        }
        while notify.read_events().is_ok() {}
    }
}

/// Whether the path came to exist (or, with `gone`, to be gone) in time. Its directory must exist.
pub fn exists(path: &Path, gone: bool, limit: Duration) -> bool {
    let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
    notify.add_watch(path.parent().expect("a directory"), AddWatchFlags::IN_ALL_EVENTS).expect("watch the directory");
    let end = Instant::now() + limit;
    loop {
        if path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) == gone {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !readable(notify.as_fd(), left) {
            return false;
        }
        while notify.read_events().is_ok() {}
    }
}

/// Tries until it succeeds or the time is over, `every` so often: for what gives no event, such as another program's
/// service becoming ready.
pub fn until<T>(every: Duration, limit: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = attempt() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        let pause =
            rustix::event::Timespec { tv_sec: every.as_secs() as i64, tv_nsec: i64::from(every.subsec_nanos()) };
        let _ = poll(&mut [], Some(&pause));
    }
}
