//! Collecting dead processes by pidfd, and sweeping orphans that nobody else will collect.
//!
//! A shim is a subreaper: everything that a runtime leaves behind becomes its child. A process that the shim knows is
//! waited for through its pidfd only. An unknown one is swept, but never while a runtime is still at work: between
//! "the runtime has started a process" and "the shim has read its pid file", that process may already be a zombie, and
//! its status must stay there until it is asked for. A zombie keeps its pid, so no pid can be reused in between.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, pidfd_open, waitid, waitpid,
};

use crate::error::{Context, Error, Result};

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code, or 128 plus the signal's number.
    pub(crate) status: u32,
    /// The signal that ended the process, if one did.
    pub(crate) signal: Option<u32>,
    /// When the shim learned of it.
    pub(crate) at: SystemTime,
}

/// The status reported when the kernel no longer tells (the process was not the shim's child).
const STATUS_UNKNOWN: u32 = 255;

impl Exit {
    /// An end whose cause nobody can tell any more.
    pub(crate) fn unknown() -> Self {
        Self {
            status: STATUS_UNKNOWN,
            signal: None,
            at: SystemTime::now(),
        }
    }

    /// A death by `signal`.
    pub(crate) fn by_signal(signal: u32) -> Self {
        Self {
            status: 128 + signal,
            signal: Some(signal),
            at: SystemTime::now(),
        }
    }
}

/// Opens a pidfd for `pid`, which may already be a zombie.
pub(crate) fn open(pid: u32) -> Result<OwnedFd> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = raw.ok_or_else(|| Error::other(format!("pid {pid} is not a process id")))?;
    pidfd_open(pid, PidfdFlags::NONBLOCK).context(|| format!("open a pidfd of process {pid}"))
}

/// Collects the process behind `pidfd`. `None` means that it still lives.
pub(crate) fn collect(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match waitid(WaitId::PidFd(pidfd), options) {
        Ok(None) | Err(Errno::AGAIN) => Ok(None),
        Ok(Some(status)) => {
            let signal = status.terminating_signal().map(|signal| signal as u32);
            let code = status.exit_status().map(|code| code as u32);
            Ok(Some(match (code, signal) {
                (Some(code), _) => Exit {
                    status: code,
                    signal: None,
                    at: SystemTime::now(),
                },
                (None, Some(signal)) => Exit::by_signal(signal),
                (None, None) => Exit::unknown(),
            }))
        }
        // Not our child: its parent collects the status, we only learn of the end.
        Err(Errno::CHILD) => Ok(has_ended(pidfd)?.then(Exit::unknown)),
        Err(errno) => Err(errno).context(|| "wait for a process"),
    }
}

/// Whether the process behind `pidfd` has ended, without collecting it.
pub(crate) fn has_ended(pidfd: impl AsFd) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let ready = poll(&mut fds, Some(&now)).context(|| "poll a pidfd")?;
    Ok(ready > 0)
}

/// Collects every dead child that `known` does not claim. Call it only while no runtime is at work.
pub(crate) fn sweep(known: impl Fn(u32) -> bool) {
    // Without the list nothing is lost but a few process table entries, which init takes over in the end.
    let Ok(children) = std::fs::read_to_string("/proc/thread-self/children") else {
        return;
    };
    let pids = children
        .split_ascii_whitespace()
        .filter_map(|word| word.parse::<i32>().ok());
    for pid in pids
        .filter(|&pid| !known(pid as u32))
        .filter_map(Pid::from_raw)
    {
        let _: rustix::io::Result<_> = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

#[cfg(test)]
#[expect(
    clippy::zombie_processes,
    reason = "collecting them by pidfd is what is tested"
)]
mod tests {
    use super::*;
    use std::process::Command;

    fn wait(pidfd: &OwnedFd) -> Exit {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None).unwrap();
        collect(pidfd.as_fd())
            .unwrap()
            .expect("the pidfd is readable")
    }

    #[test]
    fn exit_codes_and_signals_are_told_apart() {
        for (script, status, signal) in [
            ("exit 0", 0, None),
            ("exit 7", 7, None),
            ("kill -9 $$", 137, Some(9)),
            ("kill -40 $$", 168, Some(40)),
        ] {
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let exit = wait(&open(child.id()).unwrap());
            assert_eq!((exit.status, exit.signal), (status, signal), "{script}");
        }
    }

    #[test]
    fn a_zombie_can_still_be_opened_and_collected() {
        let child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let first = open(child.id()).unwrap();
        while !has_ended(&first).unwrap() {
            std::thread::yield_now();
        }
        let late = open(child.id()).unwrap();
        assert_eq!(collect(late.as_fd()).unwrap().unwrap().status, 3);
    }

    #[test]
    fn a_sweep_leaves_known_children_alone() {
        let known = Command::new("true").spawn().unwrap();
        let orphan = Command::new("true").spawn().unwrap();
        let known_fd = open(known.id()).unwrap();
        let orphan_fd = open(orphan.id()).unwrap();
        while !(has_ended(&known_fd).unwrap() && has_ended(&orphan_fd).unwrap()) {
            std::thread::yield_now();
        }
        // Other tests' children must not be swept either.
        sweep(|pid| pid != orphan.id());
        assert_eq!(collect(known_fd.as_fd()).unwrap().unwrap().status, 0);
        assert_eq!(
            collect(orphan_fd.as_fd()).unwrap().unwrap().status,
            STATUS_UNKNOWN,
            "already collected"
        );
    }
}
