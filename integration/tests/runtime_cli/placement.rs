//! Where and when a process runs: processors, scheduler, I/O priority, memory nodes, personality, devices of the network.

use std::fs;
use std::process::Command;

use integration::case::Case;
use integration::{cgroups, not_on, skip};
use serde_json::{Value, json};

/// A line of the process's status, by its name.
fn status(of: &str, name: &str) -> String {
    let line = of.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in: {of}"));
    line[name.len()..].trim_matches([':', '\t', ' ']).to_owned()
}

/// What a process of the container reads of a file of its own, by exec.
#[track_caller]
fn read_by_exec(case: &Case, flags: &[&str], file: &str) -> String {
    let out = case.exec_with(flags, &["/probe", "try", &format!("read {file}")]).ok();
    out.outcomes()[0].value.clone()
}

#[track_caller]
fn read_by_run(case: &mut Case, file: &str) -> String {
    case.args(&["/probe", "try", &format!("read {file}")]);
    case.run().ok().outcomes()[0].value.clone()
}

fn cpus() -> Vec<usize> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let (first, last) = online.trim().split_once('-').unwrap_or((online.trim(), online.trim()));
    (first.parse().unwrap()..=last.parse().unwrap_or(0)).collect()
}

/// The case's runtime with only processor 0 to run on.
fn pinned(case: &Case, args: &[&str]) -> integration::command::Out {
    let plain = case.command();
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(plain.get_program()).args(plain.get_args()).args(args);
    command.env("TARE_TEST", &case.id).stdin(case.stdin());
    case.finish(&mut command, &case.files())
}

#[test]
fn the_callers_own_processors_are_not_the_containers() {
    if cpus().len() < 2 {
        skip!("there is one processor only");
    }
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "hands the caller's on");
    not_on!(case, "crun", "hands the caller's on");
    let all = status(&fs::read_to_string("/proc/self/status").unwrap(), "Cpus_allowed_list");
    case.args(&["/probe", "try", "read /proc/self/status"]);
    case.write();
    let bundle = case.bundle();
    let out = pinned(&case, &["run", "--bundle", bundle.to_str().unwrap(), &case.id]).ok();
    assert_eq!(status(&out.outcomes()[0].value, "Cpus_allowed_list"), all);
    case.args(&["/probe", "hold"]);
    case.hold();
    let out = pinned(&case, &["exec", &case.id, "/probe", "try", "read /proc/self/status"]).ok();
    assert_eq!(status(&out.outcomes()[0].value, "Cpus_allowed_list"), all);
}

#[test]
fn exec_runs_on_the_processors_that_were_asked_for() {
    let [first, second] = cpus()[..2] else { skip!("there is one processor only") };
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "does not know execCPUAffinity");
    not_on!(case, "crun", "leaves exec on all processors");
    case.spec["process"]["execCPUAffinity"] = json!({ "initial": first.to_string(), "final": second.to_string() });
    case.hold();
    let seen = status(&read_by_exec(&case, &[], "/proc/self/status"), "Cpus_allowed_list");
    assert_eq!(seen, second.to_string(), "the last one counts");
    let own = fs::read_to_string(format!("/proc/{}/status", case.pid())).unwrap();
    assert_ne!(status(&own, "Cpus_allowed_list"), second.to_string(), "it is of exec alone");

    let file = case.dir.join("process.json");
    let affinity = json!({ "initial": second.to_string(), "final": first.to_string() });
    let process =
        json!({ "cwd": "/", "args": ["/probe", "try", "read /proc/self/status"], "execCPUAffinity": affinity });
    fs::write(&file, process.to_string()).unwrap();
    let out = case.exec_with(&["--process", file.to_str().unwrap()], &[]).ok();
    assert_eq!(status(&out.outcomes()[0].value, "Cpus_allowed_list"), first.to_string());
    if cgroups::mode() == cgroups::Mode::V1 {
        // Outside of what the cgroup allows.
        fs::write(&file, json!({ "cwd": "/", "args": ["/probe"], "execCPUAffinity": { "final": "4000" } }).to_string())
            .unwrap();
        let out = case.exec_with(&["--process", file.to_str().unwrap()], &[]);
        assert!(out.code != 0 && out.stderr.contains("affinity"), "{out}");
    }
}

#[test]
fn the_memory_policy_is_that_of_every_process() {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        skip!("this kernel has no memory policies");
    }
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "does not know memoryPolicy");
    not_on!(case, "crun", "leaves exec without one, older ones know none");
    let mut first = |policy: Value| {
        case.spec["linux"]["memoryPolicy"] = policy;
        let maps = read_by_run(&mut case, "/proc/self/numa_maps");
        maps.lines().next().unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(first(json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0" })), "interleave:0");
    let bound = first(json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }));
    assert_eq!(bound, "bind=static:0");
    assert_eq!(first(json!({ "mode": "MPOL_DEFAULT" })), "default");

    let mut case = Case::new();
    case.spec["linux"]["memoryPolicy"] =
        json!({ "mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"] });
    case.hold();
    let maps = read_by_exec(&case, &[], "/proc/self/numa_maps");
    assert_eq!(maps.lines().next().unwrap().split(' ').nth(1).unwrap(), "prefer=relative:0");
}

#[test]
fn a_memory_policy_that_makes_no_sense_is_refused() {
    for (policy, words) in [
        (json!({}), "invalid memory policy mode \"\""),
        (json!({ "mode": "INTERLEAVE", "nodes": "0" }), "invalid memory policy mode \"INTERLEAVE\""),
        (json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["bad"] }), "invalid memory policy flag \"bad\""),
        (json!({ "mode": "MPOL_BIND", "nodes": "0-9876543210" }), "invalid memory policy nodes"),
        (json!({ "mode": "MPOL_DEFAULT", "nodes": "0-7" }), "mode requires 0 nodes but got 8"),
    ] {
        let mut case = Case::new();
        not_on!(case, "runc version 1.1", "does not know memoryPolicy");
        not_on!(case, "crun", "leaves exec without one, older ones know none");
        case.spec["linux"]["memoryPolicy"] = policy;
        case.create().refused(&["linux.memoryPolicy", words]);
        case.nothing_left();
    }
}

#[test]
fn the_scheduler_is_that_of_every_process() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "does not know scheduler");
    not_on!(case, "crun", "leaves exec without one, older ones set it with other flags");
    case.spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 19 });
    case.spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 4 });
    case.hold();
    let own = fs::read_to_string(format!("/proc/{}/sched", case.pid())).unwrap();
    assert!(own.lines().any(|line| line.starts_with("policy") && line.ends_with(" 3")), "SCHED_BATCH is 3: {own}");
    let by_exec = read_by_exec(&case, &[], "/proc/self/sched");
    assert!(by_exec.lines().any(|line| line.starts_with("policy") && line.ends_with(" 3")), "{by_exec}");
    let stat = read_by_exec(&case, &[], "/proc/self/stat");
    assert_eq!(stat.rsplit_once(')').unwrap().1.split(' ').nth(17), Some("19"), "the nice value: {stat}");
}

#[test]
fn a_deadline_does_not_go_with_fewer_processors() {
    if cgroups::mode() != cgroups::Mode::V1 || cpus().len() < 2 {
        skip!("there is no cpuset controller, or one processor only");
    }
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "does not know scheduler");
    case.spec["linux"]["resources"]["cpu"] = json!({ "cpus": "0" });
    case.spec["process"]["scheduler"] =
        json!({ "policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000 });
    case.create().refused(&["process scheduler can't be used together with AllowedCPUs"]);
    case.nothing_left();
}

#[test]
fn the_personality_is_that_of_every_process() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "does not know personality");
    case.spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    assert_eq!(read_by_run(&mut case, "/proc/self/personality").trim(), "00000008");
    case.args(&["/probe", "hold"]);
    case.hold();
    assert_eq!(read_by_exec(&case, &[], "/proc/self/personality").trim(), "00000008");
}

#[test]
fn a_file_of_exec_leaves_the_rest_as_the_container_has_it() {
    let mut case = Case::new();
    not_on!(case, "crun", "starts from nothing");
    not_on!(case, "runc version 1.1", "starts from nothing");
    case.spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
    case.hold();
    let file = case.dir.join("process.json");
    fs::write(&file, json!({ "cwd": "/", "args": ["/probe", "report"] }).to_string()).unwrap();
    let report = case.exec_with(&["--process", file.to_str().unwrap()], &[]).ok().report();
    assert_eq!(report.caps.effective, integration::spec::CAPABILITY_MASK);
}

/// Devices need a kernel that makes some: these are pairs, of which one end moves.
struct Pair(String);

impl Pair {
    fn new(case: &Case) -> Self {
        // At most 15 letters.
        let name = format!("t{}", case.id.rsplit('-').take(2).collect::<Vec<_>>().join("").replace('-', ""));
        let pair = Self(name.chars().take(13).collect());
        ip(&["link", "add", &pair.0, "type", "veth", "peer", "name", &format!("{}p", pair.0)]);
        pair
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Gone with the container's namespace, if it went there.
        let _ = Command::new("ip").args(["link", "del", &format!("{}p", self.0)]).output();
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    integration::command::tool("ip", args).ok();
}

#[test]
fn a_network_device_moves_with_its_addresses() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "does not know netDevices");
    not_on!(case, "crun", "does not know netDevices");
    for user_namespace in [false, true] {
        let pair = Pair::new(&case);
        ip(&["address", "add", "169.254.169.77/32", "dev", &pair.0]);
        ip(&["address", "add", "fd00:7a::1/64", "dev", &pair.0]);
        // Not of the whole world: it stays behind.
        ip(&["address", "add", "127.0.0.33/8", "scope", "host", "dev", &pair.0]);
        ip(&["link", "set", "mtu", "1789", "address", "02:11:22:33:44:55", "dev", &pair.0]);
        // IPv6 addresses go when a link goes down.
        ip(&["link", "set", "up", "dev", &pair.0]);
        case.spec["linux"]["netDevices"] = json!({ pair.0.as_str(): { "name": "inner0" } });
        if user_namespace {
            case.user_namespace();
        }
        case.args(&["/probe", "hold"]);
        case.hold();
        let report = case.exec(&["/probe", "report"]).ok().report();
        assert!(
            report.interfaces.len() == 2 && report.interfaces.iter().any(|it| it == "inner0"),
            "{:?}",
            report.interfaces
        );
        let read = |name: &str| read_by_exec(&case, &[], &format!("/sys/class/net/inner0/{name}")).trim().to_owned();
        assert_eq!((read("mtu"), read("address")), ("1789".into(), "02:11:22:33:44:55".into()));
        assert!(read("flags").ends_with('3'), "it is up: {}", read("flags"));
        let routes = read_by_exec(&case, &[], "/proc/self/net/fib_trie");
        assert!(routes.contains("169.254.169.77") && !routes.contains("127.0.0.33"), "{routes}");
        let six = read_by_exec(&case, &[], "/proc/self/net/if_inet6");
        assert!(six.contains("fd00007a000000000000000000000001"), "{six}");
        assert!(!std::path::Path::new("/sys/class/net").join(&pair.0).exists(), "it left the host");
        case.call(&["delete", "--force", &case.id]).ok();
        case.wait();
    }
}

#[test]
fn a_network_device_that_cannot_move_is_refused() {
    for (devices, without, words) in [
        (json!({ "no-such-dev0": {} }), "", "link not found for interface no-such-dev0"),
        (json!({ "lo": { "name": "a/b" } }), "", "invalid network device name \"a/b\""),
        (json!({ "lo": {} }), "network", "without a NET namespace"),
    ] {
        let mut case = Case::new();
        not_on!(case, "runc version 1.1", "does not know netDevices");
        not_on!(case, "crun", "does not know netDevices");
        case.spec["linux"]["netDevices"] = devices;
        case.without_namespace(without);
        case.create().refused(&["linux.netDevices", words]);
        case.nothing_left();
    }
}

#[test]
fn a_network_device_whose_name_is_taken_stays_on_the_host() {
    for (inner, other) in [("lo", None), ("inner0", Some("no-such-dev0"))] {
        let mut case = Case::new();
        not_on!(case, "runc version 1.1", "does not know netDevices");
        not_on!(case, "crun", "does not know netDevices");
        let pair = Pair::new(&case);
        case.spec["linux"]["netDevices"] = json!({ pair.0.as_str(): { "name": inner } });
        if let Some(other) = other {
            case.spec["linux"]["netDevices"][other] = json!({});
        }
        case.create().refused(&["linux.netDevices"]);
        assert!(std::path::Path::new("/sys/class/net").join(&pair.0).exists(), "{inner}, {other:?}");
        case.nothing_left();
    }
}

#[test]
fn a_network_device_comes_back_from_a_birth_that_fails() {
    let mut case = Case::new();
    not_on!(case, "runc", "loses it with the namespace");
    not_on!(case, "crun", "does not know netDevices");
    let pair = Pair::new(&case);
    ip(&["address", "add", "169.254.169.78/32", "dev", &pair.0]);
    ip(&["address", "add", "fd00:7b::1/64", "dev", &pair.0]);
    ip(&["link", "set", "up", "dev", &pair.0]);
    case.spec["linux"]["netDevices"] = json!({ pair.0.as_str(): { "name": "inner0" } });
    case.hook("createRuntime", "one", 1);
    case.create().refused(&["createRuntime"]);
    case.spec["hooks"] = json!({});
    case.args(&["/no-such-program"]);
    case.create().refused(&["no-such-program"]);
    case.nothing_left();
    let said = integration::command::tool("ip", &["address", "show", "dev", &pair.0]).ok().stdout;
    for words in ["169.254.169.78/32", "fd00:7b::1/64", ",UP"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_label_where_nothing_is_labelled_is_refused() {
    if fs::exists("/sys/fs/selinux/enforce").unwrap() {
        skip!("SELinux is on");
    }
    let mut case = Case::new();
    not_on!(case, "crun", "ignores it");
    case.spec["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
    case.create().refused(&["process.selinuxLabel", "selinux is disabled or not supported"]);
    case.nothing_left();
    case.spec["process"]["selinuxLabel"] = json!("");
    case.spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
    case.create().refused(&["linux.mountLabel", "selinux is disabled or not supported"]);
    case.nothing_left();
}
