//! What a process asks the kernel about its own scheduling, personality and keys.

use super::check;
use rustix::{io::Result, process::Pid};

/// sched_setattr(2)'s argument; times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedAttr {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// The kernel's first published layout (`SCHED_ATTR_SIZE_VER0`).
#[repr(C)]
struct RawSchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the caller's scheduling policy.
pub(crate) fn set_scheduler(attr: SchedAttr) -> Result<()> {
    let SchedAttr { policy, flags, nice, priority, runtime, deadline, period } = attr;
    let size = size_of::<RawSchedAttr>() as u32;
    let raw = RawSchedAttr { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: `raw` lives across the call and tells its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) }).map(drop)
}

/// Sets the caller's I/O class and level, as ioprio_set(2) packs them.
pub(crate) fn set_io_priority(class: u16, level: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_SHIFT: u16 = 13;
    let value = libc::c_int::from(class << IOPRIO_CLASS_SHIFT | level);
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// Sets the caller's execution domain (`PER_LINUX`, `PER_LINUX32`).
pub(crate) fn set_personality(domain: u64) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_personality, domain) }).map(drop)
}

/// Lets `pid`, or the caller, run on the processors of a mask, lowest first. Those beyond the kernel's and the cgroup's are
/// passed over.
pub(crate) fn set_cpu_affinity(pid: Option<Pid>, mask: &[u64]) -> Result<()> {
    // SAFETY: the mask lives across the call and has the size given.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, Pid::as_raw(pid), size_of_val(mask), mask.as_ptr()) })
        .map(drop)
}

/// The processors that the caller may run on, as a mask.
pub(crate) fn cpu_affinity() -> Result<Vec<u64>> {
    // More processors than any kernel is made for.
    let mut mask = vec![0_u64; 1024];
    // SAFETY: the kernel writes at most the size given.
    let bytes =
        check(unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&*mask), mask.as_mut_ptr()) })?;
    mask.truncate((bytes as usize).div_ceil(size_of::<u64>()));
    Ok(mask)
}

/// Sets the caller's memory policy: a mode with its flags, and a mask of nodes.
pub(crate) fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<()> {
    let (mask, bits) =
        if nodes.is_empty() { (std::ptr::null(), 0) } else { (nodes.as_ptr(), size_of_val(nodes) * 8 + 1) };
    // SAFETY: the mask lives across the call; the kernel reads one bit less than it is told.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// Gives the caller a session keyring of its own, so that it cannot read the keys of whoever started it.
pub(crate) fn join_session_keyring(name: &std::ffi::CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is null-terminated.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}
