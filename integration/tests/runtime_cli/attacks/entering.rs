//! What a process of the container finds in another one that the runtime starts.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use integration::case::Case;
use integration::command::{LIMIT, Out};
use integration::programs::Kind;
use integration::{not_on, wait};
use serde_json::json;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

// Against CVE-2024-21626 one layer after another holds, so that these tests fail only where several are gone. What the caller
// left open is closed, and nothing of the host's is open where the working directory is entered. One that a container is
// created with is looked up, and made, beneath its root, where `/proc/self/fd` leads nowhere. And one outside the root is
// refused once it was entered, which is all that keeps `exec` from a directory that the caller passes on.

/// The runtime, started with the host's root directory open at these numbers.
fn leaky(case: &Case, numbers: std::ops::Range<u32>, args: &[&str]) -> Out {
    let open = numbers.map(|n| format!("exec {n}</; ")).collect::<Vec<_>>().concat();
    let mut command = Command::new("/bin/bash");
    command.args(["-c", &format!("{open}exec \"$@\""), "bash"]).arg(&case.runtime.binary);
    command.arg("--root").arg(case.state_dir()).args(&case.global).args(args).stdin(case.stdin());
    case.finish(&mut command, &case.files())
}

const LOOK: [&str; 4] = ["/probe", "try", "list .", "list ../../../../../../../../../.."];

/// The container's root has no directory of this name, the host's has.
#[track_caller]
fn blind(out: &Out) {
    if out.code == 0 {
        let outcomes = out.outcomes();
        assert!(!outcomes.iter().any(|o| o.value.contains("usr")), "the host's root is visible: {outcomes:?}");
    }
}

#[test]
fn cve_2024_21626_a_working_directory_on_the_host() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8", "closes nothing of the caller's before it enters the working directory");
    let bundle = case.bundle().to_string_lossy().into_owned();
    case.args(&LOOK);
    for n in 3..16 {
        case.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{n}"));
        case.write();
        blind(&case.run());
        blind(&leaky(&case, 3..16, &["run", "--bundle", &bundle, &case.id]));
    }
    case.nothing_left();
}

#[test]
fn cve_2024_21626_a_working_directory_of_exec_on_the_host() {
    let case = Case::new();
    not_on!(case, "crun version 1.8", "closes nothing of the caller's before it enters the working directory");
    case.hold();
    for n in 3..16 {
        // By itself, and by a link that the container's owner has put there.
        let link = format!("/mnt/link{n}");
        symlink(format!("/proc/self/fd/{n}"), case.rootfs().join(&link[1..])).unwrap();
        for cwd in [format!("/proc/self/fd/{n}"), link] {
            blind(&case.exec_with(&["--cwd", &cwd], &LOOK));
            blind(&leaky(&case, 3..16, &[&["exec", "--cwd", &cwd, &case.id], &LOOK[..]].concat()));
        }
    }
    assert_eq!(case.status(), "running");
}

#[test]
fn cve_2024_21626_a_working_directory_that_was_passed_on() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8", "closes nothing of the caller's before it enters the working directory");
    let bundle = case.bundle().to_string_lossy().into_owned();
    case.spec["process"]["cwd"] = json!("/proc/self/fd/3");
    case.args(&LOOK).write();
    leaky(&case, 3..4, &["run", "--preserve-fds", "1", "--bundle", &bundle, &case.id]).refused(&["cwd"]);
    case.nothing_left();
    case.spec["process"]["cwd"] = json!("/");
    case.args(&["/probe", "hold"]);
    case.hold();
    let exec = ["exec", "--preserve-fds", "1", "--cwd", "/proc/self/fd/3", &case.id];
    let out = leaky(&case, 3..4, &[&exec, &LOOK[..]].concat());
    assert_ne!(out.code, 0, "{out}");
    assert_eq!(out.stdout, "", "the program has run: {out}");
}

#[test]
fn cve_2024_21626_a_program_through_an_inherited_descriptor() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8", "closes nothing of the caller's before it executes the program");
    // A static one: another would not find its libraries in the container, and seem to be out of reach.
    let host = case.rootfs().join("probe").to_string_lossy().into_owned();
    let bundle = case.bundle().to_string_lossy().into_owned();
    for n in 3..12 {
        case.args(&[&format!("/proc/self/fd/{n}{host}"), "say", "escaped"]).write();
        for out in [case.run(), leaky(&case, 3..12, &["run", "--bundle", &bundle, &case.id])] {
            assert_ne!(out.code, 0, "{out}");
            assert!(!out.stdout.contains("escaped"), "{out}");
        }
    }
    case.nothing_left();
}

#[test]
fn cve_2016_9962_what_enters_cannot_be_looked_into() {
    // While exec enters, a process of the container must not get at the host's files through /proc/PID of the one that
    // enters: it is not dumpable until it has become the user's program.
    lurked(Case::new());
}

#[test]
fn cve_2016_9962_what_enters_holds_no_way_out_from_who_may_trace_it() {
    // With CAP_SYS_PTRACE that is no protection: there must be nothing of the host to be found in it, at no moment.
    let mut case = Case::new();
    not_on!(case, "runc", "what enters still holds files of the host");
    not_on!(case, "crun", "what enters still holds files of the host");
    for set in ["bounding", "effective", "permitted"] {
        case.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_PTRACE"));
    }
    // A profile of the runtime's own making keeps it inside for longer.
    if let Some(seccomp) = integration::spec::engine_seccomp(&integration::spec::CAPABILITIES) {
        case.spec["linux"]["seccomp"] = seccomp;
    }
    lurked(case);
}

#[test]
fn what_waits_to_be_started_holds_no_way_back_to_the_host() {
    const NAMESPACES: [&str; 8] = ["cgroup:[", "ipc:[", "mnt:[", "net:[", "pid:[", "time:[", "user:[", "uts:["];
    let case = Case::new();
    not_on!(case, "crun", "keeps a directory of its own open");
    case.create().ok();
    let ways_out = || -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", case.pid())).unwrap().flatten();
        entries
            .filter_map(|entry| {
                let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
                // A socket is a way into the network that it was made in (SIOCGSKNS, netdevice(7)).
                let way = NAMESPACES.iter().any(|kind| target.starts_with(kind)) || target.starts_with("socket:[");
                // Procfs of its own it may have.
                let on_procfs = || rustix::fs::statfs(entry.path()).is_ok_and(|it| it.f_type == PROC_SUPER_MAGIC);
                let directory = fs::metadata(entry.path()).is_ok_and(|it| it.is_dir());
                (way || (directory && !on_procfs())).then_some(target)
            })
            .collect()
    };
    // It closes the last of them when it has heard that it is on record, which is when `create` ends as well.
    let none = wait::until(Duration::from_millis(1), LIMIT, || ways_out().is_empty().then_some(()));
    assert!(none.is_some(), "{:?}", ways_out());
}

fn lurked(mut case: Case) {
    case.args(&["/probe", "lurk"]);
    case.hold();
    for _ in 0..30 {
        case.exec(&["/probe", "exit", "0"]).ok();
        // Here one more socket is needed, for the terminal. The peers want one of the caller's own for it.
        if case.runtime.kind == Kind::Tare {
            case.exec_with(&["--tty"], &["/probe", "exit", "0"]).ok();
        }
    }
    case.kill("TERM").ok();
    case.wait();
    let output = case.output();
    assert!(output.contains("ready") && !output.contains("host"), "{output}");
}
