//! Signals to all processes of a container.

use super::{Cgroup, Mode, file, tree};
use crate::error::{At, Error, Result};
use rustix::{
    event::{PollFd, PollFlags},
    fd::AsFd,
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long killed processes may take; only one that the kernel cannot interrupt takes long.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Kills every process in the container's cgroup and below, and returns when none is left; one that its parent has not
    /// reaped yet does not count.
    pub fn kill_all(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let killed = match self.v2_dir() {
            Some(dir) => kill_v2(dir)?,
            None => false,
        };
        if self.placement().mode == Mode::V1 && self.dir_of("freezer").is_some() {
            // A process that v1 froze dies of nothing before it goes on.
            self.thaw()?;
        }
        if killed
            && let Some(dir) = self.v2_dir()
            && !await_empty(dir, until)?
        {
            return Err(survivors(dir));
        }
        if killed && self.placement().mode == Mode::V2 {
            return Ok(());
        }
        let Some(dir) = self.census() else { return Ok(()) };
        loop {
            let processes = Processes::of(dir).at("list the container's processes")?;
            if processes.0.is_empty() {
                return Ok(());
            }
            // A cgroup that stands still cannot fork faster than it is killed. Without a freezer the loop is all there is.
            let frozen = self.freeze().is_ok();
            let processes = Processes::of(dir).at("list the container's processes")?;
            let sent = processes.signal(libc::SIGKILL);
            if frozen {
                self.thaw()?;
            }
            sent?;
            if !processes.await_exit(until)? {
                return Err(survivors(dir));
            }
        }
    }

    /// Sends a signal to every process in the container's cgroup and below.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let Some(dir) = self.census() else { return Ok(()) };
        // While they stand still nobody can fork a child that the signal misses. One that was frozen stays so.
        let frozen = !self.is_frozen()? && self.freeze().is_ok();
        let sent = Processes::of(dir).at("list the container's processes").and_then(|it| it.signal(signal));
        if frozen {
            self.thaw()?;
        }
        sent
    }

    /// The processes in the container's cgroup and below. None where the cgroup is gone.
    pub fn pids(&self) -> Result<Vec<u32>> {
        self.census().map_or(Ok(Vec::new()), |dir| tree::pids(dir).at("read cgroup.procs"))
    }
}

fn survivors(dir: BorrowedFd<'_>) -> Error {
    let pids: Vec<String> = tree::pids(dir).unwrap_or_default().iter().map(u32::to_string).collect();
    let seconds = PATIENCE.as_secs();
    Error::other(format!("processes did not die within {seconds} s of SIGKILL: {}", pids.join(" "))).at("kill")
}

/// Tells whether the kernel has `cgroup.kill` (5.14). A cgroup that has gone is a killed one.
fn kill_v2(dir: BorrowedFd<'_>) -> Result<bool> {
    match file::write(dir, "cgroup.kill", "1") {
        Ok(()) | Err(Errno::NODEV) => Ok(true),
        // Before 5.14, threaded, or a cgroup that has gone: the general way does.
        Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(Error::from(errno).at("write cgroup.kill \"1\"")),
    }
}

fn await_empty(dir: BorrowedFd<'_>, until: Instant) -> Result<bool> {
    match file::await_event(dir, "populated 0", until.saturating_duration_since(Instant::now())) {
        Err(Errno::NOENT | Errno::NODEV) => Ok(true),
        empty => empty.at("wait for cgroup.events"),
    }
}

/// Processes of a cgroup by descriptors, so that a number that is used again cannot hit a stranger.
struct Processes(Vec<OwnedFd>);

impl Processes {
    fn of(dir: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let mut open = Vec::new();
        for pid in tree::pids(dir)? {
            open.extend(pidfd(pid)?.map(|fd| (pid, fd)));
        }
        if open.is_empty() {
            return Ok(Self(Vec::new()));
        }
        // A process may have died and its number gone to a stranger before it was opened: who is still in the list after
        // that is none.
        let still = tree::pids(dir)?;
        Ok(Self(open.into_iter().filter(|(pid, _)| still.contains(pid)).map(|(_, fd)| fd).collect()))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        self.0.iter().try_for_each(|fd| match crate::sys::send_signal(fd.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(Error::from(errno).at(format!("send signal {signal}"))),
        })
    }

    fn await_exit(&self, until: Instant) -> rustix::io::Result<bool> {
        for fd in &self.0 {
            if !file::wait(&mut [PollFd::new(fd, PollFlags::IN)], until)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Waits until these processes have exited. Tells whether they did in time.
pub(super) fn await_exit(pids: &[u32], until: Instant) -> rustix::io::Result<bool> {
    let open = pids.iter().filter_map(|&pid| pidfd(pid).transpose()).collect::<rustix::io::Result<_>>()?;
    Processes(open).await_exit(until)
}

/// None where the process is gone.
fn pidfd(pid: u32) -> rustix::io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}
