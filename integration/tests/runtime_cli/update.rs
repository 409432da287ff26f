//! `update`: limits of a container that lives are changed, kept, and left alone where nothing was asked.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use integration::case::Case;
use integration::cgroups::{self, Mode};
use integration::command::{self, Out};
use integration::{not_on, skip};
use serde_json::{Value, json};

macro_rules! needs {
    ($($controller:expr),*) => {
        $(if !cgroups::has($controller) {
            skip!("the {} controller is not available in this cgroup hierarchy", $controller);
        })*
    };
}

fn update(case: &Case, flags: &[&str]) -> Out {
    let mut words = vec!["update"];
    words.extend(flags);
    words.push(&case.id);
    case.call(&words)
}

fn value(case: &Case, controller: &str, names: (&str, &str)) -> String {
    cgroups::value(case.pid(), controller, names).unwrap()
}

const LIMIT: (&str, &str) = ("memory.limit_in_bytes", "memory.max");

/// Quota and period, -1 for none.
fn bandwidth(case: &Case) -> (String, String) {
    if cgroups::mode() == Mode::V2 {
        let max = value(case, "cpu", ("", "cpu.max"));
        let (quota, period) = max.split_once(' ').unwrap();
        return (if quota == "max" { "-1" } else { quota }.to_owned(), period.to_owned());
    }
    (value(case, "cpu", ("cpu.cfs_quota_us", "")), value(case, "cpu", ("cpu.cfs_period_us", "")))
}

fn words(quota: &str, period: &str) -> (String, String) {
    (quota.to_owned(), period.to_owned())
}

#[test]
fn memory_is_changed_with_and_without_units_and_freed() {
    let mut case = Case::new();
    needs!("memory");
    case.spec["linux"]["resources"]["memory"] = json!({ "limit": 33_554_432, "reservation": 25_165_824 });
    case.hold();
    for (flag, bytes) in [("67108864", "67108864"), ("50M", "52428800")] {
        if case.runtime.kind == integration::programs::Kind::Crun && flag.ends_with('M') {
            continue;
        }
        update(&case, &["--memory", flag]).ok();
        assert_eq!(value(&case, "memory", LIMIT), bytes);
    }
    assert_eq!(value(&case, "memory", ("memory.soft_limit_in_bytes", "memory.low")), "25165824", "not asked for");
    update(&case, &["--memory-reservation", "33554432"]).ok();
    assert_eq!(value(&case, "memory", ("memory.soft_limit_in_bytes", "memory.low")), "33554432");
    if case.runtime.kind == integration::programs::Kind::Crun {
        return;
    }
    update(&case, &["--memory", "-1"]).ok();
    let limit = value(&case, "memory", LIMIT);
    assert!(limit == "max" || limit.parse::<u64>().unwrap() > 1 << 60, "{limit}");
}

#[test]
fn memory_with_swap_goes_up_and_down_in_one_call() {
    let mut case = Case::new();
    not_on!(case, "crun", "takes no units, and writes in one order");
    needs!("memory");
    case.spec["linux"]["resources"]["memory"] = json!({ "limit": 33_554_432 });
    case.hold();
    let dir = cgroups::dir(case.pid(), "memory").unwrap();
    let file = dir.join(if cgroups::mode() == Mode::V2 { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" });
    if !file.exists() {
        skip!("the kernel does not account for swap");
    }
    for (limit, both) in [(30, 50), (60, 80), (20, 40)] {
        update(&case, &["--memory", &format!("{limit}M"), "--memory-swap", &format!("{both}M")]).ok();
        assert_eq!(value(&case, "memory", LIMIT), (limit << 20).to_string());
        // v1 counts both together, v2 swap alone.
        let swap = if cgroups::mode() == Mode::V2 { both - limit } else { both };
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), (swap << 20).to_string());
    }
    // Less than the memory alone.
    let out = update(&case, &["--memory-swap", "10M"]);
    assert_ne!(out.code, 0, "{out}");
    assert_eq!(value(&case, "memory", LIMIT), (20 << 20).to_string(), "nothing has changed");
    update(&case, &["--memory-swap", "-1"]).ok();
    let swap = fs::read_to_string(&file).unwrap();
    assert!(swap.trim() == "max" || swap.trim().parse::<u64>().unwrap() > 1 << 60, "{swap}");
}

#[test]
fn quota_and_period_keep_each_others_last_value() {
    let mut case = Case::new();
    not_on!(case, "crun", "forgets the one that is not named");
    needs!("cpu");
    case.spec["linux"]["resources"]["cpu"] = json!({ "shares": 100, "quota": 500_000, "period": 1_000_000 });
    case.hold();
    for (flags, expected) in [
        // systemd keeps quota by whole percents of the period.
        (&["--cpu-period", "900000"][..], words(if cgroups::by_systemd() { "504000" } else { "500000" }, "900000")),
        (&["--cpu-quota", "600000"], words(if cgroups::by_systemd() { "603000" } else { "600000" }, "900000")),
        (&["--cpu-quota", "-1"], words("-1", "900000")),
        (&["--cpu-quota", "-1", "--cpu-period", "100000"], words("-1", "100000")),
        (&["--cpu-period", "10000", "--cpu-quota", "3000"], words("3000", "10000")),
        (&["--cpu-period", "0", "--cpu-quota", "0", "--cpu-share", "0"], words("3000", "10000")),
    ] {
        update(&case, flags).ok();
        assert_eq!(bandwidth(&case), expected, "{flags:?}");
    }
    update(&case, &["--cpu-share", "2048"]).ok();
    let shares = value(&case, "cpu", ("cpu.shares", "cpu.weight"));
    // Of v2: by either of the two formulas.
    assert!(["2048", "79", "174"].contains(&shares.as_str()), "{shares}");
    assert_eq!(bandwidth(&case), words("3000", "10000"));
}

#[test]
fn what_was_set_once_counts_for_the_next_update() {
    let case = Case::new();
    not_on!(case, "crun", "forgets the one that is not named");
    not_on!(case, "runc", "forgets quota and period when an update names neither");
    needs!("cpu", "pids");
    case.hold();
    update(&case, &["--cpu-quota", "30000"]).ok();
    assert_eq!(bandwidth(&case), words("30000", "100000"));
    update(&case, &["--pids-limit", "40"]).ok();
    update(&case, &["--cpu-period", "50000"]).ok();
    assert_eq!(bandwidth(&case), words("30000", "50000"));
}

#[test]
fn burst_and_idle_take_zero_for_a_value() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "knows neither");
    not_on!(case, "crun", "knows neither");
    needs!("cpu");
    case.spec["linux"]["resources"]["cpu"] = json!({ "quota": 500_000, "period": 1_000_000 });
    case.hold();
    let burst = || value(&case, "cpu", ("cpu.cfs_burst_us", "cpu.max.burst"));
    update(&case, &["--cpu-burst", "100000"]).ok();
    assert_eq!(burst(), "100000");
    update(&case, &["--cpu-quota", "400000"]).ok();
    assert_eq!(burst(), "100000");
    update(&case, &["--cpu-burst", "0"]).ok();
    assert_eq!(burst(), "0");
    let idle = || value(&case, "cpu", ("cpu.idle", "cpu.idle"));
    for wanted in ["1", "0", "1"] {
        update(&case, &["--cpu-idle", wanted]).ok();
        assert_eq!(idle(), wanted);
    }
    for wrong in ["-1", "2"] {
        update(&case, &["--cpu-idle", wrong]).refused(&["cpu.idle"]);
        assert_eq!(idle(), "1");
    }
    update(&case, &["--cpu-period", "900000"]).ok();
    assert_eq!(idle(), "1");
}

#[test]
fn a_weight_beside_idleness_is_ignored_with_a_word() {
    let mut case = Case::new();
    not_on!(case, "runc", "says so and fails then, with half of it done");
    not_on!(case, "crun", "does not know idleness");
    needs!("cpu");
    case.spec["linux"]["resources"]["cpu"] = json!({ "idle": 1, "shares": 500 });
    case.hold();
    let idle = || value(&case, "cpu", ("cpu.idle", "cpu.idle"));
    assert_eq!(idle(), "1");
    update(&case, &["--cpu-idle", "0"]).ok();
    assert_eq!(idle(), "0");
    let said = update(&case, &["--cpu-share", "200", "--cpu-idle", "1"]).ok();
    assert!(said.stderr.contains("unable to apply both"), "{said}");
    assert_eq!(idle(), "1");
    // Whoever is not idle any more can have a weight again.
    update(&case, &["--cpu-share", "200", "--cpu-idle", "0"]).ok();
    assert_eq!(idle(), "0");
    assert_eq!(
        value(&case, "cpu", ("cpu.shares", "cpu.weight")),
        if cgroups::mode() == Mode::V2 { "29" } else { "200" }
    );
}

#[test]
fn processors_and_numbers_of_processes_are_changed() {
    let mut case = Case::new();
    needs!("cpuset", "pids");
    case.spec["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    case.hold();
    update(&case, &["--cpuset-cpus", "0", "--cpuset-mems", "0"]).ok();
    assert_eq!(value(&case, "cpuset", ("cpuset.cpus", "cpuset.cpus")), "0");
    let pids = || value(&case, "pids", ("pids.max", "pids.max"));
    assert_eq!(pids(), "20");
    let crun = case.runtime.kind == integration::programs::Kind::Crun;
    for (flag, expected) in [("12345", "12345"), ("-1", "max"), ("0", "1")] {
        if crun && flag != "12345" {
            continue;
        }
        if flag == "0" && case.runtime.is("runc version 1.1") {
            // It took 0 for no limit then.
            continue;
        }
        update(&case, &["--pids-limit", flag]).ok();
        assert_eq!(pids(), expected, "{flag}");
    }
}

#[test]
fn limits_come_from_a_file_or_standard_input() {
    let case = Case::new();
    needs!("memory", "pids", "cpu");
    case.hold();
    let file = case.dir.join("limits.json");
    let limits = |memory: u64, pids: u64| json!({ "memory": { "limit": memory }, "pids": { "limit": pids } });
    fs::write(&file, limits(67_108_864, 30).to_string()).unwrap();
    update(&case, &["--resources", file.to_str().unwrap()]).ok();
    assert_eq!(value(&case, "memory", LIMIT), "67108864");
    assert_eq!(value(&case, "pids", ("pids.max", "pids.max")), "30");

    let out = from_stdin(&case, &limits(33_554_432, 25));
    assert_eq!(out.code, 0, "{out}");
    assert_eq!(value(&case, "memory", LIMIT), "33554432");
    assert_eq!(value(&case, "pids", ("pids.max", "pids.max")), "25");

    not_on!(case, "crun", "takes a text for a number");
    fs::write(&file, r#"{"memory":{"limit":"much"}}"#).unwrap();
    update(&case, &["-r", file.to_str().unwrap()]).refused(&["limits.json", "memory.limit"]);
}

fn from_stdin(case: &Case, limits: &Value) -> Out {
    let mut command = case.command();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(limits.to_string().as_bytes()).unwrap();
    drop(writer);
    command.args(["update", "-r", "-", &case.id]).stdin(Stdio::from(reader));
    command::run(&mut command, &case.files())
}

#[test]
fn a_refused_update_changes_nothing() {
    let mut case = Case::new();
    not_on!(case, "crun", "leaves the first half in force");
    needs!("pids", "cpuset");
    case.spec["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    case.hold();
    update(&case, &["--pids-limit", "30", "--cpuset-cpus", "4000"]).refused(&["cpuset.cpus", "4000"]);
    assert_eq!(value(&case, "pids", ("pids.max", "pids.max")), "20");
}

#[test]
fn a_paused_container_is_changed_and_stays_paused() {
    let case = Case::new();
    needs!("pids");
    case.hold();
    case.call(&["pause", &case.id]).ok();
    update(&case, &["--pids-limit", "30"]).ok();
    assert_eq!(case.status(), "paused");
    assert_eq!(value(&case, "pids", ("pids.max", "pids.max")), "30");
    case.call(&["resume", &case.id]).ok();
}

#[test]
fn devices_stay_open_through_an_update() {
    let case = Case::new();
    needs!("pids");
    case.hold();
    update(&case, &["--pids-limit", "50"]).ok();
    case.exec_attempts(&[("openw /dev/null", Ok(""))]);
}

#[test]
fn less_memory_than_is_used_can_be_refused() {
    let case = Case::new();
    not_on!(case, "crun", "does not check");
    not_on!(case, "runc version 1.1.5", "does not check");
    needs!("memory");
    if cgroups::mode() != Mode::V2 {
        skip!("v1's kernel checks by itself");
    }
    case.hold();
    let out = from_stdin(&case, &json!({ "memory": { "limit": 1024, "checkBeforeUpdate": true } }));
    assert!(out.code != 0 && out.stderr.contains("rejecting memory limit"), "{out}");
    let limits = json!({ "memory": { "limit": 1024, "swap": 2048, "checkBeforeUpdate": true } });
    let out = from_stdin(&case, &limits);
    assert!(out.code != 0 && out.stderr.contains("rejecting memory+swap limit"), "{out}");
    assert_eq!(case.status(), "running");
}

#[test]
fn a_setting_by_file_name_is_changed_on_v2() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8.1", "cannot run on cgroup v2 alone without CAP_SYS_RESOURCE");
    drop(case);
    case = Case::on_v2();
    case.hold();
    let out = from_stdin(&case, &json!({ "unified": { "cgroup.max.descendants": "7" } }));
    assert_eq!(out.code, 0, "{out}");
    let file = case.cgroup_dir().join("cgroup.max.descendants");
    assert_eq!(fs::read_to_string(file).unwrap().trim(), "7");
    // Not by another name, and nowhere else.
    let out = from_stdin(&case, &json!({ "unified": { "../cgroup.max.depth": "7" } }));
    assert_ne!(out.code, 0, "{out}");
}

#[test]
fn a_stopped_or_absent_container_and_bad_flags_are_refused() {
    let case = Case::new();
    not_on!(case, "crun", "updates what is stopped, and takes a text for a number");
    case.hold();
    for (flags, word) in [
        (["--memory", "much"], "memory"),
        (["--cpu-period", "-5"], "cpu-period"),
        (["--pids-limit", "many"], "pids-limit"),
    ] {
        let out = update(&case, &flags);
        assert!(out.code != 0 && out.stderr.contains(word), "{out}");
    }
    case.kill("KILL").ok();
    case.wait();
    update(&case, &["--pids-limit", "30"]).refused(&[&case.id, "not running"]);
    case.delete().ok();
    update(&case, &["--pids-limit", "30"]).refused(&[&case.id, "does not exist"]);
}

#[test]
fn kernel_memory_is_ignored_with_a_warning() {
    let case = Case::new();
    not_on!(case, "crun", "writes it");
    case.hold();
    let out = update(&case, &["--kernel-memory", "64m"]).ok();
    assert!(out.stderr.contains("ernel"), "{out}");
}
