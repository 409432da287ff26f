//! The verbs beside the life of a container: list, state, ps, pause, resume, spec, features, and the global flags.

use integration::case::Case;
use integration::command;
use integration::{cgroups, not_on, skip};
use serde_json::{Value, json};

#[test]
fn list_shows_what_there_is_in_three_forms() {
    let case = Case::new();
    std::fs::create_dir(case.state_dir()).unwrap();
    assert_eq!(case.call(&["list", "--quiet"]).ok().stdout, "");
    case.hold();

    assert_eq!(case.call(&["list", "-q"]).ok().stdout, format!("{}\n", case.id));

    let table = case.call(&["list"]).ok().stdout;
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert_eq!(
        &lines[0][..4],
        ["ID", "PID", "STATUS", "BUNDLE"].map(|w| if w == "ID" && lines[0][0] == "NAME" { "NAME" } else { w })
    );
    assert_eq!(lines[1][0], case.id);
    assert_eq!(lines[1][1], case.pid().to_string());
    assert_eq!(lines[1][2], "running");
    assert_eq!(lines[1][3], case.bundle().to_str().unwrap());

    let all = case.call(&["list", "--format", "json"]).ok().json();
    let one = &all.as_array().expect("a list")[0];
    assert_eq!(one["id"], case.id.as_str());
    assert_eq!(one["pid"], case.pid());
    assert_eq!(one["status"], "running");
    assert_eq!(one["bundle"], case.bundle().to_str().unwrap());
}

#[test]
fn list_of_nothing_is_an_empty_answer() {
    let case = Case::new();
    std::fs::create_dir(case.state_dir()).unwrap();
    let all = case.call(&["list", "--format", "json"]).ok().json();
    assert!(all.is_null() || all == json!([]), "{all}");
}

#[test]
fn list_below_a_root_that_is_not_there_fails() {
    let case = Case::new();
    not_on!(case, "runc version 1.1", "makes the root first");
    not_on!(case, "crun", "lists nothing");
    let out = case.call(&["list"]).is(1);
    assert!(out.stderr.contains(case.state_dir().to_str().unwrap()), "{out}");
    assert!(!case.state_dir().exists(), "looking makes nothing");
}

#[test]
fn state_carries_the_annotations() {
    let mut case = Case::new();
    case.spec["annotations"] = json!({ "org.example.answer": "42" });
    case.create().ok();
    let state = case.state();
    assert_eq!(state["annotations"]["org.example.answer"], "42");
    let version = state["ociVersion"].as_str().expect("a version");
    assert!(version.starts_with("1."), "{version}");
}

#[test]
fn ps_shows_every_process_of_the_container() {
    let mut case = Case::new();
    case.args(&["/probe", "crowd", "2"]);
    case.hold();
    let pids = case.call(&["ps", "--format", "json", &case.id]).ok().json();
    let pids: Vec<i64> = pids.as_array().expect("a list").iter().map(|p| p.as_i64().expect("a number")).collect();
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.contains(&i64::from(case.pid())));

    let table = case.call(&["ps", &case.id]).ok().stdout;
    assert!(table.contains("PID"), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[test]
fn pause_stops_every_process_and_resume_lets_them_go_on() {
    let case = Case::new();
    if !cgroups::has("freezer") && cgroups::mode() != cgroups::Mode::V2 {
        skip!("no freezer on this machine");
    }
    case.hold();
    case.call(&["pause", &case.id]).ok();
    assert_eq!(case.status(), "paused");
    case.kill("USR1").ok();
    assert!(!case.output().contains("SIGUSR1"), "a frozen process does not run");
    case.call(&["resume", &case.id]).ok();
    case.says("SIGUSR1");
    assert_eq!(case.status(), "running");
    case.kill("TERM").ok();
    assert_eq!(case.wait(), 0);
}

#[test]
fn a_paused_container_can_be_killed_and_deleted_by_force() {
    let case = Case::new();
    case.hold();
    case.call(&["pause", &case.id]).ok();
    case.call(&["delete", "--force", &case.id]).ok();
    assert_eq!(case.wait(), 137);
    case.nothing_left();
}

#[test]
fn exec_into_a_paused_container_is_refused() {
    let case = Case::new();
    not_on!(case, "crun", "waits in the frozen cgroup instead of refusing");
    case.hold();
    case.call(&["pause", &case.id]).ok();
    let out = case.exec(&["/probe", "say", "hello"]);
    assert_ne!(out.code, 0, "{out}");
    case.call(&["resume", &case.id]).ok();
}

#[test]
fn pause_of_a_stopped_container_is_refused() {
    let case = Case::new();
    case.hold();
    case.kill("KILL").ok();
    case.wait();
    case.call(&["pause", &case.id]).refused(&[&case.id]);
    case.call(&["resume", &case.id]).refused(&[&case.id]);
}

#[test]
fn spec_writes_a_configuration_that_runs() {
    let mut case = Case::new();
    case.call(&["spec", "--bundle", case.bundle().to_str().unwrap()]).ok();
    let text = std::fs::read_to_string(case.bundle().join("config.json")).unwrap();
    let mut spec: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(spec["process"]["terminal"], true);
    assert_eq!(spec["process"]["args"], json!(["sh"]));
    assert_eq!(spec["root"]["path"], "rootfs");
    // It is written for a shell on a terminal: the probe needs neither.
    spec["process"]["terminal"] = json!(false);
    spec["linux"]["cgroupsPath"] = case.spec["linux"]["cgroupsPath"].clone();
    case.spec = spec;
    let report = case.report();
    assert_eq!(report.pid, 1);
    assert_eq!(report.processes.len(), 1);

    // What is there is not overwritten.
    let out = case.call(&["spec", "--bundle", case.bundle().to_str().unwrap()]);
    out.refused(&["config.json", "exists"]);
}

#[test]
fn spec_for_an_ordinary_user_has_a_user_namespace() {
    let case = Case::new();
    not_on!(case, "crun", "writes no mappings");
    case.call(&["spec", "--rootless", "--bundle", case.bundle().to_str().unwrap()]).ok();
    let text = std::fs::read_to_string(case.bundle().join("config.json")).unwrap();
    let spec: Value = serde_json::from_str(&text).unwrap();
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.iter().any(|n| n["type"] == "user"));
    assert_eq!(spec["linux"]["uidMappings"][0]["containerID"], 0);
    assert_eq!(spec["linux"]["gidMappings"][0]["size"], 1);
}

#[test]
fn features_says_what_the_runtime_can_do() {
    let case = Case::new();
    not_on!(case, "crun version 1.8.1", "has no `features` verb");
    let features = case.call(&["features"]).ok().json();
    assert!(features["ociVersionMin"].as_str().unwrap().starts_with("1.0"));
    assert!(features["ociVersionMax"].as_str().unwrap().starts_with("1."));
    let has = |list: &Value, word: &str| list.as_array().is_some_and(|l| l.iter().any(|v| v == word));
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        assert!(has(&features["hooks"], hook), "{hook}: {features}");
    }
    for option in ["bind", "rbind", "ro", "nosuid", "rslave", "strictatime"] {
        assert!(has(&features["mountOptions"], option), "{option}: {features}");
    }
    let linux = &features["linux"];
    for namespace in ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"] {
        assert!(has(&linux["namespaces"], namespace), "{namespace}: {features}");
    }
    assert!(has(&linux["capabilities"], "CAP_SYS_ADMIN"), "{features}");
    assert_eq!(linux["cgroup"]["v1"], true, "{features}");
    assert_eq!(linux["cgroup"]["v2"], true, "{features}");
    assert_eq!(linux["seccomp"]["enabled"], true, "{features}");
    assert!(has(&linux["seccomp"]["actions"], "SCMP_ACT_ERRNO"), "{features}");
}

#[test]
fn errors_go_to_the_log_as_json_lines() {
    let mut case = Case::new();
    not_on!(case, "crun", "newer ones write an object over several lines");
    let log = case.dir.join("log.json");
    case.global = ["--log", log.to_str().unwrap(), "--log-format", "json"].map(str::to_owned).to_vec();
    case.call(&["start", &case.id]).is(1);
    let text = std::fs::read_to_string(&log).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("a line of JSON");
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().is_some_and(|m| !m.is_empty()), "{line}");
    let time = line["time"].as_str().expect("a time");
    // 2006-01-02T15:04:05, and a zone: what engines parse.
    assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
}

#[test]
fn errors_go_to_the_log_as_text() {
    let mut case = Case::new();
    let log = case.dir.join("log.txt");
    case.global = ["--log", log.to_str().unwrap()].map(str::to_owned).to_vec();
    case.call(&["start", &case.id]).is(1);
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn version_and_help_answer_without_work() {
    let case = Case::new();
    for words in [&["--version"][..], &["--help"], &["create", "--help"]] {
        let out = case.call(words).ok();
        assert!(!out.stdout.is_empty(), "{out}");
    }
    // Docker and containerd take it apart: the name and the version, the commit, the specification's version.
    for flag in ["--version", "-v"] {
        if flag == "-v" && case.runtime.is("crun") {
            continue;
        }
        let version = case.call(&[flag]).ok().stdout;
        let first: Vec<&str> = version.lines().next().unwrap_or_default().split(' ').collect();
        assert!(first.len() == 3 && first[1] == "version" && first[2].starts_with(|c: char| c.is_ascii_digit()));
        assert!(version.lines().any(|line| line.starts_with("commit: ")), "{version}");
        assert!(version.lines().any(|line| line.starts_with("spec: 1.")), "{version}");
    }
    assert!(!case.state_dir().exists() || std::fs::read_dir(case.state_dir()).unwrap().count() == 0);
}

#[test]
fn an_unknown_verb_or_flag_is_refused() {
    let case = Case::new();
    for words in [&["nonsense"][..], &["create", "--nonsense", "x"], &["--nonsense", "list"]] {
        let out = case.call(words);
        assert_ne!(out.code, 0, "{out}");
        assert!(out.stderr.contains("nonsense") || out.stdout.contains("nonsense"), "{out}");
    }
    not_on!(case, "crun", "has statuses of its own");
    case.call(&["nonsense"]).is(3);
    assert!(!case.call(&[]).ok().stdout.is_empty(), "who asks for nothing is shown what there is");
}

#[test]
fn a_failure_is_no_other_where_nobody_reads_of_it() {
    let mut case = Case::new();
    not_on!(case, "runc", "dies of the signal");
    not_on!(case, "crun", "dies of the signal");
    case.global = ["--log", case.dir.join("log").to_str().unwrap()].map(str::to_owned).to_vec();
    for words in [&["state", "nothing"][..], &["create", "--nonsense"], &["--log", "/nonsense/log", "list"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(command::code(case.command().args(words).stderr(writer).status().unwrap()), 1, "{words:?}");
    }
}

#[test]
fn debug_tells_the_steps_and_changes_nothing_else() {
    let mut case = Case::new();
    let log = case.dir.join("debug.log");
    case.global.extend(["--debug", "--log", log.to_str().unwrap()].map(str::to_owned));
    case.args(&["/probe", "say", "hello"]);
    assert_eq!(case.run().ok().stdout, "hello\n");
    if case.runtime.kind != integration::programs::Kind::Crun {
        assert!(std::fs::read_to_string(&log).unwrap().lines().count() > 1, "more than one line of trace");
    }
}

#[test]
fn the_state_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let case = Case::new();
    case.create().ok();
    let mode = std::fs::metadata(case.state_dir().join(&case.id)).unwrap().permissions().mode();
    let root = std::fs::metadata(case.state_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o022, 0, "nobody else writes there: {mode:o}");
    assert_eq!(root & 0o022, 0, "nobody else writes there: {root:o}");
    assert_eq!((mode & root) & 0o007, 0, "nobody else reads there: {root:o} {mode:o}");
}

#[test]
fn two_state_directories_do_not_see_each_other() {
    let case = Case::new();
    case.create().ok();
    let other = Case::new();
    std::fs::create_dir(other.state_dir()).unwrap();
    assert_eq!(other.call(&["list", "-q"]).ok().stdout, "");
    let mut command = other.command();
    command.args(["state", &case.id]);
    assert_eq!(command::run(&mut command, &other.files()).code, 1);
}
