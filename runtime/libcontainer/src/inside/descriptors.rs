//! Open descriptors: which ones a container inherits, and that it inherits no others (CVE-2024-21626).
//!
//! The numbers from 3 that the caller wants to pass on are looked at before anything else is opened. So a number that the
//! caller did not open is refused, instead of being one of ours when the program starts.

use crate::{
    error::{At, Error, Kind, Result},
    inside::devices::clone_null,
    sys,
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
};

/// The first number after the standard streams.
const FIRST: i32 = 3;

/// Puts the null device where the caller has closed a standard stream: what is opened next would come to lie there, and be
/// written to as one. To be called first of all.
pub fn open_standard_streams() -> Result<()> {
    for number in 0..FIRST {
        if fcntl_getfd(sys::borrow(number)).is_err() {
            // The lowest number that is free, which is this one.
            let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
            std::mem::forget(null.at("open /dev/null")?);
        }
    }
    Ok(())
}

/// Makes sure that `keep` descriptors after standard error are open, and that nothing that the caller left open is
/// inherited by whatever is started. To be called before anything is opened.
///
/// # Errors
/// [`Kind::Invalid`] with the number that is not open.
pub fn claim(keep: u32) -> Result<()> {
    for number in numbers(keep)? {
        if fcntl_getfd(sys::borrow(number)).is_err() {
            let text = format!("file descriptor {number} is not open: pass {keep} of them, numbered from {FIRST}");
            return Err(Error::new(Kind::Invalid, text));
        }
    }
    sys::close_range_cloexec(FIRST).at("close_range")
}

/// Closes what the caller left open, but for `keep` descriptors and the log: an init that waits for `start` would hold it,
/// and who reads a pipe to its end would wait with it. To be called once the files that the caller named are read, which
/// may be such descriptors (`/dev/fd/63`), and before anything is opened for a container.
pub fn release(keep: u32, log: Option<BorrowedFd<'_>>) -> Result<()> {
    close_others(log.as_slice(), keep)
}

/// Lets the program that is about to run inherit `keep` descriptors after standard error, and no others.
pub(crate) fn hand_over(keep: u32) -> Result<()> {
    sys::close_range_cloexec(FIRST).at("close_range")?;
    for number in numbers(keep)? {
        let fd: BorrowedFd<'_> = sys::borrow(number);
        fcntl_setfd(fd, FdFlags::empty()).at_with(|| format!("keep descriptor {number}"))?;
    }
    Ok(())
}

/// Puts the container's own null device where a standard stream is the host's: its mount is the host's as well, which
/// `/proc/<pid>/fdinfo` tells the container, and which nobody can checkpoint; and through the descriptor root of the container
/// could change the owner and mode that it has for everybody. To be called in the container's root.
pub(crate) fn reopen_null() -> Result<()> {
    if !has_null() {
        return Ok(());
    }
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    match rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()) {
        Ok(null) if is_null(null.as_fd()) => replace_null(&null),
        // The container has none, or another.
        _ => Ok(()),
    }
}

/// The same for a container that may have hidden its own null device: the host's stays, by a mount that is read-only.
/// To be called while the host's files are still in sight.
pub(crate) fn seal_null() -> Result<()> {
    if !has_null() {
        return Ok(());
    }
    // Who may not do this has no container whose root the device belongs to.
    let Ok(mount) = clone_null() else { return Ok(()) };
    let own = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    replace_null(&rustix::fs::open(own, flags, rustix::fs::Mode::empty()).at("open the null device")?)
}

fn is_null(fd: BorrowedFd<'_>) -> bool {
    use rustix::fs::{FileType, fstat, makedev};
    fstat(fd).is_ok_and(|it| FileType::from_raw_mode(it.st_mode).is_char_device() && it.st_rdev == makedev(1, 3))
}

/// Whether a standard stream is a null device.
pub(crate) fn has_null() -> bool {
    null_streams() != [false; 3]
}

fn null_streams() -> [bool; 3] {
    use rustix::stdio::{stderr, stdin, stdout};
    [stdin(), stdout(), stderr()].map(is_null)
}

fn replace_null(null: &OwnedFd) -> Result<()> {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
    let replace = [dup2_stdin, dup2_stdout, dup2_stderr];
    for (replace, _) in replace.into_iter().zip(null_streams()).filter(|(_, is_null)| *is_null) {
        replace(null).at("put another null device in place of the host's")?;
    }
    Ok(())
}

/// Closes all but the standard streams, `keep` descriptors after them, and `needed`. Only where nothing else is owned, or
/// for a clone that never returns; if the log is among the others, such a clone must not write to it.
pub(crate) fn close_others(needed: &[BorrowedFd<'_>], keep: u32) -> Result<()> {
    let mut needed: Vec<i32> = needed.iter().map(AsRawFd::as_raw_fd).chain(0..FIRST).chain(numbers(keep)?).collect();
    sys::close_all_but(&mut needed).at("close_range")
}

fn numbers(keep: u32) -> Result<std::ops::Range<i32>> {
    let end = i32::try_from(keep).ok().and_then(|keep| FIRST.checked_add(keep));
    end.map(|end| FIRST..end).ok_or_else(|| Error::new(Kind::Invalid, format!("{keep} descriptors are too many")))
}
