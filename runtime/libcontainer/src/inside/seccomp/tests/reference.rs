//! What a profile means, evaluated as slowly and plainly as possible, call by call, to hold the compiler against.

use syscalls::{aarch64, arm, x86, x86_64};

use super::super::Machine;
use super::bpf::Data;
use crate::spec::{Seccomp, SyscallArg, SyscallRule};

pub(super) const X86_64: u32 = 0xc000_003e;
pub(super) const I386: u32 = 0x4000_0003;
pub(super) const AARCH64: u32 = 0xc000_00b7;
pub(super) const ARM: u32 = 0x4000_0028;

const X32: u32 = 1 << 30;
const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0;

/// Socket and System V IPC calls that i386 has by another call's first argument.
const CARRIED: [(&str, &[(&str, u64)]); 2] = [
    (
        "socketcall",
        &[
            ("socket", 1),
            ("bind", 2),
            ("connect", 3),
            ("listen", 4),
            ("accept", 5),
            ("getsockname", 6),
            ("getpeername", 7),
            ("socketpair", 8),
            ("send", 9),
            ("recv", 10),
            ("sendto", 11),
            ("recvfrom", 12),
            ("shutdown", 13),
            ("setsockopt", 14),
            ("getsockopt", 15),
            ("sendmsg", 16),
            ("recvmsg", 17),
            ("accept4", 18),
            ("recvmmsg", 19),
            ("sendmmsg", 20),
        ],
    ),
    (
        "ipc",
        &[
            ("semop", 1),
            ("semget", 2),
            ("semctl", 3),
            ("semtimedop", 4),
            ("msgsnd", 11),
            ("msgrcv", 12),
            ("msgget", 13),
            ("msgctl", 14),
            ("shmat", 21),
            ("shmdt", 22),
            ("shmget", 23),
            ("shmctl", 24),
        ],
    ),
];

/// A profile as calls of one convention see it.
pub(super) struct Reading<'a> {
    profile: &'a Seccomp,
    arch: u32,
    x32: bool,
    /// Whether the convention is the machine's at all, and whether the profile lists it.
    known: bool,
    newest: Option<u32>,
    /// A call's number, its rule, and the first argument of `socketcall` or `ipc` that carries the call.
    rules: Vec<(u32, &'a SyscallRule, Option<u64>)>,
}

impl<'a> Reading<'a> {
    /// Rules with conditions on one call must all have one action: what else holds depends on their order.
    pub(super) fn of(profile: &'a Seccomp, machine: Machine, arch: u32, x32: bool) -> Self {
        let listed = |name: &str| profile.architectures.iter().any(|listed| listed == name);
        let known = match (machine, arch) {
            (Machine::X86, X86_64) => !x32 || listed("SCMP_ARCH_X32"),
            (Machine::X86, I386) => listed("SCMP_ARCH_X86"),
            (Machine::Arm64, AARCH64) => true,
            (Machine::Arm64, ARM) => listed("SCMP_ARCH_ARM"),
            _ => false,
        };
        let mut this = Self { profile, arch, x32, known, newest: None, rules: Vec::new() };
        for rule in &profile.syscalls {
            for name in &rule.names {
                let own = number(name, arch, x32);
                this.newest = this.newest.max(own);
                if action(&rule.action, rule.errno_ret) == this.default() {
                    continue;
                }
                this.rules.extend(own.map(|number| (number, rule, None)));
                for (carrier, calls) in CARRIED {
                    let call = calls.iter().find(|(carried, _)| arch == I386 && carried == name);
                    let number = number(carrier, I386, false).unwrap();
                    this.rules.extend(call.map(|(_, first)| (number, rule, Some(*first))));
                }
            }
        }
        this
    }

    fn default(&self) -> u32 {
        action(&self.profile.default_action, self.profile.default_errno_ret)
    }

    /// The answer to a call of this convention.
    pub(super) fn answer(&self, data: &Data) -> u32 {
        let default = self.default();
        if !self.known {
            return if self.arch == X86_64 && data.number == u32::MAX { default } else { KILL };
        }
        let lets_through = matches!(default & 0x7fff_0000, ALLOW | 0x7ffc_0000 | 0x7ff0_0000);
        if !lets_through && self.newest.is_some_and(|newest| data.number > newest) {
            return ENOSYS;
        }
        let has_x32 = self.profile.architectures.iter().any(|listed| listed == "SCMP_ARCH_X32");
        if self.arch == X86_64 && data.number > X32 && !has_x32 {
            return KILL;
        }
        let wide = matches!(self.arch, X86_64 | AARCH64) && !self.x32;
        let rules = || self.rules.iter().filter(|(number, ..)| *number == data.number);
        // A mask without bits on registers of that width asks nothing.
        let idle = |arg: &SyscallArg| {
            arg.op == "SCMP_CMP_MASKED_EQ" && if wide { arg.value == 0 } else { arg.value.trailing_zeros() >= 32 }
        };
        if let Some((_, rule, _)) = rules().find(|(_, rule, carried)| carried.is_none() && holds(rule, &idle)) {
            return action(&rule.action, rule.errno_ret);
        }
        let rule = rules().find(|(_, rule, carried)| {
            let test = |arg: &SyscallArg| (carried.is_some() && arg.index == 0) || compare(arg, data, wide);
            holds(rule, &test) && carried.is_none_or(|call| data.args[0] as u32 == call as u32)
        });
        rule.map_or(default, |(_, rule, _)| action(&rule.action, rule.errno_ret))
    }
}

/// Whether all conditions hold, or any where two are on one argument.
fn holds(rule: &SyscallRule, test: &dyn Fn(&SyscallArg) -> bool) -> bool {
    let mut indexes: Vec<_> = rule.args.iter().map(|arg| arg.index).collect();
    indexes.sort_unstable();
    indexes.dedup();
    if indexes.len() < rule.args.len() { rule.args.iter().any(test) } else { rule.args.iter().all(test) }
}

fn compare(arg: &SyscallArg, data: &Data, wide: bool) -> bool {
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let (actual, value) = (cut(data.args[arg.index as usize]), cut(arg.value));
    match arg.op.as_str() {
        "SCMP_CMP_NE" => actual != value,
        "SCMP_CMP_LT" => actual < value,
        "SCMP_CMP_LE" => actual <= value,
        "SCMP_CMP_EQ" => actual == value,
        "SCMP_CMP_GE" => actual >= value,
        "SCMP_CMP_GT" => actual > value,
        "SCMP_CMP_MASKED_EQ" => actual & value == cut(arg.value_two) & value,
        other => panic!("{other}"),
    }
}

fn action(name: &str, data: Option<u32>) -> u32 {
    match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | data.unwrap_or(1),
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data.unwrap_or(1),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        other => panic!("{other}"),
    }
}

/// The call's number there, the x32 bit included.
pub(super) fn number(name: &str, arch: u32, x32: bool) -> Option<u32> {
    let newer = match name {
        "listns" => Some(470),
        "rseq_slice_yield" => Some(471),
        _ => None,
    };
    let name = if name == "break" { "r#break" } else { name };
    let number = newer.or_else(|| match arch {
        X86_64 => name.parse::<x86_64::Sysno>().ok().map(|call| call.id() as u32),
        I386 => name.parse::<x86::Sysno>().ok().map(|call| call.id() as u32),
        AARCH64 if name == "newfstatat" => Some(79),
        AARCH64 => name
            .parse::<aarch64::Sysno>()
            .ok()
            .map(|call| call.id() as u32)
            .filter(|number| name != "fstatat" && !(403..=423).contains(number)),
        ARM => match name {
            "breakpoint" => Some(0xf_0001),
            "cacheflush" => Some(0xf_0002),
            "usr26" => Some(0xf_0003),
            "usr32" => Some(0xf_0004),
            "set_tls" => Some(0xf_0005),
            "get_tls" => Some(0xf_0006),
            _ => name.parse::<arm::Sysno>().ok().map(|call| call.id() as u32),
        },
        _ => None,
    })?;
    if !x32 {
        return Some(number);
    }
    let own = match name {
        "uselib" | "_sysctl" | "create_module" | "get_kernel_syms" | "query_module" | "nfsservctl"
        | "set_thread_area" | "get_thread_area" | "epoll_ctl_old" | "epoll_wait_old" | "vserver" => return None,
        "rt_sigaction" => 512,
        "rt_sigreturn" => 513,
        "ioctl" => 514,
        "readv" => 515,
        "writev" => 516,
        "recvfrom" => 517,
        "sendmsg" => 518,
        "recvmsg" => 519,
        "execve" => 520,
        "ptrace" => 521,
        "rt_sigpending" => 522,
        "rt_sigtimedwait" => 523,
        "rt_sigqueueinfo" => 524,
        "sigaltstack" => 525,
        "timer_create" => 526,
        "mq_notify" => 527,
        "kexec_load" => 528,
        "waitid" => 529,
        "set_robust_list" => 530,
        "get_robust_list" => 531,
        "vmsplice" => 532,
        "move_pages" => 533,
        "preadv" => 534,
        "pwritev" => 535,
        "rt_tgsigqueueinfo" => 536,
        "recvmmsg" => 537,
        "sendmmsg" => 538,
        "process_vm_readv" => 539,
        "process_vm_writev" => 540,
        "setsockopt" => 541,
        "getsockopt" => 542,
        "io_setup" => 543,
        "io_submit" => 544,
        "execveat" => 545,
        "preadv2" => 546,
        "pwritev2" => 547,
        _ => number,
    };
    Some(X32 | own)
}
