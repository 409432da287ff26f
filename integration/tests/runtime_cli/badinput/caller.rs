//! Of the command line, and of what the caller has left or keeps.

use std::fs;

use integration::case::Case;
use integration::not_on;
use integration::programs::Kind;
use serde_json::json;

use super::refused;

#[test]
fn an_id_that_is_none() {
    let case = Case::new();
    case.write();
    let bundle = case.bundle();
    let long = "x".repeat(2000);
    for id in ["", ".", "..", "a/b", "/", "../../up", "a b", "a\nb", "ü", &long] {
        if case.runtime.kind != Kind::Tare && !id.contains('/') && id != ".." && id != long {
            // Peers allow more: only what would leave the state directory is tested with them.
            continue;
        }
        let out = case.call(&["create", "--bundle", bundle.to_str().unwrap(), id]);
        out.refused(&["id"]);
        case.nothing_left();
    }
}

#[test]
fn an_unknown_container() {
    let case = Case::new();
    for words in [&["start"][..], &["state"], &["delete"], &["pause"], &["resume"], &["ps"], &["kill"]] {
        let mut words = words.to_vec();
        words.push(&case.id);
        case.call(&words).refused(&[&case.id, "does not exist"]);
    }
    let out = case.call(&["exec", &case.id, "true"]);
    assert_ne!(out.code, 0, "{out}");
    assert_eq!(out.stderr.lines().count(), 1, "{out}");
    case.nothing_left();
}

#[test]
fn an_id_that_leaves_the_state_directory_reaches_nothing() {
    let case = Case::new();
    not_on!(case, "crun version 1.8.1", "follows it");
    fs::create_dir_all(case.dir.join("elsewhere")).unwrap();
    fs::write(case.dir.join("elsewhere/state.json"), "{}").unwrap();
    for verb in ["state", "delete", "kill", "start"] {
        let out = case.call(&[verb, "../elsewhere"]);
        assert_ne!(out.code, 0, "{out}");
    }
    let out = case.call(&["delete", "--force", "../elsewhere"]);
    assert!(case.dir.join("elsewhere/state.json").exists(), "{out}");
}

#[test]
fn an_unknown_signal() {
    let case = Case::new();
    not_on!(case, "crun version 1.8.1", "accepts any word");
    case.hold();
    for signal in ["NONSENSE", "SIGNONSENSE", "1000", ""] {
        if case.runtime.kind != Kind::Tare && !signal.contains("NONSENSE") {
            continue;
        }
        case.kill(signal).refused(&["signal"]);
    }
    assert_eq!(case.status(), "running");
}

#[test]
fn too_few_or_too_many_arguments() {
    let case = Case::new();
    for words in [&["create"][..], &["start"], &["state"], &["kill"], &["delete"], &["start", "a", "b"]] {
        let out = case.call(words);
        assert_ne!(out.code, 0, "{out}");
        assert!(!out.stderr.is_empty() || !out.stdout.is_empty(), "{out}");
    }
}

#[test]
fn a_pid_file_that_cannot_be_written() {
    let case = Case::new();
    case.write();
    let bundle = case.bundle();
    let out = case.call(&["create", "--bundle", bundle.to_str().unwrap(), "--pid-file", "/no/such/dir/pid", &case.id]);
    out.refused(&["/no/such/dir/pid"]);
    case.nothing_left();
}

#[test]
fn a_terminal_without_a_socket_to_send_it_to() {
    refused(|c| c.spec["process"]["terminal"] = json!(true), &["terminal", "console"]);
}

#[test]
fn a_socket_for_a_terminal_that_was_not_asked_for() {
    let case = Case::new();
    not_on!(case, "crun", "ignores the socket");
    let console = integration::console::Socket::new(&case.dir);
    case.create_with(&["--console-socket", console.path.to_str().unwrap()]).refused(&["console", "terminal"]);
    case.nothing_left();
}

#[test]
fn a_console_socket_that_nobody_listens_on() {
    let mut case = Case::new();
    case.spec["process"]["terminal"] = json!(true);
    case.create_with(&["--console-socket", "/no/such/socket"]).refused(&["/no/such/socket"]);
    case.nothing_left();
}

#[test]
fn a_state_directory_that_cannot_be_made() {
    let case = Case::new();
    case.write();
    let mut command = std::process::Command::new(&case.runtime.binary);
    command.args(["--root", "/proc/no/state", "create", "--bundle"]).arg(case.bundle()).arg(&case.id);
    case.finish(command.stdin(case.stdin()), &case.files()).refused(&["/proc/no/state"]);
    case.nothing_left();
}

/// What cannot be read cannot be undone, but it can be removed.
#[test]
fn a_broken_state_is_removed_by_force_alone() {
    let case = Case::new();
    not_on!(case, "runc", "keeps it elsewhere");
    not_on!(case, "crun", "keeps it elsewhere");
    let dir = case.state_dir().join(&case.id);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("state.json"), "{ not json").unwrap();
    assert_ne!(case.delete().code, 0);
    let out = case.call(&["delete", "--force", &case.id]).ok();
    assert!(out.stderr.contains("state.json"), "it is told: {out}");
    assert!(!dir.exists());
}

/// Too few descriptors for the runtime itself.
#[test]
fn a_caller_with_few_descriptors_leaves_nothing() {
    for limit in 4..12 {
        let case = Case::new();
        not_on!(case, "runc", "cannot even start");
        not_on!(case, "crun", "keeps it elsewhere");
        case.write();
        let plain = case.command();
        let mut command = std::process::Command::new("prlimit");
        command.arg(format!("--nofile={limit}:{limit}")).arg(plain.get_program()).args(plain.get_args());
        command.arg("create").arg("--bundle").arg(case.bundle()).arg(&case.id).stdin(case.stdin());
        let out = case.finish(&mut command, &case.files());
        assert_ne!(out.code, 0, "{out}");
        case.nothing_left();
    }
}
