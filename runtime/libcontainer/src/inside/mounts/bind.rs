//! Bind mounts: a detached copy of a part of a tree, with flags and ids of its own.

use super::{act::set, cover::clone_of, flags::Flags};
use crate::{
    error::{At, Error, Result},
    inside::root::Root,
    sys::{self, MountAttr, mount_setattr},
};
use libc::{MOUNT_ATTR_RDONLY, MS_RDONLY, MS_RELATIME};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, StatVfsMountFlags},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};
use std::path::Path;

/// A detached copy of the host's tree at `path`.
pub(crate) fn open_source(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).at_with(|| format!("open the source {}", path.display()))
}

/// A detached copy of what the container has at `path` by now.
pub(super) fn open_inner(root: &Root, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let place = root.open(path).at_with(|| format!("open the source {} within the root", path.display()))?;
    clone_of(place.as_fd(), recursive)
}

/// Gives the files of a detached mount the ids of `user_namespace`.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> Result<()> {
    sys::map_ids(mount, recursive, user_namespace).map_err(|errno| {
        let hint = match errno {
            Errno::INVAL => " (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
            Errno::PERM => " (it takes CAP_SYS_ADMIN over the file system, and mounts that have no mapping yet)",
            _ => "",
        };
        Error::from(errno).at(format!("failed to set MOUNT_ATTR_IDMAP{hint}"))
    })
}

/// Sets a detached bind mount's flags. With `locked`, or where the kernel has locked them, those of the source stay.
pub(super) fn apply(mount: BorrowedFd<'_>, flags: Flags, locked: bool) -> Result<()> {
    if !locked {
        match set(mount, false, flags.bind()) {
            Err(error) if error.errno() == Some(libc::EPERM) => {}
            done => return done,
        }
    }
    set(mount, false, flags.bind_locked(source_flags(mount, flags)?)?)
}

/// `MS_*` of the mount as it is.
fn source_flags(mount: BorrowedFd<'_>, wanted: Flags) -> Result<u64> {
    let statvfs = || rustix::fs::fstatvfs(mount).at("statvfs").map(|stat| stat.f_flag);
    let now = statvfs()?;
    // Most bits of statvfs(3) are those of mount(2).
    let mut flags = now.bits() & !StatVfsMountFlags::RELATIME.bits();
    if now.contains(StatVfsMountFlags::RELATIME) {
        flags |= MS_RELATIME;
    }
    if flags & MS_RDONLY != 0 && !wanted.has(MS_RDONLY) {
        // It may be the file system that is read-only and not the mount; then there is nothing to keep.
        let read_only = |set, clear| mount_setattr(mount, false, MountAttr { set, clear, ..MountAttr::default() });
        if read_only(0, MOUNT_ATTR_RDONLY).is_ok() {
            if statvfs()?.contains(StatVfsMountFlags::RDONLY) {
                flags &= !MS_RDONLY;
            } else {
                read_only(MOUNT_ATTR_RDONLY, 0)?;
            }
        }
    }
    Ok(flags)
}
