//! Seccomp: the filter does what the profile says, for the first process and for all.

use integration::agent::Agent;
use integration::case::Case;
use integration::programs::Kind;
use integration::{not_on, skip, spec};
use serde_json::{Value, json};

#[allow(clippy::needless_pass_by_value, reason = "callers write it in place")]
fn profile(default: &str, syscalls: Value) -> Value {
    json!({
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls,
    })
}

#[test]
fn a_denied_call_gets_the_error_of_the_rule() {
    let mut case = Case::new();
    case.spec["linux"]["seccomp"] = profile(
        "SCMP_ACT_ALLOW",
        json!([
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18 },
            { "names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO" },
        ]),
    );
    case.attempts(&[("mkdir /mnt/x", Err("EXDEV")), ("symlink a /mnt/l", Err("EPERM")), ("create /mnt/f", Ok(""))]);
    assert_eq!(case.report().seccomp, 2);
}

#[test]
fn arguments_are_compared() {
    let mut case = Case::new();
    let rule = |op: &str, value: u64, two: u64, errno: u32| {
        json!({ "names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno,
                "args": [{ "index": 0, "value": value, "valueTwo": two, "op": op }] })
    };
    for (op, value, two, hits, misses) in [
        ("SCMP_CMP_EQ", 8, 0, vec![8], vec![0]),
        ("SCMP_CMP_NE", 0, 0, vec![8], vec![0]),
        ("SCMP_CMP_GT", 4, 0, vec![8], vec![0]),
        ("SCMP_CMP_GE", 8, 0, vec![8], vec![0]),
        ("SCMP_CMP_LT", 4, 0, vec![0], vec![8]),
        ("SCMP_CMP_LE", 0, 0, vec![0], vec![8]),
        ("SCMP_CMP_MASKED_EQ", 8, 8, vec![8], vec![0]),
    ] {
        case.spec["linux"]["seccomp"] = profile("SCMP_ACT_ALLOW", json!([rule(op, value, two, 18)]));
        let attempts: Vec<(String, Result<&str, &str>)> = hits
            .iter()
            .map(|n| (format!("personality {n}"), Err("EXDEV")))
            .chain(misses.iter().map(|n| (format!("personality {n}"), Ok(""))))
            .collect();
        let attempts: Vec<(&str, Result<&str, &str>)> = attempts.iter().map(|(a, r)| (a.as_str(), *r)).collect();
        println!("{op}");
        case.attempts(&attempts);
    }
}

#[test]
fn a_profile_that_allows_only_what_it_names() {
    let mut case = Case::new();
    let Some(engine) = spec::engine_seccomp(&spec::CAPABILITIES) else {
        skip!("the engines' default profile is not installed");
    };
    case.spec["linux"]["seccomp"] = engine;
    // Capabilities would allow all of these.
    let all = json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_CHOWN", "CAP_MKNOD", "CAP_SETUID", "CAP_DAC_OVERRIDE"]);
    case.spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    case.attempts(&[
        ("mkdir /mnt/x", Ok("")),
        ("sethostname x", Err("EPERM")),
        ("personality 0", Ok("")),
        ("personality 4194304", Err("ENOSYS")),
        ("chroot /tmp", Ok("")),
    ]);
    let report = case.report();
    assert_eq!(report.seccomp, 2);
}

#[test]
fn the_filter_holds_for_every_thread_and_child() {
    let mut case = Case::new();
    case.spec["linux"]["seccomp"] = profile(
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18 }]),
    );
    case.args(&["/probe", "crowd", "1"]);
    case.hold();
    for pid in integration::leak::processes(&case.id) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{pid}: {status}");
    }
}

#[test]
fn a_filter_without_no_new_privileges() {
    // Loading it needs CAP_SYS_ADMIN then: it comes before the capabilities are dropped.
    let mut case = Case::new();
    case.spec["process"]["noNewPrivileges"] = json!(false);
    case.spec["linux"]["seccomp"] = profile(
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18 }]),
    );
    case.attempts(&[("mkdir /mnt/x", Err("EXDEV"))]);
    let report = case.report();
    assert!(!report.no_new_privs);
    assert_eq!(report.seccomp, 2);
}

#[test]
fn a_call_that_kills() {
    let mut case = Case::new();
    // The whole process, not only the thread.
    case.spec["linux"]["seccomp"] =
        profile("SCMP_ACT_ALLOW", json!([{ "names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS" }]));
    case.args(&["/probe", "try", "personality 0"]);
    case.run().is(128 + 31);
}

#[test]
fn the_default_action_has_its_own_error() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8.1", "does not know defaultErrnoRet in this place");
    let Some(mut engine) = spec::engine_seccomp(&spec::CAPABILITIES) else {
        skip!("the engines' default profile is not installed");
    };
    engine["defaultErrnoRet"] = json!(18);
    let syscalls = engine["syscalls"].as_array_mut().unwrap();
    for rule in syscalls.iter_mut() {
        rule["names"].as_array_mut().unwrap().retain(|n| n != "mkdir" && n != "mkdirat");
    }
    syscalls.retain(|rule| rule["names"].as_array().is_some_and(|n| !n.is_empty()));
    case.spec["linux"]["seccomp"] = engine;
    case.attempts(&[("mkdir /mnt/x", Err("EXDEV"))]);
}

#[test]
fn names_that_this_machine_does_not_know_are_passed_over() {
    let mut case = Case::new();
    case.spec["linux"]["seccomp"] = profile(
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["no_such_call_at_all", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18 }]),
    );
    case.attempts(&[("mkdir /mnt/x", Err("EXDEV"))]);
}

/// A profile whose agent is asked about what runtimes do last, and programs do first.
fn ask(agent: &Agent) -> Value {
    let calls = ["open", "openat", "read", "close", "fcntl", "execve", "stat", "newfstatat"];
    let mut profile = profile("SCMP_ACT_ALLOW", json!([{ "names": calls, "action": "SCMP_ACT_NOTIFY" }]));
    profile["listenerPath"] = json!(agent.path);
    profile["listenerMetadata"] = json!("as told");
    profile
}

#[test]
fn an_agent_is_asked_from_the_moment_that_the_filter_is_loaded() {
    for no_new_privileges in [false, true] {
        let mut case = Case::new();
        let agent = Agent::new(&case.dir);
        case.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        case.spec["linux"]["seccomp"] = ask(&agent);
        // Looked up in /etc/passwd, as late as runtimes like.
        case.spec["process"]["env"] = json!(["PATH=/"]);
        let report = case.report();
        assert_eq!(report.seccomp, 2);
        assert_eq!(report.env.get("HOME").map(String::as_str), Some("/root"));
        // execve: the program itself.
        assert!(agent.calls().contains(&59), "{:?}", agent.calls());
        let states = agent.end();
        assert_eq!(states.len(), 1);
        assert_eq!(states[0]["fds"], json!(["seccompFd"]));
        assert_eq!(states[0]["metadata"], "as told");
        assert_eq!(states[0]["state"]["id"], json!(case.id));
        assert_eq!(states[0]["state"]["status"], "creating");
        assert_eq!(states[0]["pid"], states[0]["state"]["pid"]);
    }
}

#[test]
fn an_agent_is_asked_by_exec_as_well() {
    not_on!(Case::new(), "crun", "has 0 for the container's pid in the state that comes with the listener");
    for no_new_privileges in [false, true] {
        let mut case = Case::new();
        let agent = Agent::new(&case.dir);
        case.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        case.spec["linux"]["seccomp"] = ask(&agent);
        case.hold();
        case.exec_attempts(&[("read /etc/group", Ok(""))]);
        let pid = case.pid();
        let states = agent.end();
        assert_eq!(states.len(), 2);
        assert_eq!(states[1]["state"]["status"], "running");
        assert_eq!(states[1]["state"]["pid"], pid);
        // The process that the listener is of.
        assert_ne!(states[1]["pid"], pid);
    }
}

#[test]
fn an_agent_that_is_not_there() {
    let mut case = Case::new();
    not_on!(case, "runc", "waits for the agent that it cannot reach");
    let agent = Agent::new(&case.dir);
    for no_new_privileges in [false, true] {
        case.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        case.spec["linux"]["seccomp"] = ask(&agent);
        case.spec["linux"]["seccomp"]["listenerPath"] = json!(case.dir.join("nobody.sock"));
        // Whoever got no agent does not wait for one.
        case.create().refused(&["failed to connect with seccomp agent", "nobody.sock"]);
        case.nothing_left();
    }
}

/// Calls that a runtime may well make on its way from the filter to the program, and that the probe does without.
const ON_THE_WAY: [&str; 34] = [
    "accept",
    "accept4",
    "capget",
    "capset",
    "chdir",
    "chroot",
    "clone3",
    "connect",
    "dup",
    "dup3",
    "eventfd2",
    "fchdir",
    "fchown",
    "getdents64",
    "getsockopt",
    "pidfd_getfd",
    "pidfd_open",
    "poll",
    "ppoll",
    "prctl",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setsid",
    "setuid",
    "signalfd4",
    "socket",
    "socketpair",
    "umask",
];

/// Those that peers make after a filter that was loaded early: they change their user under it.
const BY_PEERS: [&str; 15] = [
    "capget",
    "capset",
    "chdir",
    "clone3",
    "eventfd2",
    "fchdir",
    "fchown",
    "getdents64",
    "pidfd_open",
    "prctl",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setuid",
];

/// Runs the probe in such a container, as its first process and by exec.
#[track_caller]
fn runs(case: &mut Case) {
    case.args(&["/probe", "hold"]);
    case.hold();
    assert_eq!(case.exec(&["/probe", "say", "hello"]).ok().stdout, "hello\n");
    case.call(&["delete", "--force", &case.id]).ok();
    case.wait();
}

#[test]
fn a_profile_need_not_allow_what_the_runtime_does() {
    for no_new_privileges in [false, true] {
        let mut case = Case::new();
        // Without no_new_privs runc loads the filter while it still is root, crun always.
        let needed: &[&str] = match case.runtime.kind {
            Kind::Tare => &[],
            Kind::Runc if no_new_privileges => &["getdents64"],
            Kind::Runc | Kind::Crun => &BY_PEERS,
        };
        let calls: Vec<&str> = ON_THE_WAY.iter().copied().filter(|call| !needed.contains(call)).collect();
        case.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        // The probe's own start takes this error of poll(2) as a sign to do without.
        let rule = json!([{ "names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": 22 }]);
        case.spec["linux"]["seccomp"] = profile("SCMP_ACT_ALLOW", rule.clone());
        runs(&mut case);
        // A listener is handed on as soon as the filter is loaded.
        let agent = Agent::new(&case.dir);
        let mut rules = rule;
        rules.as_array_mut().unwrap().push(json!({ "names": ["execve"], "action": "SCMP_ACT_NOTIFY" }));
        case.spec["linux"]["seccomp"] = profile("SCMP_ACT_ALLOW", rules);
        case.spec["linux"]["seccomp"]["listenerPath"] = json!(agent.path);
        runs(&mut case);
        assert!(agent.calls().contains(&59));
        assert_eq!(agent.end().len(), 2);
    }
}

#[test]
fn an_agent_may_be_asked_about_everything_but_write() {
    for no_new_privileges in [false, true] {
        let mut case = Case::new();
        let agent = Agent::new(&case.dir);
        let mut calls = ON_THE_WAY.to_vec();
        calls.extend(["close", "execve", "exit_group", "fcntl", "futex", "getpid", "openat", "read"]);
        calls.extend(["rt_sigaction", "rt_sigprocmask", "newfstatat", "mmap", "munmap", "brk"]);
        case.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let rule = json!([{ "names": calls, "action": "SCMP_ACT_NOTIFY" }]);
        case.spec["linux"]["seccomp"] = profile("SCMP_ACT_ALLOW", rule);
        case.spec["linux"]["seccomp"]["listenerPath"] = json!(agent.path);
        runs(&mut case);
        assert_eq!(agent.end().len(), 2);
        case.spec["linux"]["seccomp"]["syscalls"][0]["names"] = json!(["write"]);
        case.create().refused(&["SCMP_ACT_NOTIFY", "write"]);
        case.nothing_left();
    }
}

#[test]
fn a_filter_that_allows_hardly_more_than_the_program() {
    // What the probe does in `say`; the listener goes out by two of these.
    let calls = [
        "arch_prctl",
        "brk",
        "exit_group",
        "fcntl",
        "getrandom",
        "mmap",
        "mprotect",
        "mremap",
        "munmap",
        "prlimit64",
        "read",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "set_robust_list",
        "set_tid_address",
        "sigaltstack",
        "write",
    ];
    for (no_new_privileges, listener) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut case = Case::new();
        not_on!(case, "runc", "needs what Go needs");
        not_on!(case, "crun", "does more after the filter is loaded");
        let agent = Agent::new(&case.dir);
        let execve = if listener { "SCMP_ACT_NOTIFY" } else { "SCMP_ACT_ALLOW" };
        let rules = json!([
            { "names": calls, "action": "SCMP_ACT_ALLOW" },
            { "names": ["execve"], "action": execve },
        ]);
        case.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        case.spec["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO", rules);
        case.spec["linux"]["seccomp"]["defaultErrnoRet"] = json!(22);
        if listener {
            case.spec["linux"]["seccomp"]["listenerPath"] = json!(agent.path);
        }
        case.args(&["/probe", "say", "hello"]);
        assert_eq!(case.run().ok().stdout, "hello\n");
    }
}

#[test]
fn the_privilege_to_load_a_filter_is_not_the_programs() {
    for (uid, bits) in [(0, 1), (1000, 0)] {
        let mut case = Case::new();
        case.spec["process"]["noNewPrivileges"] = json!(false);
        case.spec["process"]["user"] = json!({ "uid": uid, "gid": 0 });
        let chown = json!(["CAP_CHOWN"]);
        case.spec["process"]["capabilities"] = json!({ "bounding": chown, "effective": chown, "permitted": chown });
        case.spec["linux"]["seccomp"] =
            profile("SCMP_ACT_ALLOW", json!([{ "names": ["uselib"], "action": "SCMP_ACT_ERRNO" }]));
        let report = case.report();
        assert_eq!((report.seccomp, report.no_new_privs), (2, false));
        assert_eq!((report.caps.effective, report.caps.permitted, report.caps.bounding), (bits, bits, 1), "{uid}");
        assert_eq!((report.caps.inheritable, report.caps.ambient), (0, 0));
    }
}
