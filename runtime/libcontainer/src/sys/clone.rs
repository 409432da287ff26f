//! clone3(2).

use super::check;
use rustix::{
    fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    io::Result,
    process::Pid,
};

// `linux/sched.h`; libc's constants of these names do not fit their type.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The two returns of one [`clone3`].
pub(crate) enum Born {
    /// This is the new process.
    Child,
    /// This is the caller; the pidfd refers to the child even when its number is used again.
    Parent {
        /// As the caller's pid namespace numbers it.
        pid: Pid,
        pidfd: OwnedFd,
    },
}

/// Makes a process as fork(2) does, into the namespaces that `flags` (`CLONE_NEW*`, `CLONE_PARENT`) ask for and, if
/// given, into the cgroup whose directory `cgroup` is: joining at birth costs nothing, moving later costs milliseconds.
///
/// The caller must be single-threaded: the child gets a copy of every lock as it is.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Born> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // A sibling (CLONE_PARENT) inherits the signal; naming one is an error.
    args.exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` outlives the call and has its size; without CLONE_VM the child has its own copy of all memory, and
    // no stack is given, so both sides return here as from fork.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    Ok(match Pid::from_raw(pid as i32) {
        None => Born::Child,
        Some(pid) => {
            // SAFETY: the kernel stored a new descriptor, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Born::Parent { pid, pidfd }
        }
    })
}
