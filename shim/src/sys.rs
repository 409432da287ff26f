//! The one system call that no safe crate has. Everything else in the shim is safe code.

#![allow(unsafe_code, reason = "a system call without a wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Maps the owners of all files of a tree of mounts, which nobody else has seen yet, into the user namespace. With
/// `readonly`, nothing can be written there.
pub(crate) fn map_owners(tree: impl AsFd, namespace: BorrowedFd<'_>, readonly: bool) -> io::Result<()> {
    let set = libc::MOUNT_ATTR_IDMAP | if readonly { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    // SAFETY: the path is null-terminated, `attr` lives across the call and has the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
