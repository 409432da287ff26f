//! Processes as `/proc` shows them, and how to be sure that one is still the same.

use crate::error::{At, Error, Kind, Result};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::time::{Duration, Instant};

/// The fields of `/proc/<pid>/stat` that tell whether a process lives and which one it is (proc_pid_stat(5)).
struct Stat {
    state: u8,
    /// `PF_*` of the kernel's include/linux/sched.h.
    flags: u32,
    /// Clock ticks since boot.
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Result<Self> {
        let text = std::fs::read(format!("/proc/{pid}/stat")).at_with(|| format!("read /proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| Error::other(format!("/proc/{pid}/stat: not of the known form")))
    }

    /// The second field is a name in brackets, which the process chose: only what follows the last bracket counts.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let fields = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        // The state is the third field, the flags are the ninth, the start time is the twenty-second.
        let flags = fields.nth(5)?.parse().ok()?;
        let start_time = fields.nth(12)?.parse().ok()?;
        Some(Self { state, flags, start_time })
    }
}

/// When `pid` was born.
pub(crate) fn start_time(pid: i32) -> Result<u64> {
    Ok(Stat::read(pid)?.start_time)
}

/// Whether the process that was born at `start_time` as `pid` still runs; a zombie does not.
pub fn is_alive(pid: i32, start_time: u64) -> bool {
    pid > 0
        && Stat::read(pid).is_ok_and(|stat| stat.start_time == start_time && !matches!(stat.state, b'Z' | b'X' | b'x'))
}

/// Whether it has ended, or is on its way: the first process of a pid namespace stays until all others of it are reaped.
pub(crate) fn is_ending(pid: i32, start_time: u64) -> bool {
    const PF_EXITING: u32 = 4;
    !is_alive(pid, start_time) || Stat::read(pid).is_ok_and(|stat| stat.flags & PF_EXITING != 0)
}

/// A descriptor of the process that was born at `start_time` as `pid`: signals by it never reach another.
///
/// # Errors
/// [`Kind::NotRunning`] where it is gone.
pub fn open(pid: i32, start_time: u64) -> Result<OwnedFd> {
    let gone = || Error::new(Kind::NotRunning, "container not running");
    let number = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw);
    let pidfd = match number.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        None | Some(Err(Errno::SRCH)) => return Err(gone()),
        Some(opened) => opened.at("pidfd_open")?,
    };
    // Opened first, looked at second: whom it refers to cannot change any more.
    if is_alive(pid, start_time) { Ok(pidfd) } else { Err(gone()) }
}

/// Waits until the killed process is gone; it need not be a child. Not for ever: the first process of a pid namespace stays
/// until all others of it are reaped, by parents that may be outside.
pub fn wait_gone(pidfd: BorrowedFd<'_>) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const PATIENCE: Duration = Duration::from_secs(10);
    let until = Instant::now() + PATIENCE;
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            Ok(0) => {
                return Err(Error::other(format!(
                    "container init still running {} s after SIGKILL: has a process that was started in the container ended \
                     without its parent waiting for it?",
                    PATIENCE.as_secs()
                )));
            }
            polled => return polled.at("wait for the process").map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let text = b"7 (a) Z 1 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.flags, stat.start_time), (b'S', 6, 4242));
        assert!(Stat::parse(b"7 (a").is_none());
        assert!(Stat::parse(b"").is_none());
    }

    #[test]
    fn another_process_of_the_same_number_is_not_it() {
        let me = std::process::id() as i32;
        let born = start_time(me).unwrap();
        assert!(is_alive(me, born));
        assert!(open(me, born).is_ok());
        assert_eq!(open(me, born + 1).unwrap_err().kind(), Kind::NotRunning);
        for none in [0, -1, i32::MIN] {
            assert_eq!(open(none, 0).unwrap_err().kind(), Kind::NotRunning);
        }
    }
}
