//! What a process of the container finds in another one that the runtime starts.

use std::os::unix::fs::symlink;

use integration::case::Case;
use integration::not_on;
use serde_json::json;

use super::{outside, untouched};

#[test]
fn cve_2024_21626_a_working_directory_on_the_host() {
    let mut case = Case::new();
    let outside = outside(&case);
    for n in 3..16 {
        case.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{n}"));
        case.args(&["/probe", "try", "readlink /proc/self/cwd", "list ../../../../../../../../..", "list ."]);
        let out = case.run();
        if out.code == 0 {
            let outcomes = out.outcomes();
            assert!(!outcomes[1].value.contains("usr"), "the host's root is visible: {outcomes:?}");
            assert!(!outcomes[0].value.contains("unreachable") && !outcomes[2].value.contains("usr"), "{outcomes:?}");
        }
    }
    untouched(&outside);
    case.nothing_left();
}

#[test]
fn cve_2024_21626_a_working_directory_of_exec_on_the_host() {
    let case = Case::new();
    case.hold();
    for n in 3..16 {
        let flags = ["--cwd", &format!("/proc/self/fd/{n}")];
        let out =
            case.exec_with(&flags, &["/probe", "try", "readlink /proc/self/cwd", "list ../../../../../../../../.."]);
        if out.code == 0 {
            assert!(!out.outcomes()[1].value.contains("usr"), "the host's root is visible: {out}");
        }
        // By a link that the container's owner has put there.
        let link = case.rootfs().join("mnt").join(format!("link{n}"));
        symlink(format!("/proc/self/fd/{n}"), &link).unwrap();
        let flags = ["--cwd", &format!("/mnt/link{n}")];
        let out =
            case.exec_with(&flags, &["/probe", "try", "readlink /proc/self/cwd", "list ../../../../../../../../.."]);
        if out.code == 0 {
            assert!(!out.outcomes()[1].value.contains("usr"), "the host's root is visible: {out}");
        }
    }
    assert_eq!(case.status(), "running");
}

#[test]
fn cve_2024_21626_a_program_through_an_inherited_descriptor() {
    let mut case = Case::new();
    for n in 3..12 {
        case.args(&[&format!("/proc/self/fd/{n}/../../../../bin/sh"), "-c", "echo escaped"]);
        let out = case.run();
        assert_ne!(out.code, 0, "{out}");
        assert!(!out.stdout.contains("escaped"), "{out}");
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

fn lurked(mut case: Case) {
    case.args(&["/probe", "lurk"]);
    case.hold();
    for _ in 0..60 {
        case.exec(&["/probe", "exit", "0"]).ok();
    }
    case.kill("TERM").ok();
    case.wait();
    let output = case.output();
    assert!(output.contains("ready") && !output.contains("host"), "{output}");
}
