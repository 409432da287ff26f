//! The one system call that no safe crate has. Everything else in imgtool is safe code.

#![allow(unsafe_code, reason = "a system call without a wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::libc;

/// Lets a mount, which nobody else has seen yet, show the owners of files as the user namespace has them.
pub(crate) fn map_owners(mount: impl AsFd, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    // SAFETY: the path is null-terminated, `attr` lives across the call and has the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
