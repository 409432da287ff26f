//! Hooks: all six points, in order, with the state on stdin; the failure of one ends the container.

use std::fs;

use integration::case::Case;
use integration::not_on;
use integration::report::HookCall;
use serde_json::{Value, json};

const POINTS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn state(call: &HookCall) -> Value {
    serde_json::from_str(&call.stdin).unwrap_or_else(|e| panic!("{}: {e}: {}", call.name, call.stdin))
}

/// The order in which they ran, by the clock of the files: those inside and outside the container are two files.
fn names(calls: &[HookCall]) -> Vec<&str> {
    calls.iter().map(|c| c.name.as_str()).collect()
}

#[test]
fn all_six_run_once_each_in_order() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "runs poststart at the end of create");
    for point in POINTS {
        case.hook(point, &format!("{point}-1"), 0);
        case.hook(point, &format!("{point}-2"), 0);
    }
    case.create().ok();
    let after_create = case.hook_calls();
    let expected: Vec<String> = POINTS[..3].iter().flat_map(|p| [format!("{p}-1"), format!("{p}-2")]).collect();
    assert_eq!(names(&after_create), expected);

    case.start().ok();
    case.says("ready");
    assert_eq!(names(&case.hook_calls())[6..], ["poststart-1", "poststart-2", "startContainer-1", "startContainer-2"]);

    case.kill("TERM").ok();
    case.wait();
    assert_eq!(case.hook_calls().len(), 10, "poststop waits for delete");
    case.delete().ok();
    let calls = case.hook_calls();
    assert_eq!(names(&calls)[8..10], ["poststop-1", "poststop-2"]);
    assert_eq!(calls.len(), 12);
}

#[test]
fn each_is_told_the_state_on_stdin() {
    let mut case = Case::new();
    not_on!(case, "crun", "tells hooks inside the container that the bundle is /");
    case.spec["annotations"] = json!({ "org.example.key": "value" });
    for point in POINTS {
        case.hook(point, point, 0);
    }
    case.hold();
    let pid = case.pid();
    case.kill("TERM").ok();
    case.wait();
    case.delete().ok();
    let status = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    let calls = case.hook_calls();
    for (point, status) in status {
        let call = calls.iter().find(|c| c.name == point).unwrap_or_else(|| panic!("{point} did not run"));
        let state = state(call);
        assert_eq!(state["id"], case.id.as_str(), "{point}");
        assert_eq!(state["bundle"], case.bundle().to_str().unwrap(), "{point}");
        assert_eq!(state["annotations"]["org.example.key"], "value", "{point}");
        assert!(state["ociVersion"].is_string(), "{point}");
        if point != "poststop" && !(point == "startContainer" || point == "createContainer") {
            assert_eq!(state["pid"], pid, "{point} is told the host's process id");
        }
        if case.runtime.kind == integration::programs::Kind::Tare {
            assert_eq!(state["status"], status, "{point}");
        }
    }
}

#[test]
fn each_runs_where_it_belongs() {
    let mut case = Case::new();
    for point in POINTS {
        case.hook(point, point, 0);
    }
    case.hold();
    let init = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(format!("/proc/{}/ns/{name}", case.pid())).unwrap().ino()
    };
    let own = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(format!("/proc/thread-self/ns/{name}")).unwrap().ino()
    };
    let calls = case.hook_calls();
    for point in ["prestart", "createRuntime", "poststart"] {
        let call = calls.iter().find(|c| c.name == point).unwrap();
        for name in ["mnt", "net", "uts", "pid"] {
            assert_eq!(call.report.namespaces[name], own(name), "{point} runs on the host: {name}");
        }
        assert!(call.root.iter().any(|e| e == "usr"), "{point}: {:?}", call.root);
    }
    for point in ["createContainer", "startContainer"] {
        let call = calls.iter().find(|c| c.name == point).unwrap();
        for name in ["mnt", "net", "uts"] {
            assert_eq!(call.report.namespaces[name], init(name), "{point} runs in the container: {name}");
        }
    }
    let inside = calls.iter().find(|c| c.name == "startContainer").unwrap();
    assert!(inside.root.iter().any(|e| e == "probe"), "startContainer sees the container's root: {:?}", inside.root);
    // createContainer runs before the change of root: the host's files are still there.
    let between = calls.iter().find(|c| c.name == "createContainer").unwrap();
    assert!(between.root.iter().any(|e| e == "usr"), "{:?}", between.root);
}

#[test]
fn each_gets_its_own_arguments_and_environment() {
    let mut case = Case::new();
    not_on!(case, "crun", "blocks all signals in hooks");
    case.hook("createRuntime", "first", 0);
    case.run_detached(&[]).ok();
    let call = &case.hook_calls()[0];
    assert_eq!(call.report.args[0], "probe", "argv[0] is what was asked");
    assert_eq!(call.report.env["HOOK"], "yes");
    assert!(!call.report.env.contains_key("PATH") && !call.report.env.contains_key("HOME"), "{:?}", call.report.env);
    assert_eq!(call.report.signals.blocked, 0);
    let extra: Vec<_> = call.report.fds.keys().filter(|fd| **fd > 2).collect();
    assert!(extra.is_empty(), "no descriptor of the runtime: {:?}", call.report.fds);
}

#[test]
fn a_failing_hook_undoes_the_creation() {
    for point in ["prestart", "createRuntime", "createContainer"] {
        let mut case = Case::new();
        case.hook(point, "fails", 3);
        case.create().refused(&[point, "3"]);
        assert_eq!(names(&case.hook_calls())[0], "fails");
        case.nothing_left();
    }
}

#[test]
fn a_failing_hook_stops_those_after_it() {
    let mut case = Case::new();
    case.hook("createRuntime", "fails", 1).hook("createRuntime", "never", 0).hook("createContainer", "never", 0);
    case.create().refused(&["createRuntime"]);
    assert_eq!(names(&case.hook_calls())[0], "fails");
    assert!(!names(&case.hook_calls()).contains(&"never"));
}

#[test]
fn a_failing_start_container_hook_ends_the_container() {
    let mut case = Case::new();
    case.hook("startContainer", "fails", 3);
    case.create().ok();
    let out = case.start();
    assert_ne!(case.wait(), 0);
    assert!(out.peer || out.code == 1 && out.stderr.contains("startContainer"), "{out}");
    assert!(!case.output().contains("ready"), "the user's program did not run");
    case.call(&["delete", "--force", &case.id]).ok();
    case.nothing_left();
}

#[test]
fn a_failing_poststart_hook_is_told() {
    let mut case = Case::new();
    not_on!(case, "crun", "only warns");
    not_on!(case, "runc version 1.1", "runs poststart at the end of create");
    case.hook("poststart", "fails", 3);
    case.create().ok();
    let out = case.start();
    assert!(out.peer || out.stderr.contains("poststart"), "{out}");
    assert_eq!(names(&case.hook_calls()), ["fails"]);
}

#[test]
fn a_failing_poststop_hook_does_not_keep_the_container() {
    let mut case = Case::new();
    case.hook("poststop", "fails", 3).hook("poststop", "still-runs", 0);
    case.hold();
    case.kill("KILL").ok();
    case.wait();
    let _ = case.delete();
    assert!(names(&case.hook_calls()).contains(&"fails"));
    assert_eq!(case.call(&["list", "-q"]).ok().stdout, "");
    case.nothing_left();
}

#[test]
fn delete_with_force_runs_poststop() {
    let mut case = Case::new();
    case.hook("poststop", "after", 0);
    case.hold();
    case.call(&["delete", "--force", &case.id]).ok();
    assert_eq!(names(&case.hook_calls()), ["after"]);
}

#[test]
fn run_runs_them_all() {
    let mut case = Case::new();
    for point in POINTS {
        case.hook(point, point, 0);
    }
    case.args(&["/probe", "say", "between"]);
    let out = case.run().ok();
    assert!(out.stdout.contains("between"));
    let calls = case.hook_calls();
    let mut seen = names(&calls);
    seen.sort_unstable();
    let mut all = POINTS;
    all.sort_unstable();
    assert_eq!(seen, all);
    case.nothing_left();
    not_on!(case, "crun", "blocks signals in hooks");
    // What run itself waits for must not be deaf to signals in what a hook leaves in the background.
    assert!(calls.iter().all(|call| call.report.signals.blocked == 0), "signals are blocked: {calls:?}");
}

#[test]
fn a_hook_that_cannot_be_run_is_named() {
    let mut case = Case::new();
    case.spec["hooks"] = json!({ "createRuntime": [{ "path": "/no/such/hook" }] });
    case.create().refused(&["/no/such/hook"]);
    case.nothing_left();
    not_on!(case, "runc", "looks for relative hooks");
    not_on!(case, "crun", "looks for relative hooks");
    case.spec["hooks"] = json!({ "createRuntime": [{ "path": "relative/hook" }] });
    case.create().refused(&["hooks.createRuntime", "relative/hook"]);
    case.nothing_left();
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    let mut case = Case::new();
    let probe = case.rootfs().join("probe");
    case.spec["hooks"] = json!({ "createRuntime": [{ "path": probe, "args": ["probe", "wait"], "env": [format!("TARE_TEST={}", case.id)], "timeout": 1 }] });
    case.create().refused(&["createRuntime", "1"]);
    case.nothing_left();
}
