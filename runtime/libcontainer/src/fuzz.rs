//! Deterministic fuzzing of everything that is read and was written by others: no input may panic, take long, or be accepted
//! with a meaning that breaks a rule. `hack/fuzz` runs one target for as long as asked; the tests run all of them for a moment.
//!
//! The same seed gives the same inputs; what fails is printed, with the seed that makes it again.

use crate::{
    birth::plan_of,
    inside::seccomp::{Machine, compile_for},
    outside::cgroup::{Driver, Host, place, settings_v1, settings_v2},
    random::Random,
    spec::{Seccomp, Spec},
    store::State,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Component, Path},
    time::{Duration, Instant},
};

/// How many inputs a target gets where nobody asks for more.
const SHORT: u64 = 3000;
/// An input that takes more of a processor's time is a denial of service.
const SLOW: Duration = Duration::from_secs(2);

impl Random {
    /// A place in what is `len` long, and one after it at a distance that is mostly small.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len);
        let width = if self.below(4) == 0 { len } else { 32 };
        start..(start + self.below(width)).min(len)
    }
}

/// What parsers stumble on.
const TOKENS: [&str; 40] = [
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-1",
    "1e308",
    "-0.0",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "4294967296",
    "65536",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"/\"",
    "\"..\"",
    "\"../..\"",
    "\":\"",
    "\"a:b:c\"",
    "\"size=\"",
    "\"=\"",
    "\",\"",
    "\"rbind\"",
    "\"idmap\"",
    "\"ro\"",
    "\"mode=99999999999\"",
    "\"SCMP_ACT_NOTIFY\"",
    "\"SCMP_CMP_MASKED_EQ\"",
    "\"SCMP_ARCH_X32\"",
    "\"socketcall\"",
    "\"memory.max\"",
    "[[",
    "{\"",
    ",",
    ":",
    "\u{7f}",
    "ü",
    "\"prefix:name:\"",
];

fn mutate(random: &mut Random, seeds: &[&str]) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].as_bytes().to_vec();
    for _ in 0..=random.below(6) {
        let range = random.range(input.len());
        match random.below(7) {
            0 => drop(input.drain(range)),
            1 => {
                let copy = input[range.clone()].to_vec();
                for _ in 0..=random.below(if copy.len() < 64 { 64 } else { 3 }) {
                    input.splice(range.start..range.start, copy.iter().copied());
                }
            }
            2 => drop(input.splice(range, TOKENS[random.below(TOKENS.len())].bytes())),
            3 => {
                // A whole value by another.
                let end = input[range.start..].iter().position(|byte| b",}]".contains(byte));
                let end = end.map_or(range.end, |end| range.start + end);
                drop(input.splice(range.start..end, TOKENS[random.below(TOKENS.len())].bytes()));
            }
            4 => {
                let other = seeds[random.below(seeds.len())].as_bytes();
                let from = random.range(other.len());
                drop(input.splice(range, other[from].iter().copied()));
            }
            5 => {
                if let Some(byte) = input.get_mut(range.start) {
                    *byte ^= 1 << random.below(8);
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(range.start) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
    input
}

/// What this thread has used of a processor: how busy the machine is does not count.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.cast_unsigned(), used.tv_nsec as u32)
}

/// Runs `target` on mutations of the seeds, and on the seeds themselves.
fn fuzz(name: &str, seeds: &[&str], target: impl Fn(&[u8])) {
    let seconds = std::env::var("TARE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let seed = std::env::var("TARE_FUZZ_SEED").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    let begin = Instant::now();
    let mut count = 0_u64;
    for round in seed.. {
        match seconds {
            Some(limit) if begin.elapsed() >= limit => break,
            None if count >= SHORT => break,
            _ => {}
        }
        let mut random = Random(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let input =
            seeds.get(count as usize).map_or_else(|| mutate(&mut random, seeds), |seed| seed.as_bytes().to_vec());
        let start = processor_time();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let text = || String::from_utf8_lossy(&input).into_owned();
        assert!(outcome.is_ok(), "{name}: TARE_FUZZ_SEED={round} fails on:\n{}", text());
        let took = processor_time().saturating_sub(start);
        assert!(took < SLOW, "{name}: TARE_FUZZ_SEED={round} takes {took:?} on:\n{}", text());
        count += 1;
    }
    println!("{name}: {count} inputs from seed {seed} in {:?}", begin.elapsed());
}

const PROCESS: &str = r#""process":{"cwd":"/","args":["a"],"env":["A=b"],"user":{"uid":1,"gid":2,"additionalGids":[3]},"rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}],"capabilities":{"bounding":["CAP_KILL"]},"scheduler":{"policy":"SCHED_BATCH","nice":3},"ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":0},"oomScoreAdj":3}"#;
const MOUNTS: [&str; 4] = [
    r#"[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]}]"#,
    r#"[{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k","tmpcopyup"]}]"#,
    r#"[{"destination":"/a/b","type":"bind","source":"c","options":["rbind","rro","rnosuid","rprivate","idmap"],"uidMappings":[{"containerID":0,"hostID":1,"size":2}],"gidMappings":[{"containerID":0,"hostID":1,"size":2}]}]"#,
    r#"[{"destination":"/o","type":"overlay","source":"o","options":["lowerdir=/a:/b","upperdir=/c","workdir=/d","norelatime","remount"]}]"#,
];
const LINUX: &str = r#""namespaces":[{"type":"mount"},{"type":"pid"},{"type":"user"},{"type":"network","path":"/n"},{"type":"time"}],"uidMappings":[{"containerID":0,"hostID":1,"size":2}],"gidMappings":[{"containerID":0,"hostID":1,"size":2}],"timeOffsets":{"monotonic":{"secs":1,"nanosecs":2}},"sysctl":{"net.ipv4.ip_forward":"1"},"devices":[{"path":"/dev/x","type":"c","major":1,"minor":2,"fileMode":438}],"resources":{"memory":{"limit":1,"swap":2},"cpu":{"shares":1024,"quota":1,"period":2,"cpus":"0-1"},"pids":{"limit":3},"blockIO":{"weight":10,"weightDevice":[{"major":1,"minor":2,"weight":20}]},"hugepageLimits":[{"pageSize":"2MB","limit":1}],"unified":{"memory.max":"1"},"devices":[{"allow":false,"access":"rwm"}]},"maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],"rootfsPropagation":"slave","personality":{"domain":"LINUX32"},"cgroupsPath":"/a""#;
const SECCOMP: [&str; 2] = [
    r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[{"names":["read","write","socket","send"],"action":"SCMP_ACT_ALLOW"},{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["kill"],"action":"SCMP_ACT_TRACE","errnoRet":7,"args":[{"index":1,"value":1,"op":"SCMP_CMP_GT"},{"index":1,"value":9,"op":"SCMP_CMP_LE"}]},{"names":["ipc"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
];

fn config(mounts: &str, seccomp: &str) -> String {
    format!(
        r#"{{"ociVersion":"1.2.0",{PROCESS},"root":{{"path":"rootfs"}},"hostname":"h","mounts":{mounts},"hooks":{{"poststop":[{{"path":"/a","timeout":1}}]}},"linux":{{{LINUX},"seccomp":{seccomp}}}}}"#
    )
}

fn decide(json: &[u8]) {
    let Ok(spec) = Spec::parse(json) else { return };
    for privileged in [true, false] {
        // What is refused is refused in one line's worth of words.
        if let Err(error) = plan_of(&spec, Path::new("/bundle"), privileged) {
            assert!(!error.to_string().is_empty());
        }
    }
    drop((settings_v1(&spec.linux.resources), settings_v2(&spec.linux.resources)));
}

#[test]
fn config_json() {
    let seeds: Vec<String> = MOUNTS.iter().zip(SECCOMP.iter().cycle()).map(|(mounts, it)| config(mounts, it)).collect();
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    fuzz("config_json", &seeds, decide);
}

#[test]
fn mount_options() {
    fuzz("mount_options", &MOUNTS, |input| decide(config(&String::from_utf8_lossy(input), "null").as_bytes()));
}

#[test]
fn state_json() {
    let seeds = [
        r#"{"ociVersion":"1.0.2","id":"a","made":true,"ownsCgroup":true,"pid":7,"bundle":"/b","annotations":{"a":"b"},"startTime":9,"rootfs":"/r","created":1,"owner":0,"cgroup":{"mode":"v2","hierarchies":[{"mount":"/sys/fs/cgroup","controllers":[],"path":"a"}],"chosen":true},"namespaces":["pid","mount"],"ownPidNamespace":true,"lateHooks":false}"#,
    ];
    fuzz("state_json", &seeds, |input| {
        if let Ok(state) = crate::spec::parse::<State>(input) {
            // What is read can be kept.
            let kept = serde_json::to_vec(&state).expect("JSON");
            crate::spec::parse::<State>(&kept).expect("the same state");
            assert!(!crate::process::is_alive(state.pid.min(0), state.start_time));
        }
    });
}

#[test]
fn seccomp_profiles() {
    fuzz("seccomp_profiles", &SECCOMP, |input| {
        let Ok(profile) = crate::spec::parse::<Seccomp>(input) else { return };
        for machine in [Machine::X86, Machine::Arm64] {
            if let Ok(filter) = compile_for(&profile, machine) {
                assert!(filter.program.len() <= 4096, "{} instructions", filter.program.len());
                // The kernel refuses a program that does not end with a return.
                assert!(filter.program.last().is_none_or(|last| last.code == 6));
            }
        }
    });
}

#[test]
fn cgroup_paths() {
    let seeds =
        ["/docker/abc", "", "a/b", "../../x", "system.slice:runc:web", "/a//./b/../c", ":", "/", "a:b", "/a b/\\040"];
    let host = Host::look("", &Driver::Fs).expect("this machine's cgroups");
    fuzz("cgroup_paths", &seeds, |input| {
        let path = String::from_utf8_lossy(input);
        let Ok(placement) = place(&path, "id", &host) else { return };
        for hierarchy in &placement.hierarchies {
            assert!(hierarchy.path.components().all(|it| matches!(it, Component::Normal(_))), "{:?}", hierarchy.path);
            assert!(!hierarchy.path.as_os_str().is_empty());
        }
    });
}
