//! `events`: what a container uses, and that the kernel killed in it.

use std::fs;
use std::process::{Child, Command};

use integration::case::Case;
use integration::cgroups::{self, Mode};
use integration::command::{Files, LIMIT};
use integration::{not_on, skip, wait};
use serde_json::{Value, json};

/// `events` in the background.
fn watch(case: &Case, flags: &[&str]) -> (Child, Files) {
    let files = case.files();
    let mut command: Command = case.command();
    command.arg("events").args(flags).arg(&case.id);
    files.attach(&mut command);
    (command.spawn().unwrap(), files)
}

/// Waits for the end of `events`, and returns its lines.
fn ended(mut child: Child, files: &Files) -> Vec<Value> {
    assert!(wait::exited(child.id() as i32, LIMIT), "events did not end with the container");
    assert!(child.wait().unwrap().success(), "{}", fs::read_to_string(&files.stderr).unwrap_or_default());
    let text = fs::read_to_string(&files.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn one_line_has_what_the_container_uses() {
    let case = Case::new();
    not_on!(case, "crun", "has no `events` verb");
    case.hold();
    let out = case.call(&["events", "--stats", &case.id]).ok();
    assert_eq!(out.stdout.lines().count(), 1, "{out}");
    assert!(out.stdout.starts_with(&format!(r#"{{"type":"stats","id":"{}","data":{{"cpu":{{"#, case.id)), "{out}");
    let data = &out.json()["data"];
    assert_eq!(data["pids"]["current"], 1, "{out}");
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{out}");
    assert!(data["hugetlb"].is_object() && data["intel_rdt"].is_object() && data["blkio"].is_object(), "{out}");
    assert!(data["network_interfaces"].is_null(), "a loopback alone is none: {out}");
    if cgroups::has("memory") {
        assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{out}");
        assert!(!data["memory"]["raw"].as_object().unwrap().is_empty(), "{out}");
    }
    if cgroups::mode() != Mode::V2 {
        assert!(!data["cpu"]["usage"]["percpu"].as_array().unwrap().is_empty(), "{out}");
        assert!(!data["cpuset"]["cpus"].as_array().unwrap().is_empty(), "{out}");
    } else if !case.runtime.is("runc version 1.1") {
        assert!(data["cpu"]["psi"]["some"]["total"].is_number(), "{out}");
    }
}

#[test]
fn limits_and_their_effect_are_told() {
    let mut case = Case::new();
    not_on!(case, "crun", "has no `events` verb");
    if !cgroups::has("memory") || !cgroups::has("pids") {
        skip!("no memory or pids controller in this cgroup hierarchy");
    }
    case.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864 });
    case.spec["linux"]["resources"]["pids"] = json!({ "limit": 30 });
    case.hold();
    let data = &case.call(&["events", "--stats", &case.id]).ok().json()["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 67_108_864, "{data}");
    assert_eq!(data["pids"]["limit"], 30, "{data}");
}

#[test]
fn what_other_tools_parse_is_what_runc_prints() {
    let case = Case::new();
    not_on!(case, "crun", "has no `events` verb");
    if integration::programs::find(std::path::Path::new("runc")).is_none() {
        skip!("no runc to compare with");
    }
    case.hold();
    let ours = case.call(&["events", "--stats", &case.id]).ok().json();
    let runc =
        Case::with(integration::programs::Runtime::at(&integration::programs::on_path(std::path::Path::new("runc"))));
    runc.hold();
    let theirs = runc.call(&["events", "--stats", &runc.id]).ok().json();
    let missing: Vec<String> =
        names(&theirs, "").into_iter().filter(|name| ours.pointer(&name.replace('.', "/")).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} of {theirs}, in {ours}");
}

/// Every key with the keys above it. What depends on the moment is left out: zero is printed of some numbers and left out
/// of others, so a number is sure to be there only where it is printed as zero, or is one of the kernel's own list.
fn names(value: &Value, above: &str) -> Vec<String> {
    let Some(object) = value.as_object() else { return Vec::new() };
    let mut all = Vec::new();
    for (key, value) in object {
        let name = format!("{above}.{key}");
        let by_chance = value.as_f64().is_some_and(|number| number != 0.0) && !above.ends_with("memory.raw");
        if by_chance || (!value.is_object() && above.contains("blkio")) {
            continue;
        }
        all.extend(names(value, &name));
        all.push(name);
    }
    all
}

#[test]
fn lines_come_at_intervals_until_the_container_ends() {
    let case = Case::new();
    not_on!(case, "crun", "has no `events` verb");
    not_on!(case, "runc", "ends without the memory controller, and only when the cgroup is gone");
    case.hold();
    let (child, files) = watch(&case, &["--interval", "50ms"]);
    let lines = |count| wait::file(&files.stdout, LIMIT, |text| text.lines().count() >= count);
    assert!(lines(3), "three lines");
    case.kill("KILL").ok();
    case.wait();
    let events = ended(child, &files);
    assert!(events.iter().all(|event| event["type"] == "stats" && event["id"] == case.id.as_str()), "{events:?}");
    case.delete().ok();
}

#[test]
fn a_kill_for_want_of_memory_is_told_and_the_rest_lives_on() {
    let mut case = Case::new();
    not_on!(case, "crun", "has no `events` verb");
    if !cgroups::has("memory") {
        skip!("no memory controller in this cgroup hierarchy");
    }
    case.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864, "swap": 67_108_864 });
    case.hold();
    let (child, files) = watch(&case, &["--interval", "100ms"]);
    // It watches: what happens before that it cannot tell.
    assert!(wait::file(&files.stdout, LIMIT, |text| text.contains("stats")), "it has begun");
    case.exec(&["/probe", "try", "memory 200"]).is(137);
    let oom = format!(r#"{{"type":"oom","id":"{}"}}"#, case.id);
    assert!(wait::file(&files.stdout, LIMIT, |text| text.lines().any(|line| line == oom)), "an oom event");
    assert_eq!(case.status(), "running");
    case.call(&["delete", "--force", &case.id]).ok();
    case.wait();
    ended(child, &files);
}

#[test]
fn a_container_whose_own_program_is_killed_does_not_end_before_that_is_told() {
    let mut case = Case::new();
    not_on!(case, "crun", "has no `events` verb");
    not_on!(case, "runc", "ends when the cgroup is gone");
    if cgroups::by_systemd() {
        skip!("systemd removes the cgroup with its last process, perhaps before the count in it was read");
    }
    if !cgroups::has("memory") {
        skip!("no memory controller in this cgroup hierarchy");
    }
    case.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864, "swap": 67_108_864 });
    case.args(&["/probe", "try", "memory 200"]);
    case.create().ok();
    let (child, files) = watch(&case, &["--interval", "100ms"]);
    assert!(wait::file(&files.stdout, LIMIT, |text| text.contains("stats")), "it has begun");
    case.start().ok();
    assert_eq!(case.wait(), 137);
    let events = ended(child, &files);
    // The kernel tells of the kill before the program is gone: usage may be printed in between.
    assert!(events.contains(&json!({ "type": "oom", "id": case.id })), "{events:?}");
    case.delete().ok();
}

#[test]
fn a_stopped_container_and_bad_intervals_are_refused() {
    let case = Case::new();
    not_on!(case, "crun", "has no `events` verb");
    case.hold();
    case.call(&["events", "--interval", "0", &case.id]).refused(&["interval must be greater than 0"]);
    let out = case.call(&["events", "--interval", "soon", &case.id]);
    assert!(out.code != 0 && out.stderr.contains("interval"), "{out}");
    case.kill("KILL").ok();
    case.wait();
    case.call(&["events", "--stats", &case.id]).refused(&[&case.id, "is not running"]);
    case.delete().ok();
    case.call(&["events", &case.id]).refused(&[&case.id, "does not exist"]);
}
