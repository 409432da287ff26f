//! Resource limits: written where the kernel reads them, and enforced.

use std::fs;
use std::path::Path;

use integration::case::Case;
use integration::cgroups::{self, Mode};
use integration::{not_on, skip};
use serde_json::json;

macro_rules! needs {
    ($controller:expr) => {
        // Asked after the case exists: it decides which hierarchy the thread is on.
        if !cgroups::has($controller) {
            skip!("the {} controller is not available in this cgroup hierarchy", $controller);
        }
    };
}

#[test]
fn the_container_is_in_the_cgroup_that_was_asked_for() {
    let mut case = Case::new();
    if cgroups::by_systemd() {
        skip!("systemd names it otherwise, which a test of its own looks at");
    }
    case.spec["linux"]["cgroupsPath"] = json!(format!("/{}/deep/er", case.id));
    case.hold();
    let lines = fs::read_to_string(format!("/proc/{}/cgroup", case.pid())).unwrap();
    assert!(lines.contains(&format!("/{}/deep/er\n", case.id)), "{lines}");
    if cgroups::mode() != Mode::V2 {
        for line in lines.lines().filter(|l| !l.starts_with("0::")) {
            assert!(line.ends_with("/deep/er"), "it is in every hierarchy: {line}");
        }
    }
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    let left: Vec<_> = integration::leak::cgroups(&case.id).into_iter().filter(|d| d.ends_with("er")).collect();
    assert!(left.is_empty(), "{left:?}");
    // The parents were asked for by name: whether they stay is the runtime's business.
    integration::leak::remove(&case.id);
}

#[test]
fn without_a_path_the_cgroup_bears_the_id() {
    let mut case = Case::new();
    case.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    case.hold();
    let lines = fs::read_to_string(format!("/proc/{}/cgroup", case.pid())).unwrap();
    assert!(lines.contains(&case.id), "{lines}");
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn every_cgroup_is_gone_after_delete() {
    let case = Case::new();
    case.hold();
    assert!(!integration::leak::cgroups(&case.id).is_empty());
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    assert!(integration::leak::cgroups(&case.id).is_empty());
}

#[test]
fn cgroups_that_the_container_made_are_removed_with_it() {
    let case = Case::new();
    case.hold();
    let own = cgroups::dir(case.pid(), "pids").or_else(|| (cgroups::mode() == Mode::V2).then(|| case.cgroup_dir()));
    let Some(own) = own else { skip!("no hierarchy to make a cgroup in") };
    fs::create_dir_all(own.join("made/inside")).unwrap();
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn memory_limits_are_written() {
    let mut case = Case::new();
    needs!("memory");
    case.spec["linux"]["resources"]["memory"] =
        json!({ "limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728 });
    case.hold();
    let value = |names| cgroups::value(case.pid(), "memory", names).unwrap();
    assert_eq!(value(("memory.limit_in_bytes", "memory.max")), "67108864");
    assert_eq!(value(("memory.soft_limit_in_bytes", "memory.low")), "33554432");
    let dir = cgroups::dir(case.pid(), "memory").unwrap();
    match cgroups::mode() {
        // v1 counts memory and swap together, v2 swap alone.
        Mode::V2 => assert_eq!(fs::read_to_string(dir.join("memory.swap.max")).unwrap().trim(), "67108864"),
        _ if dir.join("memory.memsw.limit_in_bytes").exists() => {
            assert_eq!(fs::read_to_string(dir.join("memory.memsw.limit_in_bytes")).unwrap().trim(), "134217728");
        }
        _ => {}
    }
}

#[test]
fn too_much_memory_is_death() {
    let mut case = Case::new();
    needs!("memory");
    case.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864, "swap": 67_108_864 });
    case.args(&["/probe", "try", "memory 200"]);
    case.create().ok();
    let oom = cgroups::dir(case.pid(), "memory").unwrap();
    case.start().ok();
    assert_eq!(case.wait(), 137);
    if cgroups::by_systemd() {
        // Its scope has gone with the process.
        return;
    }
    let (file, key) =
        if cgroups::mode() == Mode::V2 { ("memory.events", "oom_kill ") } else { ("memory.oom_control", "oom_kill ") };
    let events = fs::read_to_string(oom.join(file)).unwrap();
    let kills: u32 = events.lines().find_map(|l| l.strip_prefix(key)).unwrap().parse().unwrap();
    assert!(kills >= 1, "{events}");
    case.delete().ok();
}

#[test]
fn enough_memory_is_no_trouble() {
    let mut case = Case::new();
    needs!("memory");
    case.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864 });
    case.attempts(&[("memory 20", Ok("20971520"))]);
}

#[test]
fn cpu_limits_are_written() {
    let mut case = Case::new();
    needs!("cpu");
    case.spec["linux"]["resources"]["cpu"] = json!({ "shares": 512, "quota": 20_000, "period": 50_000 });
    case.hold();
    let value = |names| cgroups::value(case.pid(), "cpu", names).unwrap();
    if cgroups::mode() == Mode::V2 {
        assert_eq!(value(("", "cpu.max")), "20000 50000");
        let weight: u32 = value(("", "cpu.weight")).parse().unwrap();
        // 20 by the linear conversion, 59 by the one that keeps 1024 at 100.
        assert!(weight == 20 || weight == 59, "{weight}");
    } else {
        assert_eq!(value(("cpu.cfs_quota_us", "")), "20000");
        assert_eq!(value(("cpu.cfs_period_us", "")), "50000");
        assert_eq!(value(("cpu.shares", "")), "512");
    }
}

#[test]
fn processors_are_chosen() {
    let mut case = Case::new();
    needs!("cpuset");
    case.spec["linux"]["resources"]["cpu"] = json!({ "cpus": "0", "mems": "0" });
    case.attempts(&[("read /proc/self/cpuset", Ok(""))]);
    case.args(&["/probe", "hold"]);
    case.hold();
    assert_eq!(cgroups::value(case.pid(), "cpuset", ("cpuset.cpus", "cpuset.cpus")).unwrap(), "0");
    let status = fs::read_to_string(format!("/proc/{}/status", case.pid())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
}

#[test]
fn the_number_of_processes_is_limited() {
    let mut case = Case::new();
    needs!("pids");
    case.spec["linux"]["resources"]["pids"] = json!({ "limit": 15 });
    case.args(&["/probe", "try", "threads 100"]);
    let started: u32 = case.run().ok().outcomes()[0].value.parse().unwrap();
    assert!((5..15).contains(&started), "{started} threads under a limit of 15");
    case.args(&["/probe", "hold"]);
    case.hold();
    assert_eq!(cgroups::value(case.pid(), "pids", ("pids.max", "pids.max")).unwrap(), "15");
}

#[test]
fn a_limit_of_minus_one_is_no_limit() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8.1", "writes -1 as it is");
    needs!("pids");
    case.spec["linux"]["resources"]["pids"] = json!({ "limit": -1 });
    case.hold();
    assert_eq!(cgroups::value(case.pid(), "pids", ("pids.max", "pids.max")).unwrap(), "max");
}

#[test]
fn what_was_not_asked_for_is_not_limited() {
    let case = Case::new();
    needs!("memory");
    case.hold();
    let limit = cgroups::value(case.pid(), "memory", ("memory.limit_in_bytes", "memory.max")).unwrap();
    assert!(limit == "max" || limit.parse::<u64>().unwrap() > 1 << 60, "{limit}");
}

#[test]
fn settings_by_file_name_are_written_on_v2() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8.1", "cannot run on cgroup v2 alone without CAP_SYS_RESOURCE");
    drop(case);
    case = Case::on_v2();
    case.spec["linux"]["resources"]["unified"] = json!({ "cgroup.max.descendants": "5" });
    case.hold();
    let dir = case.cgroup_dir();
    assert_eq!(fs::read_to_string(dir.join("cgroup.max.descendants")).unwrap().trim(), "5");
}

#[test]
fn a_setting_by_a_name_that_leaves_the_cgroup_is_refused() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8.1", "cannot run on cgroup v2 alone without CAP_SYS_RESOURCE");
    drop(case);
    case = Case::on_v2();
    case.spec["linux"]["resources"]["unified"] = json!({ "../cgroup.max.depth": "5" });
    case.create().refused(&["../cgroup.max.depth"]);
    case.nothing_left();
}

#[test]
fn on_v2_alone_the_container_is_in_its_cgroup_and_leaves_none() {
    let case = Case::new();
    not_on!(case, "crun version 1.8.1", "cannot run on cgroup v2 alone without CAP_SYS_RESOURCE");
    drop(case);
    let case = Case::on_v2();
    case.hold();
    let lines = fs::read_to_string(format!("/proc/{}/cgroup", case.pid())).unwrap();
    assert!(lines.contains(&format!("0::{}\n", case.cgroup())), "{lines}");
    case.call(&["pause", &case.id]).ok();
    assert_eq!(case.status(), "paused");
    case.call(&["resume", &case.id]).ok();
    case.kill("TERM").ok();
    assert_eq!(case.wait(), 0);
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn a_container_that_may_write_to_its_cgroup_owns_it_and_not_its_limits() {
    use std::os::unix::fs::MetadataExt;
    let mut case = Case::new();
    not_on!(case, "crun version 1.8.1", "cannot run on cgroup v2 alone without CAP_SYS_RESOURCE");
    not_on!(case, "runc", "gives it by way of systemd alone");
    drop(case);
    case = Case::on_v2();
    case.user_namespace();
    for mount in case.spec["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
    }
    case.hold();
    let dir = case.cgroup_dir();
    let owner = |name: &str| fs::metadata(dir.join(name)).unwrap().uid();
    for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        assert_eq!(owner(name), 100_000, "{name:?}");
    }
    for name in ["cgroup.max.depth", "cgroup.freeze"] {
        assert_eq!(owner(name), 0, "{name:?}");
    }
    case.exec_attempts(&[
        ("mkdir /sys/fs/cgroup/inner", Ok("")),
        ("openw /sys/fs/cgroup/cgroup.max.depth", Err("EACCES")),
    ]);
    assert!(dir.join("inner").exists());
}

#[test]
fn a_container_that_only_sees_its_cgroup_does_not_own_it() {
    use std::os::unix::fs::MetadataExt;
    let mut case = Case::new();
    not_on!(case, "crun", "gives it to the container, older ones cannot run on cgroup v2 alone here");
    drop(case);
    case = Case::on_v2();
    case.user_namespace();
    case.hold();
    let dir = case.cgroup_dir();
    assert_eq!(fs::metadata(dir.join("cgroup.procs")).unwrap().uid(), 0);
}

#[test]
fn shares_of_the_cache_are_refused_where_the_processor_has_none_to_give() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8.1", "ignores them");
    if Path::new("/sys/fs/resctrl/schemata").exists() {
        skip!("this machine has Intel RDT");
    }
    case.spec["linux"]["intelRdt"] = json!({ "l3CacheSchema": "L3:0=f" });
    case.create().refused(&["linux.intelRdt", "Intel RDT is not enabled"]);
    case.nothing_left();
}
