//! Copies files and trees from descriptor to descriptor, with owners, modes, times and attributes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, futimens,
    mkdirat, mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};

use super::descent::{Descent, names};
use super::xattr;
use crate::error::{Error, Result, Step};

/// Copies the file `from_name`, which is no directory, to `to_name`, which must not exist. Gives the copy of a regular file.
pub(super) fn copy_file(from: impl AsFd, from_name: &[u8], to: impl AsFd, to_name: &[u8]) -> Result<Option<File>> {
    let stat = statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match kind {
        FileType::RegularFile => {
            let source = openat(&from, from_name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = openat(&to, to_name, flags, Mode::RUSR | Mode::WUSR)?;
            let (mut source, mut target) = (File::from(source), File::from(target));
            std::io::copy(&mut source, &mut target)?;
            // Owner before mode and attributes: chown clears setuid and file capabilities.
            fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
            fchmod(&target, mode)?;
            xattr::set_all(&target, &xattr::read_all(&source)?)?;
            futimens(&target, &times_of(&stat))?;
            return Ok(Some(target));
        }
        FileType::Symlink => symlinkat(readlinkat(&from, from_name, Vec::new())?, &to, to_name)?,
        FileType::Directory => return Err(Error::malformed("is a directory")),
        kind => mknodat(&to, to_name, kind, mode, stat.st_rdev)?,
    }
    chownat(
        &to,
        to_name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if kind != FileType::Symlink {
        chmodat(&to, to_name, mode, AtFlags::empty())?;
    }
    xattr::set_all_at(&to, to_name, &xattr::read_all_at(&from, from_name)?)?;
    utimensat(&to, to_name, &times_of(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(None)
}

/// Copies what is in the directory `from`, and the directory's own metadata, to the empty directory `to`. Other file
/// systems mounted below `from` are left out. The files' contents reach the disk: volumes begin so.
pub(crate) fn copy_tree(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let device = rustix::fs::fstat(from)?.st_dev;
    let (mut from, mut to) = (Descent::at(from.try_clone()?), Descent::at(to.try_clone()?));
    let mut levels = vec![copy_files(from.fd(), to.fd(), device)?];
    while let Some(directories) = levels.last_mut() {
        if let Some(name) = directories.pop() {
            let step = || String::from_utf8_lossy(&name).into_owned();
            mkdirat(to.fd(), name.as_slice(), Mode::RWXU).with(step)?;
            from.enter(&name).with(step)?;
            to.enter(&name).with(step)?;
            levels.push(copy_files(from.fd(), to.fd(), device).with(step)?);
            continue;
        }
        copy_directory(from.fd(), to.fd())?;
        levels.pop();
        if !levels.is_empty() {
            from.leave()?;
            to.leave()?;
        }
    }
    Ok(())
}

/// Copies all but the directories, whose names it gives.
fn copy_files(from: &OwnedFd, to: &OwnedFd, device: u64) -> Result<Vec<Vec<u8>>> {
    let mut directories = Vec::new();
    for name in names(from)? {
        let step = || String::from_utf8_lossy(&name).into_owned();
        let stat = statat(from, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).with(step)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            if let Some(copy) = copy_file(from, &name, to, &name).with(step)? {
                copy.sync_data().with(step)?;
            }
        } else if stat.st_dev == device {
            directories.push(name);
        } else {
            mkdirat(to, name.as_slice(), Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH).with(step)?;
        }
    }
    Ok(directories)
}

/// Makes a directory look as another one.
pub(crate) fn copy_directory(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    xattr::set_all(to, &xattr::read_all(from)?)?;
    futimens(to, &times_of(&stat))?;
    Ok(())
}

fn times_of(stat: &Stat) -> Timestamps {
    let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Copies the extended attributes that a layer may set.
pub(crate) fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    xattr::set_all(to, &xattr::read_all(from)?)
}
