//! One behaviour a test, on a profile that shows it.

use crate::spec::{SyscallArg, SyscallRule};

use super::super::{Filter, Machine, compile_for, known_actions, known_architectures, known_operators};
use super::bpf::{Data, run};
use super::profile;
use super::reference::{AARCH64, ARM, I386, X86_64, number};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0;
const X32: u32 = 1 << 30;

fn on_x86(json: &str) -> Filter {
    compile_for(&profile(json), Machine::X86).unwrap()
}

impl Filter {
    fn answer(&self, arch: u32, number: u32, args: &[u64]) -> u32 {
        let mut data = Data { number, arch, args: [0; 6] };
        data.args[..args.len()].copy_from_slice(args);
        run(&self.program, &data).0
    }

    fn call(&self, name: &str, args: &[u64]) -> u32 {
        self.answer(X86_64, number(name, X86_64, false).unwrap(), args)
    }
}

/// A profile that allows `lseek` on such arguments.
fn lseek(args: &str) -> Filter {
    on_x86(&format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{{"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": [{args}]}}]}}"#
    ))
}

fn refusal(json: &str) -> String {
    let error = compile_for(&profile(json), Machine::X86).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::Invalid);
    error.to_string()
}

#[test]
fn every_action_has_the_kernel_value_with_its_data() {
    for (name, errno_ret, value) in [
        ("SCMP_ACT_ALLOW", "5", ALLOW),
        ("SCMP_ACT_ERRNO", "null", EPERM),
        ("SCMP_ACT_ERRNO", "0", 0x0005_0000),
        ("SCMP_ACT_ERRNO", "65535", 0x0005_ffff),
        ("SCMP_ACT_KILL", "5", 0),
        ("SCMP_ACT_KILL_THREAD", "null", 0),
        ("SCMP_ACT_KILL_PROCESS", "null", 0x8000_0000),
        ("SCMP_ACT_TRAP", "5", 0x0003_0000),
        ("SCMP_ACT_TRACE", "null", 0x7ff0_0001),
        ("SCMP_ACT_TRACE", "7", 0x7ff0_0007),
        ("SCMP_ACT_LOG", "null", 0x7ffc_0000),
    ] {
        let filter = on_x86(&format!(
            r#"{{"defaultAction": "{name}", "defaultErrnoRet": {errno_ret},
                "syscalls": [{{"names": ["pivot_root"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}}]}}"#
        ));
        assert_eq!(filter.call("read", &[]), value, "{name} {errno_ret}");
        assert_eq!(filter.call("pivot_root", &[]), 0x0005_0063);
        let filter = on_x86(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99,
                "syscalls": [{{"names": ["pivot_root"], "action": "{name}", "errnoRet": {errno_ret}}}]}}"#
        ));
        assert_eq!(filter.call("pivot_root", &[]), value, "{name} {errno_ret}");
    }
}

#[test]
fn operators_compare_all_64_bits() {
    let big = 0x1_0000_0005;
    for (op, below, equal, above) in [
        ("SCMP_CMP_NE", true, false, true),
        ("SCMP_CMP_LT", true, false, false),
        ("SCMP_CMP_LE", true, true, false),
        ("SCMP_CMP_EQ", false, true, false),
        ("SCMP_CMP_GE", false, true, true),
        ("SCMP_CMP_GT", false, false, true),
    ] {
        let filter = lseek(&format!(r#"{{"index": 3, "value": {big}, "op": "{op}"}}"#));
        let allows = |value: u64| filter.call("lseek", &[0, 0, 0, value]) == ALLOW;
        for value in [0, 5, 6, u64::from(u32::MAX), big - 1, 0x1_0000_0000] {
            assert_eq!(allows(value), below, "{value:#x} {op}");
        }
        assert_eq!(allows(big), equal, "{op}");
        for value in [big + 1, 0x1_ffff_ffff, 0x2_0000_0000, 0x2_0000_0005, u64::MAX] {
            assert_eq!(allows(value), above, "{value:#x} {op}");
        }
    }
}

#[test]
fn masks_look_at_their_bits_alone() {
    let filter = lseek(r#"{"index": 0, "value": 64424509455, "valueTwo": 4294967297, "op": "SCMP_CMP_MASKED_EQ"}"#);
    for (value, answer) in [
        (0x1_0000_0001, ALLOW),
        (0xffff_fff1_ffff_fff1, ALLOW),
        (0x1_0000_0000, EPERM),
        (0x0_0000_0001, EPERM),
        (0x3_0000_0001, EPERM),
    ] {
        assert_eq!(filter.call("lseek", &[value]), answer, "{value:#x}");
    }
    // A mask within one half, and none.
    let filter = lseek(r#"{"index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}"#);
    assert_eq!(filter.call("lseek", &[0xff_0000_0001]), ALLOW);
    assert_eq!(filter.call("lseek", &[0xff_0000_0000]), EPERM);
    let filter = lseek(r#"{"index": 0, "value": 0, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}"#);
    assert_eq!(filter.call("lseek", &[7]), ALLOW);
}

#[test]
fn thirty_two_bit_calls_are_compared_by_their_lower_half() {
    let filter = lseek(r#"{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}"#);
    // The upper half of a register that `int 0x80` came with from 64-bit code must not make 40 another number.
    assert_eq!(filter.answer(I386, 19, &[0xdead_0000_0028]), EPERM);
    assert_eq!(filter.answer(X86_64, X32 | 8, &[0xdead_0000_0028]), EPERM);
    assert_eq!(filter.answer(X86_64, 8, &[0xdead_0000_0028]), ALLOW);
}

#[test]
fn conditions_of_a_rule_hold_together_and_those_on_one_argument_apart() {
    let both = lseek(r#"{"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_GE"}"#);
    assert_eq!(both.call("lseek", &[2, 1]), ALLOW);
    assert_eq!(both.call("lseek", &[1, 1]), EPERM);
    assert_eq!(both.call("lseek", &[2, 2]), EPERM);
    let either = lseek(
        r#"{"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"},
        {"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}"#,
    );
    for args in [[0, 1], [0, 2], [9, 0]] {
        assert_eq!(either.call("lseek", &args), ALLOW);
    }
    assert_eq!(either.call("lseek", &[0, 0]), EPERM);
}

#[test]
fn a_rule_without_conditions_goes_before_others_and_the_first_of_them_counts() {
    let filter = on_x86(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["lseek"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["lseek", "read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["lseek"], "action": "SCMP_ACT_TRAP"},
            {"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(filter.call("lseek", &[1]), ALLOW);
    assert_eq!(filter.call("read", &[1]), ALLOW);
}

#[test]
fn tighter_bounds_are_asked_first_in_any_order() {
    for order in [[10, 100], [100, 10]] {
        let rules = order.map(|value| {
            format!(
                r#"{{"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": {value},
                    "args": [{{"index": 0, "value": {value}, "op": "SCMP_CMP_GT"}}]}}"#
            )
        });
        let filter = on_x86(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#, rules.join(",")));
        for (value, answer) in [(5, ALLOW), (50, 0x0005_000a), (500, 0x0005_0064)] {
            assert_eq!(filter.call("lseek", &[value]), answer, "{order:?}");
        }
    }
}

#[test]
fn unlisted_architectures_kill_and_the_native_one_is_always_listed() {
    let filter = on_x86(r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}"#);
    assert_eq!(filter.answer(X86_64, 0, &[]), ALLOW);
    assert_eq!(filter.answer(I386, 3, &[]), KILL);
    assert_eq!(filter.answer(AARCH64, 3, &[]), KILL);
    assert_eq!(filter.answer(X86_64, X32, &[]), KILL);
    // What a tracer makes of a call that it skips.
    assert_eq!(filter.answer(X86_64, u32::MAX, &[]), ALLOW);
    let filter = on_x86(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    for (arch, execve) in [(X86_64, 59), (I386, 11), (X86_64, X32 + 520)] {
        assert_eq!(filter.answer(arch, execve, &[]), EPERM);
        assert_eq!(filter.answer(arch, execve + 1, &[]), ALLOW);
    }
    assert_eq!(filter.answer(X86_64, X32 + 59, &[]), ALLOW, "x32 has another number for execve");
}

#[test]
fn arm64_and_arm_have_their_own_numbers() {
    let filter = compile_for(
        &profile(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
                "syscalls": [{"names": ["newfstatat", "fstatat64", "set_tls", "clock_gettime64"],
                    "action": "SCMP_ACT_ALLOW"}]}"#,
        ),
        Machine::Arm64,
    )
    .unwrap();
    assert_eq!(filter.answer(AARCH64, 79, &[]), ALLOW);
    assert_eq!(filter.answer(AARCH64, 403, &[]), ENOSYS);
    for number in [327, 403, 0xf_0005] {
        assert_eq!(filter.answer(ARM, number, &[]), ALLOW);
    }
    assert_eq!(filter.answer(ARM, 404, &[]), EPERM);
    assert_eq!(filter.answer(X86_64, 79, &[]), KILL);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let json = |default: &str| {
        format!(
            r#"{{"defaultAction": "{default}", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
                {{"names": ["pkey_free", "futex_time64"], "action": "SCMP_ACT_ALLOW"}},
                {{"names": ["statx"], "action": "{default}"}}]}}"#
        )
    };
    for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let filter = on_x86(&json(default));
        let refused = filter.call("read", &[]);
        // statx (332) counts, though its rule says nothing; futex_time64 (422) exists on i386 alone.
        assert_eq!(filter.answer(X86_64, 331, &[]), ALLOW);
        assert_eq!(filter.answer(X86_64, 332, &[]), refused);
        assert_eq!(filter.answer(X86_64, 333, &[]), ENOSYS);
        assert_eq!(filter.answer(I386, 421, &[]), refused);
        assert_eq!(filter.answer(I386, 423, &[]), ENOSYS);
    }
    for default in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
        let filter = on_x86(&json(default));
        assert_eq!(filter.answer(X86_64, 1000, &[]), filter.call("read", &[]), "{default}");
    }
}

#[test]
fn i386_carries_socket_and_ipc_calls_in_others() {
    let filter = on_x86(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
            {"names": ["accept", "send", "shmat", "pkey_free"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    let (socketcall, ipc) = (102, 117);
    for (number, first, answer) in [
        (359, 2, ALLOW),
        (359, 40, EPERM),
        (socketcall, 1, ALLOW),
        (socketcall, 5, ALLOW),
        (socketcall, 9, ALLOW),
        (socketcall, 2, EPERM),
        (ipc, 21, ALLOW),
        (ipc, 22, EPERM),
    ] {
        assert_eq!(filter.answer(I386, number, &[first]), answer, "{number} {first}");
    }
    // x86-64 has no such calls.
    assert_eq!(filter.call("socket", &[40]), EPERM);
    let filter = on_x86(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": ["socketcall", "bind", "pkey_free"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(filter.answer(I386, socketcall, &[77]), ALLOW);
}

#[test]
fn rules_that_only_the_first_argument_tells_apart_are_one_to_a_carrier() {
    let filter = on_x86(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"},
                {"index": 2, "value": 9, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_NE"}]},
            {"names": ["bind"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["bind"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let (socket, bind) = (359, 361);
    assert_eq!(filter.answer(I386, socket, &[16, 0, 9]), 0x7ffc_0000);
    assert_eq!(filter.answer(I386, socket, &[1, 0, 9]), ALLOW);
    assert_eq!(filter.answer(I386, bind, &[2]), 0x7ffc_0000);
    assert_eq!(filter.answer(I386, 102, &[1, 0, 9]), ALLOW);
    assert_eq!(filter.answer(I386, 102, &[2]), 0x0003_0000);
}

#[test]
fn flags_are_the_kernels_and_speculation_is_free_only_by_default() {
    let flags = |list: &str, rules: &str| {
        on_x86(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW" {list}, "syscalls": [{rules}]}}"#)).flags
    };
    let notify = r#"{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}"#;
    assert_eq!(flags("", ""), 4);
    assert_eq!(flags(r#", "flags": null"#, ""), 4);
    assert_eq!(flags(r#", "flags": []"#, ""), 0);
    assert_eq!(flags(r#", "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]"#, ""), 0);
    assert_eq!(flags(r#", "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#, ""), 6);
    assert_eq!(flags("", notify), 12);
    assert_eq!(flags(r#", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#, notify), 40);
}

#[test]
fn an_empty_profile_is_no_profile() {
    let filter = on_x86("{}");
    assert!(filter.program.is_empty() && filter.load().unwrap().is_none());
}

#[test]
fn refusals_name_the_field() {
    let rule = |rule: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": [], "action": "SCMP_ACT_LOG"}}, {rule}]}}"#
        )
    };
    let arg = |arg: &str| rule(&format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{arg}]}}"#));
    for (json, text) in [
        (
            r#"{"defaultAction": "allow"}"#.into(),
            "linux.seccomp.defaultAction: string allow is not a valid action for seccomp",
        ),
        (
            r#"{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#.into(),
            "linux.seccomp.defaultAction: string  is not a valid action for seccomp",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.into(),
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65536}"#.into(),
            "linux.seccomp.defaultErrnoRet: 65536 is more than 65535",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86", "x86"]}"#.into(),
            "linux.seccomp.architectures[1]: string x86 is not a valid arch for seccomp",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#.into(),
            "linux.seccomp.flags[0]: seccomp flag SECCOMP_FILTER_FLAG_NEW_LISTENER is not known",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#.into(),
            "linux.seccomp.flags[0]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY",
        ),
        (
            rule(r#"{"names": ["nosuch"], "action": "SCMP_ACT_FORBID"}"#),
            "linux.seccomp.syscalls[1].action: string SCMP_ACT_FORBID is not a valid action for seccomp",
        ),
        (
            rule(r#"{"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 70000}"#),
            "linux.seccomp.syscalls[1].errnoRet: 70000 is more than 65535",
        ),
        (
            rule(r#"{"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}"#),
            "linux.seccomp.syscalls[1].names[1]: SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (
            rule(r#"{"names": [""], "action": "SCMP_ACT_ALLOW"}"#),
            "linux.seccomp.syscalls[1].names[0]: empty string is not a valid syscall",
        ),
        (
            arg(r#"{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}"#),
            "linux.seccomp.syscalls[1].args[0].index: 6 is more than 5, a system call's last argument",
        ),
        (
            arg(r#"{"index": 5, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 0, "op": "=="}"#),
            "linux.seccomp.syscalls[1].args[1].op: string == is not a valid operator for seccomp",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#
                .into(),
            "linux.seccomp.syscalls[1].args: syscalls[0] has another action for what these arguments cover",
        ),
    ] {
        assert_eq!(refusal(&json), text, "{json}");
    }
}

#[test]
fn too_many_conditions_are_refused() {
    let arg = |value: u32| format!(r#"{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
    let json = |count| {
        let args: Vec<_> = (0..count).map(arg).collect();
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{}]}}]}}"#,
            args.join(",")
        )
    };
    assert_eq!(on_x86(&json(1000)).call("read", &[999]), ALLOW);
    assert!(refusal(&json(1100)).contains("more than the kernel's 4096"));
}

#[test]
fn enormous_profiles_are_refused_before_they_take_long() {
    let args = |count| {
        let arg = |value| SyscallArg { index: 0, value, value_two: 0, op: "SCMP_CMP_EQ".into() };
        (0..count).map(arg).collect()
    };
    let rule = |names: &[&str], count| SyscallRule {
        names: names.iter().map(|&name| name.into()).collect(),
        action: "SCMP_ACT_ALLOW".into(),
        errno_ret: None,
        args: args(count),
    };
    let names: Vec<_> = (0..335).filter_map(syscalls::x86_64::Sysno::new).map(|call| call.name()).collect();
    let each: Vec<_> = names.iter().map(|name| rule(&[name], 1100)).collect();
    let twice = each.iter().cloned().chain([rule(&names, 1100)]).collect();
    for rules in [vec![rule(&names, 100_000)], each, twice] {
        let mut profile = profile(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#);
        profile.syscalls = rules;
        let error = compile_for(&profile, Machine::X86).unwrap_err();
        assert!(error.to_string().contains("more than the kernel's 4096"), "{error}");
    }
}

#[test]
fn names_for_features_are_sorted() {
    assert!(known_actions().is_sorted() && known_operators().is_sorted() && known_architectures().is_sorted());
}
