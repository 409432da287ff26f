//! The systemd cgroup driver: what the manager knows of a container, and what is in the cgroup's files. Needs a host that
//! systemd has booted (`hack/vm`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock};

use integration::case::Case;
use integration::cgroups::{self, Mode};
use integration::{leak, not_on, skip};
use serde_json::json;

macro_rules! needs_systemd {
    () => {
        if !Path::new("/run/systemd/system").is_dir() {
            skip!("systemd has not booted this machine");
        }
    };
}

/// A reload has systemd write all the files that it knows of all units anew, also those that are set to what it has no
/// property for. Who looks at such a file holds this.
static RELOADS: RwLock<()> = RwLock::new(());

fn reload() {
    let _alone = RELOADS.write().unwrap_or_else(PoisonError::into_inner);
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
}

fn case() -> Case {
    let mut case = Case::new();
    if !cgroups::by_systemd() {
        case.systemd();
    }
    case
}

fn unit(case: &Case) -> String {
    format!("test-{}.scope", case.id)
}

/// The unit's property, as systemctl shows it.
fn property(unit: &str, name: &str) -> String {
    let out = Command::new("systemctl").args(["show", "--value", "-p", name, unit]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// The cgroup of a process, where v2 is mounted.
fn dir_of(pid: i32) -> PathBuf {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new("/sys/fs/cgroup").join(path)
}

#[test]
fn a_container_is_a_scope_in_the_slice_that_was_asked_for() {
    needs_systemd!();
    let mut case = case();
    case.spec["linux"]["cgroupsPath"] = json!(format!("tare-nested.slice:test:{}", case.id));
    case.hold();
    let unit = unit(&case);
    assert_eq!(property(&unit, "ActiveState"), "active");
    assert_eq!(property(&unit, "Slice"), "tare-nested.slice");
    assert_eq!(property(&unit, "Delegate"), "yes");
    let place = property(&unit, "ControlGroup");
    assert_eq!(place, format!("/tare.slice/tare-nested.slice/{unit}"));
    assert!(fs::read_to_string(format!("/proc/{}/cgroup", case.pid())).unwrap().contains(&place));
    case.exec(&["/probe", "report"]).ok();
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    assert_eq!(property(&unit, "LoadState"), "not-found");
    case.nothing_left();
    let _ = Command::new("systemctl").args(["stop", "tare-nested.slice", "tare.slice"]).status();
}

#[test]
fn without_a_path_the_scope_bears_the_id() {
    needs_systemd!();
    let mut case = case();
    case.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    case.hold();
    let lines = fs::read_to_string(format!("/proc/{}/cgroup", case.pid())).unwrap();
    assert!(lines.contains("/system.slice/") && lines.contains(&format!("-{}.scope", case.id)), "{lines}");
}

#[test]
fn limits_are_the_units_properties_and_the_files() {
    needs_systemd!();
    let mut case = case();
    if cgroups::mode() != Mode::V2 {
        skip!("written for cgroup v2");
    }
    case.spec["linux"]["resources"]["memory"] =
        json!({ "limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728 });
    case.spec["linux"]["resources"]["cpu"] =
        json!({ "shares": 2048, "quota": 12_345, "period": 50_000, "cpus": "0", "mems": "0" });
    case.spec["linux"]["resources"]["pids"] = json!({ "limit": 77 });
    case.hold();
    let unit = unit(&case);
    for (name, value) in [
        ("MemoryMax", "67108864"),
        ("MemoryLow", "33554432"),
        ("MemorySwapMax", "67108864"),
        // 12345 of 50000 µs is 24.69 %: systemd keeps whole percents.
        ("CPUQuotaPerSecUSec", "250ms"),
        ("CPUQuotaPeriodUSec", "50ms"),
        ("AllowedCPUs", "0"),
        ("AllowedMemoryNodes", "0"),
        ("TasksMax", "77"),
    ] {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    let weight = property(&unit, "CPUWeight");
    let files = |dir: &Path| {
        for (name, value) in [
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("memory.swap.max", "67108864"),
            ("cpu.max", "12500 50000"),
            ("cpu.weight", &*weight),
            ("cpuset.cpus", "0"),
            ("pids.max", "77"),
        ] {
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap().trim(), value, "{name}");
        }
    };
    files(&dir_of(case.pid()));
    // systemd writes all that it knows anew: nothing is lost.
    reload();
    files(&dir_of(case.pid()));
}

#[test]
fn systemd_need_not_be_reloaded_for_a_new_scope() {
    needs_systemd!();
    let mut case = case();
    not_on!(case, "runc", "sets limits in an order that systemd stumbles over");
    not_on!(case, "crun", "sets limits in an order that systemd stumbles over");
    if cgroups::mode() != Mode::V2 {
        skip!("written for cgroup v2");
    }
    case.spec["linux"]["resources"] = json!({
        "devices": [{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw" }],
        "pids": { "limit": 50 },
        "memory": { "limit": 67_108_864, "reservation": 33_554_432 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0" },
    });
    case.hold();
    assert_eq!(property(&unit(&case), "NeedDaemonReload"), "no");
}

#[test]
fn settings_by_file_name_are_properties_where_there_is_one() {
    needs_systemd!();
    let mut case = case();
    if cgroups::mode() != Mode::V2 {
        skip!("the unified settings are version 2's");
    }
    case.spec["linux"]["resources"]["unified"] =
        json!({ "memory.high": "50331648", "memory.oom.group": "1", "pids.max": "max", "cgroup.max.depth": "5" });
    let _none = RELOADS.read().unwrap_or_else(PoisonError::into_inner);
    case.hold();
    let (unit, dir) = (unit(&case), dir_of(case.pid()));
    assert_eq!(property(&unit, "MemoryHigh"), "50331648");
    assert_eq!(property(&unit, "TasksMax"), "infinity");
    for (name, value) in
        [("memory.high", "50331648"), ("memory.oom.group", "1"), ("pids.max", "max"), ("cgroup.max.depth", "5")]
    {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap().trim(), value, "{name}");
    }
}

#[test]
fn update_changes_property_and_file() {
    needs_systemd!();
    let case = case();
    if cgroups::mode() != Mode::V2 {
        skip!("written for cgroup v2");
    }
    case.hold();
    case.call(&["update", "--memory", "50331648", "--pids-limit", "33", "--cpu-quota", "20000", &case.id]).ok();
    let (unit, dir) = (unit(&case), dir_of(case.pid()));
    assert_eq!(property(&unit, "MemoryMax"), "50331648");
    assert_eq!(property(&unit, "TasksMax"), "33");
    assert_eq!(property(&unit, "CPUQuotaPerSecUSec"), "200ms");
    for (name, value) in [("memory.max", "50331648"), ("pids.max", "33"), ("cpu.max", "20000 100000")] {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap().trim(), value, "{name}");
    }
}

#[test]
fn annotations_are_properties_of_the_unit() {
    needs_systemd!();
    let mut case = case();
    case.spec["annotations"] = json!({
        "org.systemd.property.TimeoutStopUSec": "uint64 123000000",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.RuntimeMaxSec": "uint64 1000",
    });
    case.hold();
    let unit = unit(&case);
    assert_eq!(property(&unit, "TimeoutStopUSec"), "2min 3s");
    assert_eq!(property(&unit, "CollectMode"), "inactive-or-failed");
    assert_eq!(property(&unit, "RuntimeMaxUSec"), "16min 40s");
}

#[test]
fn an_annotation_that_is_no_value_is_refused() {
    needs_systemd!();
    let mut case = case();
    case.spec["annotations"] = json!({ "org.systemd.property.CollectMode": "nonsense" });
    case.create().refused(&["org.systemd.property.CollectMode"]);
    case.nothing_left();
}

#[test]
fn a_property_that_systemd_does_not_know_is_refused_and_leaves_nothing() {
    needs_systemd!();
    let mut case = case();
    case.spec["annotations"] = json!({ "org.systemd.property.NoSuchThing": "true" });
    case.create().refused(&["NoSuchThing"]);
    case.nothing_left();
}

#[test]
fn a_path_that_is_no_scope_is_refused() {
    needs_systemd!();
    let mut case = case();
    case.spec["linux"]["cgroupsPath"] = json!(format!("/{}", case.id));
    case.create().refused(&["slice:prefix:name"]);
    case.spec["linux"]["cgroupsPath"] = json!(format!("no-suffix:test:{}", case.id));
    case.create().refused(&["invalid slice name"]);
    case.nothing_left();
}

#[test]
fn a_scope_of_that_name_is_somebody_elses() {
    needs_systemd!();
    let first = case();
    first.hold();
    let mut second = case();
    second.spec["linux"]["cgroupsPath"] = first.spec["linux"]["cgroupsPath"].clone();
    assert_ne!(second.create().code, 0);
    second.nothing_left();
    assert_eq!(first.status(), "running");
    first.exec(&["/probe", "report"]).ok();
}

#[test]
fn delete_by_force_ends_the_scope() {
    needs_systemd!();
    let mut case = case();
    case.without_namespace("pid");
    case.hold();
    case.call(&["delete", "--force", &case.id]).ok();
    assert_eq!(property(&unit(&case), "LoadState"), "not-found");
    case.nothing_left();
}

#[test]
fn a_paused_container_goes_on() {
    needs_systemd!();
    let case = case();
    case.hold();
    case.call(&["pause", &case.id]).ok();
    assert_eq!(case.status(), "paused");
    case.call(&["resume", &case.id]).ok();
    assert_eq!(case.status(), "running");
    assert!(leak::cgroups(&case.id).iter().any(|dir| dir.to_string_lossy().ends_with(&unit(&case))));
}

#[test]
fn devices_are_filtered_also_after_a_reload() {
    needs_systemd!();
    let mut case = case();
    // systemd itself cannot say "any major number".
    let allowed = json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" });
    case.spec["linux"]["resources"]["devices"].as_array_mut().unwrap().push(allowed);
    case.hold();
    let check = || {
        case.exec_attempts(&[
            ("open /dev/zero", Ok("")),
            ("mknod /tmp/mem c 1 1", Ok("")),
            ("open /tmp/mem", Err("EPERM")),
        ]);
        case.exec_attempts(&[("unlink /tmp/mem", Ok(""))]);
    };
    check();
    reload();
    check();
}
