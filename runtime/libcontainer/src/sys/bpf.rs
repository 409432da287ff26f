//! bpf(2): device filters of cgroup v2. The program sees the device and the access asked for, and answers whether it may be.
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html#device-controller>

use super::check;
use rustix::io::{Errno, Result};
use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of parents and of others on the same cgroup stay in force: each of them must allow.
const ALLOW_MULTI: u32 = 2;

/// The kernel's limit of programs on one cgroup and hook.
const MAX_PROGRAMS: usize = 64;

/// How often signals may come while a program is verified.
const ATTEMPTS: usize = 100;

/// The programs call no helper, so that any license would do.
const LICENSE: &CStr = c"Apache-2.0";

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insn {
    pub(crate) code: u8,
    /// The source register in the upper half, the destination in the lower.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// Has the kernel verify a device program.
pub(crate) fn load_device_program(program: &[Insn]) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
    }
    let attr = Attr {
        kind: PROG_TYPE_CGROUP_DEVICE,
        instructions: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        program: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
    };
    // The verifier gives up when a signal comes, and has to be asked again.
    for _ in 0..ATTEMPTS {
        // SAFETY: `program` and `LICENSE` outlive the call and have the lengths that `attr` tells.
        match unsafe { bpf(PROG_LOAD, &attr) } {
            Err(Errno::AGAIN) => {}
            done => return owned(done?),
        }
    }
    Err(Errno::AGAIN)
}

/// Puts a device program on a cgroup, beside those that are there.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let attr = Attach::new(cgroup, program, ALLOW_MULTI);
    // SAFETY: the attributes hold no pointer.
    unsafe { bpf(PROG_ATTACH, &attr) }.map(drop)
}

/// Takes a device program off a cgroup.
pub(crate) fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let attr = Attach::new(cgroup, program, 0);
    // SAFETY: the attributes hold no pointer.
    unsafe { bpf(PROG_DETACH, &attr) }.map(drop)
}

/// The device programs that are on this very cgroup.
pub(crate) fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    // Linux 6.17 and later write `revision` whatever size they are told: the structure must reach that far.
    #[repr(C)]
    struct Query {
        cgroup: RawFd,
        attach: u32,
        flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
        unused: [u64; 3],
        revision: u64,
    }
    #[repr(C)]
    struct ById {
        id: u32,
    }
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut query = Query {
        cgroup: cgroup.as_raw_fd(),
        attach: ATTACH_CGROUP_DEVICE,
        flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS as u32,
        padding: 0,
        unused: [0; 3],
        revision: 0,
    };
    // SAFETY: the kernel writes at most `count` ids to `ids`, and the answer to `query`, both of which are ours alone.
    unsafe { bpf_mut(PROG_QUERY, &mut query) }?;
    ids.iter()
        .take(query.count as usize)
        .map(|&id| {
            // SAFETY: the attributes hold no pointer.
            owned(unsafe { bpf(PROG_GET_FD_BY_ID, &ById { id }) }?)
        })
        .collect()
}

#[repr(C)]
struct Attach {
    cgroup: RawFd,
    program: RawFd,
    kind: u32,
    flags: u32,
}

impl Attach {
    fn new(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, flags: u32) -> Self {
        Self { cgroup: cgroup.as_raw_fd(), program: program.as_raw_fd(), kind: ATTACH_CGROUP_DEVICE, flags }
    }
}

/// # Safety
/// `attr` must be the attributes that `command` reads, with pointers that are valid for it.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> Result<libc::c_long> {
    // SAFETY: the caller vouches for the attributes; their size is told, and the kernel takes the rest for zero.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) })
}

/// # Safety
/// As [`bpf`], for a command that also writes to the attributes.
unsafe fn bpf_mut<T>(command: libc::c_long, attr: &mut T) -> Result<libc::c_long> {
    // SAFETY: the caller vouches for the attributes; their size is told.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) })
}

/// The kernel makes every bpf descriptor close-on-exec.
fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
