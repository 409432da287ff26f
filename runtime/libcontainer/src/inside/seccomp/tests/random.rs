//! Random profiles, whose programs must answer as [`reference`] does for every number near theirs.

use super::super::{Machine, compile_for};
use super::bpf::{Data, check, run};
use super::reference::{AARCH64, ARM, I386, Reading, X86_64};
use crate::random::Random;
use crate::spec::{Seccomp, SyscallArg, SyscallRule};

impl Random {
    fn value(&mut self) -> u64 {
        let value = match self.below(4) {
            0 => self.below(4) as u64,
            1 => u64::from(u32::MAX) - 1 + self.below(4) as u64,
            2 => (self.below(3) as u64) << 32 | self.below(3) as u64,
            _ => self.next(),
        };
        if self.below(8) == 0 { !value } else { value }
    }
}

const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];

const OPERATORS: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];

const EXTRA: [&str; 12] = [
    "socketcall",
    "ipc",
    "send",
    "recv",
    "break",
    "newfstatat",
    "fstatat",
    "set_tls",
    "listns",
    "rseq_slice_yield",
    "no_such_call",
    "futex_time64",
];

fn name(random: &mut Random) -> String {
    loop {
        let number = random.below(472);
        let name = match random.below(5) {
            0 => Some(random.pick(&EXTRA)),
            1 => syscalls::x86::Sysno::new(number).map(|call| call.name()),
            2 => syscalls::aarch64::Sysno::new(number).map(|call| call.name()),
            _ => syscalls::x86_64::Sysno::new(number).map(|call| call.name()),
        };
        if let Some(name) = name {
            return name.trim_start_matches("r#").into();
        }
    }
}

fn arg(random: &mut Random) -> SyscallArg {
    SyscallArg {
        index: random.below(6) as u32,
        value: random.value(),
        value_two: random.value(),
        op: random.pick(&OPERATORS).into(),
    }
}

/// Rules with conditions have one action in all: the reference does not say which of two that overlap counts.
fn profile(random: &mut Random) -> Seccomp {
    let default_action = random.pick(&ACTIONS[..7]).to_owned();
    let conditional = random.pick(&ACTIONS);
    let many = random.pick(&[2, 10, 60, 300]);
    let mut syscalls = Vec::new();
    for _ in 0..random.below(many) {
        let args: Vec<_> = (0..random.below(20).saturating_sub(15)).map(|_| arg(random)).collect();
        let action = if args.is_empty() { random.pick(&ACTIONS) } else { conditional };
        let names = (0..=random.below(4)).map(|_| name(random)).filter(|name| name != "write").collect();
        syscalls.push(SyscallRule { names, action: action.into(), errno_ret: Some(random.below(2) as u32 + 30), args });
        if syscalls.last().is_some_and(|rule| !rule.args.is_empty()) {
            // One action is one number too.
            syscalls.last_mut().unwrap().errno_ret = None;
        }
    }
    let architectures = ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_PPC64LE"];
    Seccomp {
        default_action,
        default_errno_ret: if random.below(2) == 0 { None } else { Some(38) },
        architectures: architectures.iter().filter(|_| random.below(2) == 0).map(|&name| name.into()).collect(),
        flags: None,
        listener_path: String::new(),
        listener_metadata: String::new(),
        syscalls,
    }
}

/// Argument values on both sides of what the profile compares with.
fn args(random: &mut Random, profile: &Seccomp) -> [u64; 6] {
    let values: Vec<u64> = profile
        .syscalls
        .iter()
        .flat_map(|rule| &rule.args)
        .flat_map(|arg| [arg.value, arg.value_two, arg.value_two & arg.value])
        .collect();
    std::array::from_fn(|_| {
        if values.is_empty() || random.below(4) == 0 {
            return random.value();
        }
        let value = random.pick(&values);
        match random.below(6) {
            0 => value.wrapping_add(1),
            1 => value.wrapping_sub(1),
            2 => value ^ 1 << random.below(64),
            3 => value & u64::from(u32::MAX),
            _ => value,
        }
    })
}

#[test]
fn programs_answer_as_the_plain_reading_of_their_profiles() {
    for seed in 1..=150_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let profile = profile(&mut random);
        for (machine, architectures) in
            [(Machine::X86, [X86_64, I386, AARCH64]), (Machine::Arm64, [AARCH64, ARM, X86_64])]
        {
            let program = match compile_for(&profile, machine) {
                Ok(filter) => filter.program,
                Err(error) => panic!("seed {seed}: {error}"),
            };
            check(&program);
            for (arch, x32) in architectures.into_iter().flat_map(|arch| [(arch, false), (arch, true)]) {
                if x32 && (machine, arch) != (Machine::X86, X86_64) {
                    continue;
                }
                let reading = Reading::of(&profile, machine, arch, x32);
                let bit = u32::from(x32) << 30;
                for number in (0..560).chain([0xf_0005, 0xf_0007, 1 << 29, 1 << 31, 0xbfff_ffff]) {
                    let data = Data { number: number | bit, arch, args: args(&mut random, &profile) };
                    let (expected, actual) = (reading.answer(&data), run(&program, &data).0);
                    assert_eq!(actual, expected, "seed {seed} {machine:?} {data:x?} {profile:#?}");
                }
            }
        }
    }
}
