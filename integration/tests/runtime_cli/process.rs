//! The container's process is what config.json says: arguments, environment, identity, rights, limits, and nothing more.

use integration::case::Case;
use integration::spec::{CAPABILITY_MASK, bits};
use integration::{command, not_on};
use serde_json::json;

#[test]
fn arguments_and_environment_are_exactly_what_was_asked() {
    let mut case = Case::new();
    case.spec["process"]["env"] =
        json!(["PATH=/", "A=1", "EMPTY=", "SPACED=a b = c", format!("TARE_TEST={}", case.id)]);
    let report = case.args(&["/probe", "report"]).run().ok().report();
    assert_eq!(report.args, ["/probe", "report"]);
    let mut env = report.env;
    assert_eq!(env.remove("HOME").as_deref(), Some("/root"), "HOME comes from the container's passwd file");
    let expected = [("PATH", "/"), ("A", "1"), ("EMPTY", ""), ("SPACED", "a b = c"), ("TARE_TEST", case.id.as_str())];
    assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

#[test]
fn home_in_the_configuration_wins() {
    let mut case = Case::new();
    case.spec["process"]["env"] = json!(["HOME=/elsewhere", format!("TARE_TEST={}", case.id)]);
    assert_eq!(case.report().env["HOME"], "/elsewhere");
}

#[test]
fn home_of_another_user_comes_from_passwd() {
    let mut case = Case::new();
    case.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    assert_eq!(case.report().env["HOME"], "/home/user");
}

#[test]
fn the_program_is_found_on_the_containers_path() {
    let mut case = Case::new();
    std::fs::create_dir(case.rootfs().join("bin")).unwrap();
    std::fs::rename(case.rootfs().join("probe"), case.rootfs().join("bin/probe")).unwrap();
    case.args(&["probe", "say", "found"]);
    assert_eq!(case.run().ok().stdout, "found\n");
}

#[test]
fn a_relative_program_is_relative_to_the_working_directory() {
    let mut case = Case::new();
    case.spec["process"]["cwd"] = json!("/home");
    std::fs::rename(case.rootfs().join("probe"), case.rootfs().join("home/probe")).unwrap();
    case.args(&["./probe", "say", "found"]);
    assert_eq!(case.run().ok().stdout, "found\n");
}

#[test]
fn the_working_directory_is_set_and_made_when_missing() {
    let mut case = Case::new();
    case.spec["process"]["cwd"] = json!("/home/user");
    assert_eq!(case.report().cwd, "/home/user");
    case.spec["process"]["cwd"] = json!("/made/on/demand");
    assert_eq!(case.report().cwd, "/made/on/demand");
}

#[test]
fn a_working_directory_that_only_root_can_enter_is_entered() {
    use std::os::unix::fs::PermissionsExt;
    let mut case = Case::new();
    std::fs::create_dir(case.rootfs().join("closed")).unwrap();
    std::fs::set_permissions(case.rootfs().join("closed"), PermissionsExt::from_mode(0o700)).unwrap();
    case.spec["process"]["cwd"] = json!("/closed");
    case.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    case.spec["process"]["capabilities"] = json!({});
    case.attempts(&[("readlink /proc/self/cwd", Ok("/closed")), ("list /closed", Err("EACCES"))]);
}

#[test]
fn user_and_groups_are_set() {
    let mut case = Case::new();
    case.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [2000, 5] });
    let report = case.report();
    assert_eq!(report.uid, [1000; 4]);
    assert_eq!(report.gid, [1001; 4]);
    assert_eq!(report.groups, [5, 2000]);
}

#[test]
fn no_group_of_the_caller_comes_along() {
    let mut case = Case::new();
    let report = case.report();
    assert_eq!((report.uid, report.gid), (vec![0; 4], vec![0; 4]));
    assert!(report.groups.is_empty() || report.groups == [0], "{:?}", report.groups);
}

#[test]
fn umask_is_0022_or_what_was_asked() {
    let mut case = Case::new();
    assert_eq!(case.report().umask, 0o022);
    case.spec["process"]["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o027 });
    assert_eq!(case.report().umask, 0o027);
}

#[test]
fn capabilities_are_the_five_sets_that_were_asked() {
    let mut case = Case::new();
    let caps = case.report().caps;
    assert_eq!(caps.effective, CAPABILITY_MASK);
    assert_eq!(caps.permitted, CAPABILITY_MASK);
    assert_eq!(caps.bounding, CAPABILITY_MASK);
    assert_eq!(caps.inheritable, 0);
    assert_eq!(caps.ambient, 0);

    case.spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"],
        "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "effective": ["CAP_KILL", "CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    case.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let caps = case.report().caps;
    // An ordinary user's program is executed with the ambient set and no more.
    assert_eq!(caps.effective, bits(&[5]));
    assert_eq!(caps.permitted, bits(&[5]));
    assert_eq!(caps.inheritable, bits(&[5]));
    assert_eq!(caps.ambient, bits(&[5]));
    assert_eq!(caps.bounding, bits(&[0, 5, 13]));
}

#[test]
fn without_capabilities_root_has_none() {
    for none in [json!({}), json!(null)] {
        let mut case = Case::new();
        case.spec["process"]["capabilities"] = none.clone();
        if none.is_null() {
            case.spec["process"].as_object_mut().unwrap().remove("capabilities");
            // What to do without the object is not specified: runc and crun differ.
            not_on!(case, "runc", "leaves the caller's bounding set when there is no capabilities object");
            not_on!(case, "crun", "leaves the caller's bounding set when there is no capabilities object");
        }
        let caps = case.report().caps;
        assert_eq!(caps.effective | caps.permitted | caps.inheritable | caps.ambient | caps.bounding, 0, "{none}");
        case.attempts(&[("chown /etc/passwd 1000", Err("EPERM")), ("chroot /tmp", Err("EPERM"))]);
    }
}

#[test]
fn capabilities_decide_what_the_process_may_do() {
    let mut case = Case::new();
    case.attempts(&[
        ("chown /etc/passwd 1000", Ok("")),
        ("mkdir /mnt/x", Ok("")),
        ("mount none /mnt/x tmpfs", Err("EPERM")),
        ("umount /proc", Err("EPERM")),
        ("sethostname other", Err("EPERM")),
        ("unshare network", Err("EPERM")),
        ("raw-socket", Ok("")),
    ]);
    case.spec["process"]["capabilities"]["effective"] = json!(["CAP_SYS_ADMIN"]);
    case.spec["process"]["capabilities"]["permitted"] = json!(["CAP_SYS_ADMIN"]);
    case.spec["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
    case.attempts(&[
        ("chown /etc/group 1000", Err("EPERM")),
        ("mount none /mnt/x tmpfs", Ok("")),
        ("sethostname other", Ok("")),
        ("raw-socket", Err("EPERM")),
    ]);
}

#[test]
fn rlimits_are_set() {
    let mut case = Case::new();
    case.spec["process"]["rlimits"] = json!([
        // Soft as hard: Go, in runc, raises the soft limit of open files to the hard one whenever it starts after the change.
        { "type": "RLIMIT_NOFILE", "soft": 768, "hard": 768 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        { "type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152 },
        { "type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 18_446_744_073_709_551_615_u64 },
    ]);
    let report = case.report();
    assert_eq!(report.limit("Max open files"), (Some(768), Some(768)));
    assert_eq!(report.limit("Max core file size"), (Some(0), Some(0)));
    assert_eq!(report.limit("Max stack size"), (Some(1_048_576), Some(2_097_152)));
    assert_eq!(report.limit("Max file size"), (Some(1_000_000), None));
    case.attempts(&[("limit-files 768 768", Ok("")), ("limit-files 769 769", Err("EPERM"))]);
}

#[test]
fn no_new_privileges_is_set_or_not() {
    let mut case = Case::new();
    assert!(case.report().no_new_privs);
    case.spec["process"]["noNewPrivileges"] = json!(false);
    let report = case.report();
    assert!(!report.no_new_privs);
    assert_eq!(report.seccomp, 0, "no filter was asked for");
}

#[test]
fn no_signal_is_blocked_or_ignored() {
    let mut case = Case::new();
    let signals = case.report().signals;
    assert_eq!(signals.blocked, 0);
    // The probe itself ignores SIGPIPE, as every Rust program does. Signals 32 and 33 are the C library's own: it lets
    // no program change them, so they come from whoever started the tests.
    assert_eq!(signals.ignored & !bits(&[12, 31, 32]), 0);
}

#[test]
fn the_process_leads_its_own_session() {
    let mut case = Case::new();
    let report = case.report();
    assert_eq!((report.pid, report.ppid, report.sid), (1, 0, 1));
}

#[test]
fn the_oom_score_is_set() {
    let mut case = Case::new();
    case.spec["process"]["oomScoreAdj"] = json!(300);
    assert_eq!(case.report().oom_score_adj, "300");
}

#[test]
fn only_the_three_standard_descriptors_are_open() {
    let mut case = Case::new();
    case.write();
    // The caller has more open than it should: none of them may come along.
    let secret = case.dir.join("secret");
    std::fs::write(&secret, "").unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    let script = format!("exec 3<{0} 4<{0} 7<{0}; exec \"$@\"", secret.display());
    let runtime = case.command();
    command.args(["-c", &script, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    case.args(&["/probe", "report"]).write();
    command.args(["run", "--bundle"]).arg(case.bundle()).arg(&case.id).stdin(case.stdin());
    let report = command::run(&mut command, &case.files()).ok().report();
    assert_eq!(report.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{:?}", report.fds);
}

#[test]
fn descriptors_are_passed_when_asked() {
    let mut case = Case::new();
    case.args(&["/probe", "report"]).write();
    let secret = case.dir.join("passed");
    std::fs::write(&secret, "").unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    let script = format!("exec 3<{0} 4<{0} 5<{0}; exec \"$@\"", secret.display());
    let runtime = case.command();
    command.args(["-c", &script, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    command.args(["run", "--preserve-fds", "2", "--bundle"]).arg(case.bundle()).arg(&case.id);
    let report = command::run(command.stdin(case.stdin()), &case.files()).ok().report();
    assert_eq!(report.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4], "{:?}", report.fds);
}

#[test]
fn hostname_and_domainname_are_set() {
    let mut case = Case::new();
    case.spec["hostname"] = json!("named");
    assert_eq!(case.report().hostname, "named");
    not_on!(case, "runc version 1.1", "does not know domainname");
    case.spec["domainname"] = json!("example.org");
    let report = case.report();
    assert_eq!((report.hostname.as_str(), report.domainname.as_str()), ("named", "example.org"));
}

#[test]
fn a_missing_program_is_named() {
    let mut case = Case::new();
    case.args(&["/no/such/program"]);
    let out = case.create();
    assert_ne!(out.code, 0, "{out}");
    assert!(out.stderr.contains("/no/such/program"), "{out}");
    case.nothing_left();
    case.args(&["nosuchprogram"]);
    let out = case.run();
    assert_ne!(out.code, 0, "{out}");
    assert!(out.stderr.contains("nosuchprogram"), "{out}");
    case.nothing_left();
}

#[test]
fn a_program_that_is_not_executable_is_named() {
    let mut case = Case::new();
    case.args(&["/etc/passwd"]);
    let out = case.run();
    assert_ne!(out.code, 0, "{out}");
    if !out.peer {
        assert!(out.stderr.contains("/etc/passwd") && out.stderr.to_lowercase().contains("permission denied"), "{out}");
    }
    case.nothing_left();
}
