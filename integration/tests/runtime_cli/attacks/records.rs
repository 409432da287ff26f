//! What is on record of a container, where others could change it: no verb waits for what lies there, acts on a process or a
//! cgroup that is another's, or says more than a line.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};

use integration::case::Case;
use integration::not_on;
use serde_json::{Value, json};

/// Nobody's id on an ordinary machine.
const USER: u32 = 61_236;

/// Every verb that looks for a container.
const VERBS: [&[&str]; 11] = [
    &["state"],
    &["start"],
    &["kill", "KILL"],
    &["kill", "--all", "KILL"],
    &["exec", "/probe", "exit", "0"],
    &["ps"],
    &["pause"],
    &["resume"],
    &["update", "--pids-limit", "7"],
    &["events", "--stats"],
    &["delete"],
];

/// The words of a verb with the id in its place.
fn words<'a>(verb: &[&'a str], id: &'a str) -> Vec<&'a str> {
    // Before what is not the verb itself or one of its flags.
    let at = match verb[0] {
        "update" => verb.len(),
        _ => 1 + verb[1..].iter().take_while(|word| word.starts_with("--")).count(),
    };
    [&verb[..at], &[id], &verb[at..]].concat()
}

/// A container that holds, and a second directory beside it, to be filled with what is not its own.
fn forged(case: &Case) -> (String, PathBuf, Value) {
    case.hold();
    let id = format!("{}-forged", case.id);
    let dir = case.state_dir().join(&id);
    fs::create_dir(&dir).unwrap();
    let own = case.state_dir().join(&case.id);
    fs::copy(own.join("config.json"), dir.join("config.json")).unwrap();
    let state = fs::read(own.join("state.json")).unwrap();
    (id, dir, serde_json::from_slice(&state).unwrap())
}

#[track_caller]
fn every_verb_refuses(case: &Case, id: &str, what: &str) {
    for verb in VERBS {
        let out = case.call(&words(verb, id));
        assert_ne!(out.code, 0, "{what}: {out}");
        assert_eq!(out.stderr.lines().count(), 1, "{what}: {out}");
        assert!(!out.stderr.contains("panicked"), "{what}: {out}");
    }
    let out = case.call(&["list", "--quiet"]).ok();
    assert_eq!(out.stdout.trim(), case.id, "{what}: {out}");
    assert_eq!(case.status(), "running", "{what}");
}

#[test]
fn a_record_that_is_something_else_is_not_waited_for() {
    let case = Case::new();
    not_on!(case, "runc", "keeps it elsewhere");
    not_on!(case, "crun", "keeps it elsewhere");
    let (id, dir, state) = forged(&case);
    let record = dir.join("state.json");
    let text = serde_json::to_vec(&state).unwrap();
    let elsewhere = case.dir.join("elsewhere");
    fs::write(&elsewhere, &text).unwrap();
    type Put<'a> = &'a dyn Fn(&Path);
    let forgeries: [(&str, Put<'_>); 7] = [
        ("a pipe", &|at| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("a link", &|at| symlink(&elsewhere, at).unwrap()),
        ("a device", &|at| symlink("/dev/zero", at).unwrap()),
        ("a directory", &|at| fs::create_dir(at).unwrap()),
        ("a file without end", &|at| fs::File::create(at).unwrap().set_len(1 << 40).unwrap()),
        ("the record of another", &|at| fs::write(at, &text).unwrap()),
        ("bytes", &|at| fs::write(at, [0xff, 0, b'{', b'\n']).unwrap()),
    ];
    for (what, put) in forgeries {
        fs::create_dir_all(&dir).unwrap();
        put(&record);
        every_verb_refuses(&case, &id, what);
        case.call(&["delete", "--force", &id]).ok();
        assert!(!dir.exists(), "{what}");
        assert_eq!(case.status(), "running", "{what}");
        assert!(elsewhere.exists());
    }
    case.call(&["delete", "--force", &case.id]).ok();
}

#[test]
fn a_process_that_got_the_number_of_an_init_is_not_it() {
    let case = Case::new();
    not_on!(case, "runc", "keeps it elsewhere");
    not_on!(case, "crun", "keeps it elsewhere");
    let (id, dir, mut state) = forged(&case);
    state["id"] = json!(id);
    for hierarchy in state["cgroup"]["hierarchies"].as_array_mut().unwrap() {
        hierarchy["path"] = json!(id);
    }
    // With systemd the scope is on record, too: it would end with this record.
    state["cgroup"].as_object_mut().unwrap().remove("unit");
    let born = state["startTime"].as_u64().unwrap();
    for (pid, start) in [(&state["pid"], born + 1), (&json!(1), born), (&json!(-1), born), (&json!(0), 0)] {
        fs::create_dir_all(&dir).unwrap();
        let mut forged = state.clone();
        forged["pid"] = pid.clone();
        forged["startTime"] = json!(start);
        fs::write(dir.join("state.json"), serde_json::to_vec(&forged).unwrap()).unwrap();
        let shown = case.call(&["state", &id]).ok().json();
        assert_eq!((&shown["status"], &shown["pid"]), (&json!("stopped"), &json!(0)), "{forged}");
        for verb in
            VERBS.iter().filter(|verb| !matches!(verb[0], "state" | "delete" | "ps") && verb[1..] != ["--all", "KILL"])
        {
            let out = case.call(&words(verb, &id));
            assert!(out.code != 0 && out.stderr.lines().count() == 1, "{forged}: {out}");
        }
        case.call(&["delete", &id]).ok();
        assert!(!dir.exists());
        assert_eq!(case.status(), "running", "{forged}");
    }
    case.call(&["delete", "--force", &case.id]).ok();
}

#[test]
fn the_record_of_another_user_is_not_acted_on() {
    // In a root directory that is open to all, or another's. Root would kill, enter and run what that user wants.
    let case = Case::new();
    not_on!(case, "runc", "acts on it");
    not_on!(case, "crun", "acts on it");
    let (id, dir, mut state) = forged(&case);
    state["id"] = json!(id);
    fs::write(dir.join("state.json"), serde_json::to_vec(&state).unwrap()).unwrap();
    chown(&dir, Some(USER), Some(USER)).unwrap();
    every_verb_refuses(&case, &id, "another user's");
    case.call(&["delete", "--force", &id]).refused(&[&id, &USER.to_string()]);
    case.call(&["create", "--bundle", case.bundle().to_str().unwrap(), &id]).refused(&["exists"]);
    assert_eq!(case.status(), "running");
    fs::remove_dir_all(&dir).unwrap();
    case.call(&["delete", "--force", &case.id]).ok();
}
