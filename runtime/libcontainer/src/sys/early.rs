//! The first instructions of the program `runtime` on x86-64, before the C library's.
//!
//! What enters a container starts anew from a protected copy of the program ([`crate::outside::own_binary`]). The C library
//! begins by asking the processor some fifty questions (CPUID), and under a hypervisor each is an exit of a few
//! microseconds: asked twice they are a tenth of the time that a container takes. So the first of the two lives ends here,
//! by system calls alone. Whatever is not as expected is left to [`protect`](crate::outside::own_binary::protect), which
//! looks again in every case.
//!
//! Nothing works yet at this point: no thread-local storage, and none of the C library's functions, not even those that a
//! compiler puts in by itself to copy a structure or for a loop over bytes. Hence the static and the volatile reads.

use crate::outside::own_binary::ENTERING;
use std::{
    arch::{asm, global_asm},
    ffi::{c_char, c_long},
    mem::MaybeUninit,
    ptr,
};

const EXE: &std::ffi::CStr = c"/proc/self/exe";
/// `ST_RDONLY`, statfs(2).
const READ_ONLY: u64 = 1;
/// Where `struct statfs` has `f_flags`, and its size, in words.
const F_FLAGS: usize = 10;
const STATFS: usize = 15;

/// `struct mount_attr`: what to set, what to clear, propagation, user namespace.
static ATTR: [u64; 4] = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];

// The linker is told by `runtime/build.rs` that the program begins here.
global_asm!(
    ".globl tare_entry",
    ".type tare_entry, @function",
    "tare_entry:",
    // The stack as the kernel leaves it: argc, argv, a null, envp, a null (System V ABI, x86-64, "Process Initialization").
    "mov rdi, rsp",
    // `_start` gets what the kernel left in rdx; two words keep the stack aligned.
    "push rdx",
    "sub rsp, 8",
    "call {start_anew}",
    "add rsp, 8",
    "pop rdx",
    "jmp _start",
    start_anew = sym start_anew,
);

/// Returns where there is nothing to do, or where it does not work.
unsafe extern "C" fn start_anew(stack: *const usize) {
    // SAFETY: the kernel's own layout; nothing has changed it.
    let argc = unsafe { *stack };
    // SAFETY: behind it come `argc` strings and a null, then the environment.
    let argv = unsafe { stack.add(1) }.cast::<*const c_char>();
    // SAFETY: as above.
    let envp = unsafe { argv.add(argc + 1) };
    let mut enters = false;
    for i in 1..argc {
        // SAFETY: `i` is less than `argc`.
        let arg = unsafe { argv.add(i) };
        // SAFETY: as above.
        let arg = unsafe { *arg };
        // SAFETY: the kernel ends each string with a null.
        enters |= ENTERING.iter().any(|verb| unsafe { is(arg, verb.as_bytes()) });
    }
    if !enters {
        return;
    }
    let mut statfs = MaybeUninit::<[u64; STATFS]>::uninit();
    // SAFETY: the path ends in a null, the buffer is as large as the structure.
    let known = unsafe { call(libc::SYS_statfs, EXE.as_ptr() as usize, statfs.as_mut_ptr() as usize, 0, 0, 0) };
    if known != 0 {
        return;
    }
    // SAFETY: within the buffer.
    let flags = unsafe { statfs.as_ptr().cast::<u64>().add(F_FLAGS) };
    // SAFETY: the call has succeeded, and written it.
    if unsafe { ptr::read_volatile(flags) } & READ_ONLY != 0 {
        return;
    }
    let flags = libc::OPEN_TREE_CLONE as usize | libc::OPEN_TREE_CLOEXEC as usize;
    // SAFETY: the path ends in a null.
    let mount = unsafe { call(libc::SYS_open_tree, libc::AT_FDCWD as usize, EXE.as_ptr() as usize, flags, 0, 0) };
    if mount < 0 {
        return;
    }
    let (mount, nothing, here) = (mount as usize, c"".as_ptr() as usize, libc::AT_EMPTY_PATH as usize);
    let attr = (&raw const ATTR) as usize;
    // SAFETY: the path ends in a null, the structure has the size that is told.
    if unsafe { call(libc::SYS_mount_setattr, mount, nothing, here, attr, size_of_val(&ATTR)) } == 0 {
        // SAFETY: the strings and both arrays are the kernel's own, with nulls at their ends.
        unsafe { call(libc::SYS_execveat, mount, nothing, argv as usize, envp as usize, here) };
    }
    // SAFETY: it was opened here, and nobody else knows it.
    unsafe { call(libc::SYS_close, mount, 0, 0, 0, 0) };
}

/// Whether a C string is `text`.
///
/// # Safety
/// `string` ends in a null.
unsafe fn is(string: *const c_char, text: &[u8]) -> bool {
    let mut i = 0;
    loop {
        // SAFETY: not behind the null: the loop ends there.
        let byte = unsafe { string.add(i) };
        // SAFETY: as above.
        let byte = unsafe { ptr::read_volatile(byte) } as u8;
        if i == text.len() {
            return byte == 0;
        }
        if byte != text[i] {
            return false;
        }
        i += 1;
    }
}

#[allow(clippy::many_single_char_names, reason = "they mean what the call says")]
/// A system call; its result or the negative error.
///
/// # Safety
/// That call's own rules.
unsafe fn call(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result;
    // SAFETY: the kernel's calling convention; the rest is the caller's word.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}
