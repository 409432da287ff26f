//! The system calls that rustix does not wrap, and the crate's only unsafe code: one wrapper a call, close-on-exec and
//! no-follow built in, errors as [`rustix::io::Errno`].
#![allow(unsafe_code)]

pub(crate) mod bpf;
mod clone;
#[cfg(target_arch = "x86_64")]
mod early;
mod exec;
mod mount;
mod namespace;
mod net;
mod sched;
pub(crate) mod seccomp;
mod signal;

pub(crate) use clone::{Born, clone3};
pub(crate) use exec::{CStringArray, borrow, close_all_but, close_range_cloexec, execve, execveat, exit};
pub(crate) use mount::{MountAttr, map_ids, mount_setattr};
pub(crate) use namespace::{setns, unshare};
pub(crate) use net::loopback_up;
pub(crate) use sched::{
    SchedAttr, cpu_affinity, join_session_keyring, set_cpu_affinity, set_io_priority, set_memory_policy,
    set_personality, set_scheduler,
};
pub use signal::{Signals, ignore_broken_pipes, send_signal};
pub(crate) use signal::{exit_on, signal_text, start_unblocked};

use rustix::io::{Errno, Result};

/// A raw return value as a result: negative means `errno`.
fn check(value: libc::c_long) -> Result<libc::c_long> {
    if value < 0 {
        // The C library stored the error of the call just made on this thread.
        return Err(std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error));
    }
    Ok(value)
}
