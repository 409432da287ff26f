//! Stopping and resuming all processes of a container at once.

use super::{Cgroup, file};
use crate::error::{At, Error, Result};
use rustix::io::Errno;
use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

/// A process in an uninterruptible sleep does not stop; runc gives up after the same time.
const PATIENCE: Duration = Duration::from_secs(10);
/// v1 has no event to wait for: the state is looked at again after this time.
const PAUSE: Duration = Duration::from_millis(1);

impl Cgroup {
    /// Stops all processes, and returns when they have stopped. Where they do not, they go on and this is an error.
    pub fn freeze(&self) -> Result<()> {
        let (dir, v2) = self.freezer()?;
        let frozen = if v2 { freeze_v2(dir) } else { freeze_v1(dir) };
        if !matches!(frozen, Ok(true)) {
            // Half frozen is worse than not: whoever waits for one of these processes would wait for good.
            let _ = self.thaw();
        }
        if frozen.at("freeze")? {
            return Ok(());
        }
        Err(Error::other(format!("the processes did not stop within {} s", PATIENCE.as_secs())).at("freeze"))
    }

    /// Resumes all processes.
    pub fn thaw(&self) -> Result<()> {
        let (dir, v2) = self.freezer()?;
        let (file, value) = if v2 { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        match file::write(dir, file, value) {
            // What is gone does not stand still.
            Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            result => result.at_with(|| format!("write {file} {value:?}")),
        }
    }

    /// Whether the container was frozen; one that stands still because of a cgroup above it was not, and one that is gone
    /// was not either.
    pub fn is_frozen(&self) -> Result<bool> {
        self.freezer().map_or(Ok(false), |(dir, v2)| is_frozen(dir, v2))
    }

    fn freezer(&self) -> Result<(BorrowedFd<'_>, bool)> {
        if let Some(dir) = self.dir_of("freezer") {
            return Ok((dir, self.placement().mode == super::Mode::V2));
        }
        // Hybrid, with the freezer of v1 not mounted.
        let unified = self.v2_dir().map(|dir| (dir, true));
        unified.ok_or_else(|| {
            Error::other("the container has no freezer cgroup: mount the freezer hierarchy or cgroup v2")
        })
    }
}

/// Whether this very cgroup was frozen.
pub(super) fn is_frozen(dir: BorrowedFd<'_>, v2: bool) -> Result<bool> {
    let (file, frozen) = if v2 { ("cgroup.freeze", "1") } else { ("freezer.self_freezing", "1") };
    match file::read_short(dir, file) {
        Ok(text) => Ok(text.trim() == frozen),
        // A kernel before 5.2, or a cgroup that has gone.
        Err(Errno::NOENT | Errno::NODEV) => Ok(false),
        Err(errno) => Err(Error::from(errno).at(format!("read {file}"))),
    }
}

fn freeze_v2(dir: BorrowedFd<'_>) -> Result<bool> {
    file::write(dir, "cgroup.freeze", "1").at("write cgroup.freeze \"1\"")?;
    file::await_event(dir, "frozen 1", PATIENCE).at("wait for cgroup.events")
}

fn freeze_v1(dir: BorrowedFd<'_>) -> Result<bool> {
    let until = Instant::now() + PATIENCE;
    loop {
        // Again each time: processes that came in meanwhile are frozen by the write only.
        file::write(dir, "freezer.state", "FROZEN").at("write freezer.state \"FROZEN\"")?;
        if file::read_short(dir, "freezer.state").at("read freezer.state")?.trim() == "FROZEN" {
            return Ok(true);
        }
        let now = Instant::now();
        if now >= until {
            return Ok(false);
        }
        file::wait(&mut [], now + PAUSE)?;
    }
}
