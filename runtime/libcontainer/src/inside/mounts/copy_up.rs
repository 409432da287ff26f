//! `tmpcopyup`: a new tmpfs starts with what the image has at its destination.

use crate::error::{At, Result};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid},
};
use std::ffi::CStr;

/// Deeper trees than this are not what the option is for, and the recursion has to end.
const MAX_DEPTH: usize = 64;

/// Copies directories, files, links and their owners and modes from `from` to `to`; other types are left out.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let from = reopen(from.as_fd())?;
    own(to.as_fd(), c"", AtFlags::EMPTY_PATH, &rustix::fs::fstat(&from)?)?;
    copy_entries(&from, to.as_fd(), MAX_DEPTH)
}

fn copy_entries(from: &OwnedFd, to: BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth == 0 {
        return Err(crate::Error::other(format!("the tree is deeper than {MAX_DEPTH} directories")));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(from, to, name, depth).at_with(|| name.to_string_lossy().into_owned())?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, mode)?;
            let source = rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::DIRECTORY | nofollow, Mode::empty())?;
            let target = rustix::fs::openat(to, name, OFlags::RDONLY | OFlags::DIRECTORY | nofollow, Mode::empty())?;
            copy_entries(&source, target.as_fd(), depth - 1)?;
        }
        FileType::RegularFile => {
            // Not blocking: the file may have become a fifo since it was looked at.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | nofollow;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | nofollow;
            let target = rustix::fs::openat(to, name, flags, mode)?;
            std::io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(target))?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, name)?;
        }
        _ => return Ok(()),
    }
    own(to, name, AtFlags::SYMLINK_NOFOLLOW, &stat)
}

/// The owner; and the mode again, because chown(2) clears set-id bits.
fn own(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags, stat: &Stat) -> Result<()> {
    rustix::fs::chownat(dir, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), flags)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {}
        _ if name.is_empty() => rustix::fs::fchmod(reopen(dir)?, mode)?,
        // What is in the new tmpfs was made here and is reached by nobody else yet.
        _ => rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?,
    }
    Ok(())
}

/// A place, opened to be read.
fn reopen(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, Mode::empty()).at("open the directory")
}
