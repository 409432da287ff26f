//! mount_setattr(2).

use super::check;
use rustix::{
    fd::{AsRawFd, BorrowedFd},
    io::Result,
};

/// `struct mount_attr`: bits to set and to clear, and the propagation (`MS_PRIVATE`, …; 0 keeps it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
}

impl MountAttr {
    /// Changes nothing.
    pub(crate) const NONE: Self = Self { set: 0, clear: 0, propagation: 0 };
}

/// Has the mount `mount`, which must be attached nowhere, and with `recursive` all below it, show the ids of `user_namespace`.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let userns_fd = user_namespace.as_raw_fd() as u64;
    change(
        mount,
        recursive,
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd },
    )
}

/// Changes the mount that `mount` is the root of, and with `recursive` all below it.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: MountAttr) -> Result<()> {
    let MountAttr { set, clear, propagation } = attr;
    change(mount, recursive, libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 })
}

fn change(mount: BorrowedFd<'_>, recursive: bool, attr: libc::mount_attr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is null-terminated, `attr` lives across the call and has the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}
