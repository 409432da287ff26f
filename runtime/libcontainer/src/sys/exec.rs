//! execve(2) and what has to happen to descriptors before it.

use super::check;
use rustix::{
    fd::{AsRawFd, BorrowedFd, RawFd},
    io::{Errno, Result},
};
use std::ffi::{CStr, CString, c_char};

/// A null-terminated array of C strings, as `argv` and `envp` want it; made before the time when failing is awkward.
pub(crate) struct CStringArray {
    // Owns what `pointers` refer to.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStringArray {
    /// Refuses strings with a NUL inside.
    pub(crate) fn new<S: AsRef<[u8]>>(strings: &[S]) -> std::result::Result<Self, std::ffi::NulError> {
        let strings = strings.iter().map(|s| CString::new(s.as_ref())).collect::<std::result::Result<Vec<_>, _>>()?;
        // A CString's bytes are on the heap: moving the CString does not move them.
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { _strings: strings, pointers })
    }
}

/// Replaces the program; returns only on failure.
pub(crate) fn execve(path: &CStr, args: &CStringArray, env: &CStringArray) -> Errno {
    // SAFETY: all three are null-terminated and live across the call.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Replaces the program by the open file `program`; returns only on failure.
pub(crate) fn execveat(program: BorrowedFd<'_>, args: &CStringArray, env: &CStringArray) -> Errno {
    // SAFETY: both arrays and the empty path are null-terminated and live across the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_range_cloexec(first: RawFd) -> Result<()> {
    // SAFETY: only flags of descriptors change, none is closed under its owner.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes every descriptor but those of `needed`: those that nobody here owns, or, in a clone that does not return, copies
/// of descriptors which are somebody else's business. What owns a closed one there must not be used or dropped any more.
pub(crate) fn close_all_but(needed: &mut [RawFd]) -> Result<()> {
    needed.sort_unstable();
    let mut first = 0;
    for &fd in needed.iter().chain([&RawFd::MAX]) {
        if fd > first {
            // SAFETY: by the contract above nothing here uses a closed descriptor again.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Ends the process at once: in a clone, the copied program's own clean-up is not ours to run.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// A descriptor by its number, to ask for its flags or to change them.
pub(crate) fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number is not negative, and flags are all that is touched: of a closed one the kernel says so.
    unsafe { BorrowedFd::borrow_raw(number) }
}
