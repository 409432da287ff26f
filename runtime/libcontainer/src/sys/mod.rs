//! The system calls that rustix does not wrap, and the crate's only unsafe code: one wrapper a call, close-on-exec and
//! no-follow built in, errors as [`rustix::io::Errno`].
#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod seccomp;

use rustix::io::{Errno, Result};

/// A raw return value as a result: negative means `errno`.
fn check(value: libc::c_long) -> Result<libc::c_long> {
    if value < 0 {
        // The C library stored the error of the call just made on this thread.
        return Err(std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error));
    }
    Ok(value)
}
