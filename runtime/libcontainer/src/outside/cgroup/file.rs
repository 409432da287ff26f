//! Control files: each value is one write, each directory a descriptor.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::{Errno, Result, pread, read as read_fd, retry_on_intr, write as write_fd},
    path::Arg,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// Opens a cgroup's directory. Nothing on the way may be a symbolic link: mount points are kept as the kernel tells them,
/// and cgroup file systems have none.
pub(super) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    retry_on_intr(|| openat2(CWD, path, flags, Mode::empty(), resolve))
}

pub(super) fn open(dir: BorrowedFd<'_>, file: impl Arg + Copy, flags: OFlags) -> Result<OwnedFd> {
    retry_on_intr(|| openat(dir, file, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()))
}

/// The file's whole text. Lists of processes are longer than a page, and each read returns what is ready.
pub(super) fn read(dir: BorrowedFd<'_>, file: &str) -> Result<String> {
    let file = open(dir, file, OFlags::RDONLY)?;
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let count = retry_on_intr(|| read_fd(&file, &mut buffer))?;
        if count == 0 {
            return String::from_utf8(text).map_err(|_| Errno::ILSEQ);
        }
        text.extend(buffer.iter().take(count));
    }
}

/// The text of a file that is known to be one value or a few lines: a single read has it all.
pub(super) fn read_short(dir: BorrowedFd<'_>, file: impl Arg + Copy) -> Result<String> {
    reread(open(dir, file, OFlags::RDONLY)?.as_fd())
}

pub(super) fn reread(file: BorrowedFd<'_>) -> Result<String> {
    let mut buffer = [0u8; 1024];
    let count = retry_on_intr(|| pread(file, &mut buffer, 0))?;
    Ok(buffer.iter().take(count).map(|&byte| char::from(byte)).collect())
}

pub(super) fn write(dir: BorrowedFd<'_>, file: &str, value: &str) -> Result<()> {
    put(open(dir, file, OFlags::WRONLY)?.as_fd(), value)
}

/// One write a line: the kernel parses one setting a call.
pub(super) fn write_lines<'a>(dir: BorrowedFd<'_>, file: &str, lines: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let file = open(dir, file, OFlags::WRONLY)?;
    lines.into_iter().try_for_each(|line| put(file.as_fd(), line))
}

fn put(file: BorrowedFd<'_>, value: &str) -> Result<()> {
    match retry_on_intr(|| write_fd(file, value.as_bytes()))? {
        count if count == value.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Waits until v2's `cgroup.events` has this line, at most for `patience`. Tells whether it came.
pub(super) fn await_event(dir: BorrowedFd<'_>, line: &str, patience: Duration) -> Result<bool> {
    let events = open(dir, "cgroup.events", OFlags::RDONLY)?;
    let until = Instant::now() + patience;
    loop {
        // Reading also tells the kernel which change has been seen, so that none between here and poll is lost.
        if has_line(&reread(events.as_fd())?, line) {
            return Ok(true);
        }
        if !wait(&mut [PollFd::new(&events, PollFlags::PRI)], until)? {
            return Ok(false);
        }
    }
}

/// Polls until the time is up. Tells whether anything happened.
pub(super) fn wait(on: &mut [PollFd<'_>], until: Instant) -> Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(on, Timespec::try_from(left).ok().as_ref()) {
            Err(Errno::INTR) => {}
            count => return Ok(count? > 0),
        }
    }
}

pub(super) fn has_line(text: &str, line: &str) -> bool {
    text.lines().any(|it| it == line)
}
