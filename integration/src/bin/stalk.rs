//! Runs a program, and kills it or what it makes right before one chosen step: the next moment's power cut, out-of-memory
//! killer or impatient administrator.
//!
//! ```text
//! stalk outside|inside N [--init PID] [--instead PID] [--all] -- PROGRAM ARGS...
//! ```
//!
//! A step is a system call that changes something which outlives the caller, or that waits for another process; reading,
//! memory, and what goes with the process (its descriptors, detached mounts) do not count, so that killing before each
//! step sees every state that a kill at any moment can leave. `outside` is the program itself; `inside` is what it makes with
//! clone, or the process of `--init`, each with its own count from 0. With `--instead` that process is killed rather than the
//! one that was about to take the step. Prints one line, the name of the call before which it killed,
//! or `not reached`; ends when the program and whoever was killed have ended, with `--all` when all that they made has.
//! Whatever else lives goes on untraced.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a tracer that loses track fails its test loudly"
)]

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, exit};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Outside,
    Inside,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        // The other half: waits to be seized, and becomes the program.
        ["be", program, rest @ ..] => {
            raise(Signal::SIGSTOP).unwrap();
            let error = Command::new(program).args(rest).exec();
            eprintln!("stalk: {program}: {error}");
            ExitCode::from(127)
        }
        [side @ ("outside" | "inside"), n, flags @ ..] => {
            let end = flags.iter().position(|word| *word == "--").expect("-- before the program");
            let (flags, command) = (&flags[..end], &flags[end + 1..]);
            let pid = |name: &str| {
                let at = flags.iter().position(|word| *word == name)?;
                Some(Pid::from_raw(flags[at + 1].parse().unwrap()))
            };
            let side = if *side == "outside" { Side::Outside } else { Side::Inside };
            stalk(side, n.parse().unwrap(), pid("--init"), pid("--instead"), flags.contains(&"--all"), command)
        }
        _ => {
            eprintln!("usage: stalk outside|inside N [--init PID] [--instead PID] [--all] -- PROGRAM ARGS...");
            ExitCode::from(2)
        }
    }
}

fn stalk(side: Side, mut left: u64, init: Option<Pid>, instead: Option<Pid>, all: bool, command: &[&str]) -> ExitCode {
    // With `all`, orphans are ours to wait for.
    nix::sys::prctl::set_child_subreaper(all).unwrap();
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    let child = Command::new(std::env::current_exe().unwrap()).arg("be").args(command).spawn().unwrap();
    let program = Pid::from_raw(child.id() as i32);
    assert!(matches!(waitpid(program, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(..))));
    if let Some(init) = init {
        ptrace::seize(init, options).unwrap();
        // It is asleep in a call: only a stop makes it tell of the calls to come.
        ptrace::interrupt(init).unwrap();
    }
    // Seized and not attached: what is forked then begins without a SIGSTOP, which would outlive us.
    ptrace::seize(program, options).unwrap();
    kill(program, Signal::SIGCONT).unwrap();

    let (mut runs, mut killed, mut status) = (false, None, None);
    let mut alive = BTreeSet::from([program]);
    while all || status.is_none() || killed.is_some_and(|pid| alive.contains(&pid)) {
        let event = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => break,
            event => event.expect("wait"),
        };
        let pid = event.pid().expect("a process");
        // It may have been killed while it was stopped.
        let go_on = |signal: Option<Signal>| {
            let _ = if killed.is_some() { ptrace::cont(pid, signal) } else { ptrace::syscall(pid, signal) };
        };
        match event {
            WaitStatus::Exited(_, code) => {
                alive.remove(&pid);
                status = status.or((pid == program).then_some(code));
            }
            WaitStatus::Signaled(_, signal, _) => {
                alive.remove(&pid);
                status = status.or((pid == program).then_some(128 + signal as i32));
            }
            WaitStatus::PtraceSyscall(_) => {
                let on_side = if pid == program { side == Side::Outside } else { side == Side::Inside };
                if runs && killed.is_none() && on_side && enters_step(pid) {
                    if left == 0 {
                        println!("{}", name_of(pid));
                        alive.insert(pid);
                        killed = Some(instead.unwrap_or(pid));
                        kill(instead.unwrap_or(pid), Signal::SIGKILL).unwrap();
                        if instead.is_some() {
                            let _ = ptrace::cont(pid, None);
                        }
                        continue;
                    }
                    left -= 1;
                }
                go_on(None);
            }
            WaitStatus::PtraceEvent(_, _, event) => {
                runs |= pid == program && event == libc::PTRACE_EVENT_EXEC;
                go_on(None);
            }
            WaitStatus::Stopped(_, Signal::SIGCONT) if !runs => go_on(None),
            WaitStatus::Stopped(_, signal) => go_on(Some(signal)),
            _ => {}
        }
    }
    if killed.is_none() {
        println!("not reached");
    }
    // Tracing ends with us, for all that is left.
    exit(status.unwrap_or_default())
}

fn enters_step(pid: Pid) -> bool {
    ptrace::syscall_info(pid).is_ok_and(|info| info.op == ENTRY)
        && call(pid).is_some_and(|(number, flags)| is_step(number, flags))
}

/// The number of the call that a process enters, and its third argument, which are the flags of openat(2).
fn call(pid: Pid) -> Option<(libc::c_long, u64)> {
    let registers = ptrace::getregs(pid).ok()?;
    #[cfg(target_arch = "x86_64")]
    return Some((registers.orig_rax as libc::c_long, registers.rdx));
    #[cfg(target_arch = "aarch64")]
    return Some((registers.regs[8] as libc::c_long, registers.regs[2]));
}

fn name_of(pid: Pid) -> String {
    call(pid).map_or_else(|| "?".to_owned(), |(number, _)| format!("call {number}"))
}

/// Whether killing before this call can leave something else than killing before the next one.
fn is_step(number: libc::c_long, flags: u64) -> bool {
    if number == libc::SYS_openat {
        return flags & libc::O_CREAT as u64 != 0;
    }
    #[cfg(target_arch = "x86_64")]
    if [libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_poll, libc::SYS_arch_prctl]
        .contains(&number)
    {
        return false;
    }
    ![
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_lseek,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_statfs,
        libc::SYS_fstatfs,
        libc::SYS_getdents64,
        libc::SYS_getcwd,
        libc::SYS_readlinkat,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_openat2,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_memfd_create,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_fcntl,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_futex,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_set_tid_address,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_prlimit64,
        libc::SYS_sched_getaffinity,
        libc::SYS_uname,
        libc::SYS_umask,
        libc::SYS_ppoll,
        libc::SYS_prctl,
        libc::SYS_capget,
        libc::SYS_bpf,
        libc::SYS_exit_group,
    ]
    .contains(&number)
}
