//! exec enters everything that the container has, and brings nothing of the host along.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use integration::case::Case;
use integration::command::{self, LIMIT};
use integration::programs::Kind;
use integration::spec::{CAPABILITY_MASK, bits};
use integration::{cgroups, not_on, skip, wait};
use serde_json::json;

/// Namespaces of a process, seen from the host.
fn namespaces(pid: i32) -> BTreeMap<String, u64> {
    fs::read_dir(format!("/proc/{pid}/ns"))
        .unwrap()
        .flatten()
        .map(|e| (e.file_name().to_string_lossy().into_owned(), fs::metadata(e.path()).unwrap().ino()))
        .collect()
}

#[test]
fn exec_runs_a_process_and_ends_with_its_status() {
    let case = Case::new();
    case.hold();
    let out = case.exec(&["/probe", "say", "hello"]).ok();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("hello\n", ""));
    assert_eq!(case.exec(&["/probe", "complain", "x"]).ok().stderr, "x\n");
    for status in [0, 1, 42, 255] {
        case.exec(&["/probe", "exit", &status.to_string()]).is(status);
    }
    assert_eq!(case.status(), "running");
}

#[test]
fn exec_connects_stdin() {
    let case = Case::new();
    case.hold();
    fs::write(case.dir.join("input"), "through stdin").unwrap();
    let mut command = case.command();
    command.args(["exec", &case.id, "/probe", "cat"]).stdin(fs::File::open(case.dir.join("input")).unwrap());
    assert_eq!(command::run(&mut command, &case.files()).ok().stdout, "through stdin");
}

#[test]
fn exec_joins_every_namespace() {
    for with_user in [false, true] {
        let mut case = Case::new();
        if with_user {
            case.user_namespace();
        }
        case.hold();
        let report = case.exec(&["/probe", "report"]).ok().report();
        let mut inside = report.namespaces;
        let mut host = namespaces(case.pid());
        // What children will be born into may not be what the process itself is in.
        for map in [&mut inside, &mut host] {
            map.remove("pid_for_children");
            map.remove("time_for_children");
        }
        assert_eq!(inside, host);
        assert_eq!(report.processes.get(&1).map(String::as_str), Some("probe"));
        assert_eq!(report.processes.len(), 2, "{:?}", report.processes);
        assert_eq!(report.ppid, 0, "its parent is not in the container");
        assert_eq!(report.hostname, "tare-test");
        assert_eq!(report.uid, [0; 4]);
    }
}

#[test]
fn exec_stays_in_the_user_namespace() {
    let mut case = Case::new();
    case.user_namespace();
    case.hold();
    case.exec_attempts(&[
        ("read /proc/self/uid_map", Ok("         0     100000      65536")),
        ("read /proc/self/gid_map", Ok("         0     100000      65536")),
        // Host's root, whom the map leaves out.
        ("setuid 70000", Err("EINVAL")),
    ]);
    let pid = case.exec_detached(&["/probe", "wait"]);
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 100_000, "on the host it is nobody special");
}

#[test]
fn exec_stays_in_the_cgroup() {
    let case = Case::new();
    case.hold();
    let pid = case.exec_detached(&["/probe", "wait"]);
    let of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(of(pid), of(case.pid()));
    assert!(of(pid).contains(&case.id));
    let pids = case.call(&["ps", "--format", "json", &case.id]).ok().json();
    assert!(pids.as_array().unwrap().contains(&json!(pid)), "ps shows it: {pids}");
}

#[test]
fn exec_is_held_by_the_limit_of_processes() {
    let mut case = Case::new();
    if !cgroups::has("pids") {
        skip!("the pids controller is not available in this cgroup hierarchy");
    }
    case.spec["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    case.hold();
    let out = case.exec(&["/probe", "try", "threads 100"]).ok().outcomes();
    let started: u32 = out[0].value.parse().unwrap();
    assert!((5..20).contains(&started), "{started}");
}

#[test]
fn exec_keeps_the_seccomp_filter() {
    let mut case = Case::new();
    case.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18 }],
    });
    case.hold();
    let report = case.exec(&["/probe", "report"]).ok().report();
    assert_eq!(report.seccomp, 2);
    case.exec_attempts(&[("mkdir /mnt/x", Err("EXDEV")), ("create /mnt/y", Ok(""))]);
}

#[test]
fn exec_has_the_containers_identity_rights_and_limits() {
    let mut case = Case::new();
    not_on!(case, "crun", "runs exec with the caller's limits, older ones as root");
    case.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [2000], "umask": 0o027 });
    case.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_FSIZE", "soft": 300_000, "hard": 400_000 }]);
    case.spec["process"]["capabilities"] = json!({ "bounding": ["CAP_KILL", "CAP_CHOWN"] });
    case.spec["process"]["oomScoreAdj"] = json!(250);
    case.spec["process"]["cwd"] = json!("/home/user");
    case.hold();
    let report = case.exec(&["/probe", "report"]).ok().report();
    assert_eq!((&report.uid, &report.gid), (&vec![1000; 4], &vec![1001; 4]));
    assert_eq!(report.groups, [2000]);
    assert_eq!(report.limit("Max file size"), (Some(300_000), Some(400_000)));
    assert_eq!(report.caps.bounding, bits(&[0, 5]));
    assert_eq!(report.caps.effective, 0);
    assert!(report.no_new_privs);
    assert_eq!(report.cwd, "/home/user");
    assert_eq!(report.env["HOME"], "/home/user");
    assert_eq!(report.env["TARE_TEST"], case.id, "the environment is the container's");
    assert_eq!(report.oom_score_adj, "250");
    assert!(
        !report.env.contains_key("RUST_BACKTRACE") && report.env["PATH"] == "/bin:/sbin:/usr/bin",
        "{:?}",
        report.env
    );
    not_on!(case, "runc version 1.1", "does not give the umask to exec");
    assert_eq!(report.umask, 0o027);
}

#[test]
fn exec_has_the_containers_capabilities_as_root() {
    let case = Case::new();
    case.hold();
    let caps = case.exec(&["/probe", "report"]).ok().report().caps;
    assert_eq!(caps.effective, CAPABILITY_MASK);
    assert_eq!(caps.permitted, CAPABILITY_MASK);
    assert_eq!(caps.bounding, CAPABILITY_MASK);
    assert_eq!((caps.inheritable, caps.ambient), (0, 0));
}

#[test]
fn exec_takes_user_directory_and_environment() {
    let case = Case::new();
    case.hold();
    let flags = ["--user", "1000:1001", "--cwd", "/home", "-e", "EXTRA=1", "-e", "PATH=/elsewhere"];
    let report = case.exec_with(&flags, &["/probe", "report"]).ok().report();
    assert_eq!((&report.uid, &report.gid), (&vec![1000; 4], &vec![1001; 4]));
    assert_eq!(report.cwd, "/home");
    assert_eq!(report.env["EXTRA"], "1");
    assert_eq!(report.env["PATH"], "/elsewhere");
    assert_eq!(report.caps.effective, 0, "an ordinary user's program has no capabilities");
}

#[test]
fn exec_takes_additional_groups() {
    let case = Case::new();
    not_on!(case, "crun", "has no such flag");
    case.hold();
    let flags = ["--additional-gids", "2000", "--additional-gids", "3000"];
    assert_eq!(case.exec_with(&flags, &["/probe", "report"]).ok().report().groups, [2000, 3000]);
}

#[test]
fn exec_adds_capabilities_but_none_that_are_inherited() {
    // CVE-2022-29162: capabilities in the inheritable set let programs with file capabilities raise themselves.
    let case = Case::new();
    not_on!(case, "crun", "gives exec the named capabilities and no other");
    case.hold();
    let caps = case.exec_with(&["--cap", "CAP_SYS_PTRACE"], &["/probe", "report"]).ok().report().caps;
    assert_eq!(caps.inheritable, 0);
    assert_eq!(caps.effective, CAPABILITY_MASK | bits(&[19]));
    assert_eq!(caps.bounding, CAPABILITY_MASK | bits(&[19]));
}

#[test]
fn exec_sets_no_new_privileges_when_asked() {
    let mut case = Case::new();
    case.spec["process"]["noNewPrivileges"] = json!(false);
    case.hold();
    assert!(!case.exec(&["/probe", "report"]).ok().report().no_new_privs);
    assert!(case.exec_with(&["--no-new-privs"], &["/probe", "report"]).ok().report().no_new_privs);
}

#[test]
fn exec_takes_a_whole_process_from_a_file() {
    let case = Case::new();
    case.hold();
    let process = json!({
        "user": { "uid": 1000, "gid": 1000, "additionalGids": [7] },
        "args": ["/probe", "report"],
        "env": ["FROM=file", format!("TARE_TEST={}", case.id)],
        "cwd": "/tmp",
        "capabilities": { "bounding": ["CAP_KILL"] },
        "rlimits": [{ "type": "RLIMIT_CORE", "soft": 50, "hard": 60 }],
        "noNewPrivileges": true,
    });
    let file = case.dir.join("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let out = case.call(&["exec", "--process", file.to_str().unwrap(), &case.id]).ok();
    let report = out.report();
    assert_eq!(report.uid, [1000; 4]);
    assert_eq!(report.groups, [7]);
    assert_eq!(report.env["FROM"], "file");
    assert_eq!(report.cwd, "/tmp");
    assert_eq!(report.caps.bounding, bits(&[5]));
    assert_eq!(report.limit("Max core file size"), (Some(50), Some(60)));
}

#[test]
fn exec_with_a_broken_process_file_is_refused() {
    let case = Case::new();
    case.hold();
    let file = case.dir.join("process.json");
    for text in ["", "{", "{\"args\": []}", "[]"] {
        fs::write(&file, text).unwrap();
        let out = case.call(&["exec", "--process", file.to_str().unwrap(), &case.id]);
        assert_ne!(out.code, 0, "{out}");
        if !out.peer {
            assert_eq!(out.stderr.lines().count(), 1, "{out}");
        }
    }
    assert_eq!(case.status(), "running");
}

#[test]
fn exec_detached_returns_and_writes_the_pid() {
    let case = Case::new();
    case.hold();
    let pid = case.exec_detached(&["/probe", "wait"]);
    let line = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // A peer may return before the process is the user's program.
    let runs = wait::until(Duration::from_millis(5), LIMIT, || line().starts_with(b"/probe\0wait").then_some(()));
    runs.expect("the program runs");
    case.kill("KILL").ok();
    case.wait();
    assert!(wait::exited(pid, LIMIT), "it ends with the container");
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn exec_ends_with_128_and_the_signal() {
    let case = Case::new();
    case.hold();
    let files = case.files();
    let pid_file = case.dir.join("exec.pid");
    let mut command = case.command();
    command.args(["exec", "--pid-file"]).arg(&pid_file).args([&case.id, "/probe", "wait"]);
    files.attach(&mut command);
    let mut exec = command.spawn().unwrap();
    assert!(wait::file(&pid_file, LIMIT, |text| !text.is_empty()));
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let line = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let runs = wait::until(Duration::from_millis(5), LIMIT, || line().starts_with(b"/probe\0wait").then_some(()));
    runs.expect("the program runs");
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(command::code(exec.wait().unwrap()), 137);
}

#[test]
fn exec_passes_signals_on() {
    let case = Case::new();
    case.hold();
    let files = case.files();
    let mut command = case.command();
    command.args(["exec", &case.id, "/probe", "hold"]);
    files.attach(&mut command);
    let mut exec = command.spawn().unwrap();
    assert!(wait::file(&files.stdout, LIMIT, |text| text.contains("ready")));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(exec.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(command::code(exec.wait().unwrap()), 2);
}

#[test]
fn exec_into_a_created_container_works() {
    let case = Case::new();
    case.create().ok();
    assert_eq!(case.exec(&["/probe", "say", "early"]).ok().stdout, "early\n");
    assert_eq!(case.status(), "created");
}

#[test]
fn exec_into_a_stopped_container_is_refused() {
    let case = Case::new();
    case.hold();
    case.kill("KILL").ok();
    case.wait();
    let out = case.exec(&["/probe", "say", "x"]);
    assert_ne!(out.code, 0, "{out}");
    assert!(out.peer || out.stderr.lines().count() == 1, "{out}");
    assert!(out.peer || out.stderr.contains("stopped"), "{out}");
}

#[test]
fn exec_of_a_missing_program_is_named_and_harms_nobody() {
    let case = Case::new();
    case.hold();
    let out = case.exec(&["/no/such/program"]);
    assert_ne!(out.code, 0, "{out}");
    assert!(out.stderr.contains("/no/such/program"), "{out}");
    assert_eq!(case.status(), "running");
    assert_eq!(integration::leak::processes(&case.id).len(), 1);
}

#[test]
fn exec_opens_the_three_standard_descriptors_and_no_other() {
    let case = Case::new();
    case.hold();
    let secret = case.dir.join("secret");
    fs::write(&secret, "").unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    let script = format!("exec 3<{0} 6<{0} 9<{0}; exec \"$@\"", secret.display());
    command.args(["-c", &script, "sh"]).arg(&case.runtime.binary).arg("--root").arg(case.state_dir());
    command.args(["exec", &case.id, "/probe", "report"]).stdin(case.stdin());
    let report = command::run(&mut command, &case.files()).ok().report();
    assert_eq!(report.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{:?}", report.fds);
    let signals = report.signals;
    assert_eq!(signals.blocked, 0);
    assert_eq!(signals.ignored & !bits(&[12, 31, 32]), 0);
    not_on!(case, "crun", "leaves exec in the caller's session");
    assert_eq!(report.sid, report.pid, "it leads its own session");
}

#[test]
fn exec_passes_descriptors_when_asked() {
    let case = Case::new();
    case.hold();
    fs::write(case.dir.join("passed"), "").unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    let script = format!("exec 3<{0} 4<{0}; exec \"$@\"", case.dir.join("passed").display());
    command.args(["-c", &script, "sh"]).arg(&case.runtime.binary).arg("--root").arg(case.state_dir());
    command.args(["exec", "--preserve-fds", "1", &case.id, "/probe", "report"]).stdin(case.stdin());
    let report = command::run(&mut command, &case.files()).ok().report();
    assert_eq!(report.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3], "{:?}", report.fds);
}

#[test]
fn exec_finds_programs_on_the_containers_path() {
    let mut case = Case::new();
    fs::create_dir(case.rootfs().join("bin")).unwrap();
    fs::copy(case.rootfs().join("probe"), case.rootfs().join("bin/tool")).unwrap();
    case.args(&["/probe", "hold"]);
    case.hold();
    assert_eq!(case.exec(&["tool", "say", "found"]).ok().stdout, "found\n");
}

#[test]
fn many_execs_at_once_all_get_their_own_answer() {
    let case = Case::new();
    case.hold();
    let mut running = Vec::new();
    for n in 0..16 {
        let files = case.files();
        let mut command = case.command();
        command.args(["exec", &case.id, "/probe", "say", &n.to_string()]);
        files.attach(&mut command);
        running.push((command.spawn().unwrap(), files, n));
    }
    for (mut child, files, n) in running {
        assert_eq!(command::code(child.wait().unwrap()), 0, "{}", fs::read_to_string(&files.stderr).unwrap());
        assert_eq!(fs::read_to_string(&files.stdout).unwrap(), format!("{n}\n"));
    }
    assert_eq!(integration::leak::processes(&case.id).len(), 1, "only the container's own process is left");
}

#[test]
fn exec_without_a_command_is_refused() {
    let case = Case::new();
    case.hold();
    let out = case.call(&["exec", &case.id]);
    assert_ne!(out.code, 0, "{out}");
    assert!(case.runtime.kind != Kind::Tare || !out.stderr.is_empty(), "{out}");
}
