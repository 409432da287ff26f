//! seccomp(2): loading of filters.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::{Errno, Result};

/// One instruction of classic BPF: `struct sock_filter` of `linux/filter.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// What to do.
    pub code: u16,
    /// Instructions to skip where a comparison holds.
    pub jt: u8,
    /// Instructions to skip where it fails.
    pub jf: u8,
    /// The instruction's constant.
    pub k: u32,
}

const _: () = assert!(size_of::<Insn>() == size_of::<libc::sock_filter>(), "the kernel reads one as the other");

/// Gives the calling thread one more filter, and returns its listener where the flags ask for one, close-on-exec.
pub(crate) fn set_filter(flags: u32, program: &[Insn]) -> Result<Option<OwnedFd>> {
    let len = program.len().try_into().map_err(|_| Errno::INVAL)?;
    // The kernel only reads the program, though the field is not const.
    let filter = program.as_ptr().cast_mut().cast();
    let fprog = libc::sock_fprog { len, filter };
    // SAFETY: `fprog` and the instructions that it points to, as many as it says, outlive the call and are only read.
    let value =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, ptr::from_ref(&fprog)) };
    let fd = super::check(value)?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 == 0 {
        return Ok(None);
    }
    // SAFETY: with this flag the call returns a new descriptor, which nobody else has.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
}

/// Whether the kernel knows these flags. No filter is loaded.
pub(crate) fn takes_flags(flags: u32) -> bool {
    // SAFETY: the kernel checks flags before it finds that there is no program at address 0.
    let value = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, ptr::null::<libc::sock_fprog>())
    };
    super::check(value) == Err(Errno::FAULT)
}
