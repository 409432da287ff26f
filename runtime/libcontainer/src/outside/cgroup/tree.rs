//! A cgroup and the cgroups below it, which belong to the container: it may have made any number, at any depth.

use super::{Placement, file, kill};
use crate::error::{At, Error, Result};
use rustix::{
    fs::{AtFlags, Dir, FileType, OFlags, fstat, rmdir, unlinkat},
    io::Errno,
};
use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// For how long dying processes may keep a cgroup from being removed.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

/// Calls `enter` for the cgroup and each one below it, and `leave` for each one below it, with its parent, after those in
/// it. Holds one descriptor at a time, because the container chooses the depth; `..` is safe, because cgroups cannot move to
/// another parent.
fn walk(
    top: BorrowedFd<'_>,
    mut enter: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CString) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    enter(top)?;
    let mut current = open(top, ".")?;
    // For each level from the top: the cgroups still to visit, and the name of the one that is being visited.
    let mut waiting = vec![children(current.as_fd())?];
    let mut names: Vec<CString> = Vec::new();
    while let Some(siblings) = waiting.last_mut() {
        if let Some(name) = siblings.pop() {
            let next = match open(current.as_fd(), &name) {
                // Removed by the container meanwhile.
                Err(Errno::NOENT | Errno::NODEV) => continue,
                next => next?,
            };
            match enter(next.as_fd()) {
                Err(Errno::NOENT | Errno::NODEV) => continue,
                result => result?,
            }
            waiting.push(children(next.as_fd())?);
            names.push(name);
            current = next;
        } else {
            waiting.pop();
            if let Some(name) = names.pop() {
                current = open(current.as_fd(), "..")?;
                match leave(current.as_fd(), &name) {
                    Err(Errno::NOENT | Errno::NODEV) => {}
                    result => result?,
                }
            }
        }
    }
    Ok(())
}

fn open(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())
}

fn children(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    // A cgroup's directory has a link for itself, its name, and each child: most have none, and need not be listed.
    if fstat(dir)?.st_nlink == 2 {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_type() == FileType::Directory && ![c".", c".."].contains(&entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// The processes in a cgroup and below, as this process' pid namespace numbers them. A cgroup that is gone has none.
pub(super) fn pids(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    let result = walk(
        dir,
        |cgroup| {
            let text = match file::read(cgroup, "cgroup.procs") {
                // A threaded cgroup: its processes are in the list of the one above that is their domain.
                Err(Errno::OPNOTSUPP) => return Ok(()),
                text => text?,
            };
            // 0 is a process of another pid namespace: nothing that this one could do for it.
            pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &u32| pid != 0));
            Ok(())
        },
        |_, _| Ok(()),
    );
    match result {
        Err(Errno::NOENT | Errno::NODEV) => Ok(Vec::new()),
        result => result.map(|()| pids),
    }
}

impl Placement {
    /// Removes the container's cgroup and those below it from every hierarchy. What is missing is fine. Processes that are
    /// still dying are waited for, at most a second; live ones are an error.
    ///
    /// An empty cgroup goes with one call, so that this is also the fastest way to see that no process is left.
    pub fn remove(&self) -> Result<()> {
        // One that cannot be removed is no reason to leave the others.
        let until = patience();
        self.hierarchies.iter().map(|it| remove(&it.dir(), it.is_v2(), until)).fold(Ok(()), Result::and)
    }
}

impl Placement {
    /// Ends the container's scope, after [`Placement::remove`], where it has one.
    pub fn stop_unit(&self) -> Result<()> {
        self.unit.as_ref().map_or(Ok(()), super::systemd::Unit::stop)
    }
}

/// Until when removing may take, for all hierarchies together.
pub(super) fn patience() -> Instant {
    Instant::now() + PATIENCE
}

pub(super) fn remove(path: &Path, v2: bool, until: Instant) -> Result<()> {
    try_remove(path, v2, until).at_with(|| format!("remove cgroup {}", path.display()))
}

fn try_remove(path: &Path, v2: bool, until: Instant) -> Result<()> {
    loop {
        match rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => {}
            // A read-only mount says so even of what does not exist.
            Err(Errno::ROFS) if matches!(file::open_dir(path), Err(Errno::NOENT)) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let dir = match file::open_dir(path) {
            Err(Errno::NOENT) => return Ok(()),
            dir => dir?,
        };
        match walk(dir.as_fd(), |_| Ok(()), |parent, name| unlinkat(parent, name, AtFlags::REMOVEDIR)) {
            Ok(()) | Err(Errno::BUSY | Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(errno.into()),
        }
        match rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
        let pids = pids(dir.as_fd())?;
        let now = Instant::now();
        let emptied = if v2 {
            match file::await_event(dir.as_fd(), "populated 0", until.saturating_duration_since(now)) {
                // Somebody else has removed it meanwhile.
                Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
                emptied => emptied?,
            }
        } else if pids.is_empty() {
            // The last process is off the list already, and not yet off the books: v1 has no event for that.
            file::wait(&mut [], now + PAUSE)?;
            true
        } else {
            kill::await_exit(&pids, until)?
        };
        if now >= until || !emptied {
            return Err(match pids.len() {
                0 => Errno::BUSY.into(),
                count => Error::other(format!("{count} process(es) still in it; kill them first")),
            });
        }
    }
}
