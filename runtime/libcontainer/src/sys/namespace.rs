//! setns(2), for one namespace or, by a pidfd, for several at once; unshare(2).

use super::check;
use rustix::{
    fd::{AsRawFd, BorrowedFd},
    io::Result,
};

/// Moves the caller into the namespaces of `kinds` (`CLONE_NEW*`) that `fd`, a namespace's file or a pidfd, refers to.
pub(crate) fn setns(fd: BorrowedFd<'_>, kinds: u64) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds as libc::c_int) }.into()).map(drop)
}

/// Gives the caller new namespaces of `kinds` (`CLONE_NEW*`) of its own.
pub(crate) fn unshare(kinds: u64) -> Result<()> {
    // SAFETY: no pointers; namespaces only, the descriptor table stays shared with nobody.
    check(unsafe { libc::unshare(kinds as libc::c_int) }.into()).map(drop)
}
