//! Seccomp profiles as the engines hand them over: ours and libseccomp's program give the same verdict on every call, and so
//! does the one that runc loads.

use std::collections::BTreeSet;
use std::path::Path;

use integration::case::Case;
use integration::peer::containerd::Containerd;
use integration::peer::dockerd::Dockerd;
use integration::peer::libseccomp::{self, Compiled, compile, libraries};
use integration::place::Place;
use integration::programs::{self, Runtime};
use integration::{command, skip, spec};
use libcontainer::inside::seccomp::{Call, Insn, Machine, compile_for, interpret};
use serde_json::{Value, json};

const ENOSYS: u32 = 0x0005_0026;
const X32: u32 = 1 << 30;
const X86_64: u32 = 0xc000_003e;

/// A machine and its conventions: (name, audit value, x32's bit), native first.
struct Target {
    name: &'static str,
    machine: Machine,
    abis: &'static [(&'static str, u32, u32)],
}

const TARGETS: [Target; 2] = [
    Target {
        name: "x86_64",
        machine: Machine::X86,
        abis: &[("SCMP_ARCH_X86_64", X86_64, 0), ("SCMP_ARCH_X32", X86_64, X32), ("SCMP_ARCH_X86", 0x4000_0003, 0)],
    },
    Target {
        name: "aarch64",
        machine: Machine::Arm64,
        abis: &[("SCMP_ARCH_AARCH64", 0xc000_00b7, 0), ("SCMP_ARCH_ARM", 0x4000_0028, 0)],
    },
];

impl Target {
    /// The profile with this machine's architectures in the place of another's.
    fn adapt(&self, profile: &Value) -> Value {
        let mut profile = profile.clone();
        profile["architectures"] = self.abis.iter().map(|(name, ..)| *name).collect();
        profile
    }

    /// All numbers of all conventions, known ones and others.
    fn numbers(&self) -> impl Iterator<Item = (u32, u32)> {
        // Above those: arm's own, and the ends of what a number can be.
        let numbers = (0..620).chain([0xf_0001, 0xf_0005, 0xf_0007, 1 << 29, X32 - 1, 1 << 31, u32::MAX ^ X32]);
        let numbers: Vec<u32> = numbers.collect();
        // Another machine's convention is none of ours.
        let all = self.abis.iter().map(|(_, arch, bit)| (*arch, *bit)).chain([(0x8000_0016, 0)]);
        all.flat_map(move |(arch, bit)| numbers.clone().into_iter().map(move |number| (arch, number | bit)))
    }
}

/// Calls that an older library does not know everywhere: (how its version begins, audit value, number, name).
const UNKNOWN_THERE: [(&str, u32, u32, &str); 1] = [("2.5.", X86_64, X32 + 453, "map_shadow_stack on x32")];

/// A generator of numbers (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()].clone()
    }
}

/// Registers on both sides of everything that the profile compares with: one at a time, then several at once.
fn samples(profile: &Value) -> Vec<[u64; 6]> {
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    let args: Vec<&Value> = rules.flat_map(|rule| rule["args"].as_array().into_iter().flatten()).collect();
    let mut values = BTreeSet::from([0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX]);
    for arg in &args {
        for value in [&arg["value"], &arg["valueTwo"]].into_iter().filter_map(Value::as_u64) {
            let near = [value, value.wrapping_sub(1), value.wrapping_add(1), !value, value ^ 1 << 31, value | 1 << 40];
            values.extend(near);
            values.extend((0..64).filter(|bit| value & 1 << bit != 0).map(|bit| 1 << bit));
        }
    }
    let values: Vec<u64> = values.into_iter().collect();
    let indexes: BTreeSet<usize> = args.iter().filter_map(|arg| arg["index"].as_u64()).map(|it| it as usize).collect();
    let mut samples = vec![[0; 6]];
    for index in indexes {
        samples.extend(values.iter().map(|value| std::array::from_fn(|at| if at == index { *value } else { 0 })));
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    samples.extend((0..50).map(|_| std::array::from_fn(|_| random.pick(&values))));
    samples
}

fn ours(profile: &Value, target: &Target) -> Vec<Insn> {
    let profile = libcontainer::spec::parse(profile.to_string().as_bytes()).unwrap();
    compile_for(&profile, target.machine).unwrap().program
}

fn insns(program: &[(u16, u8, u8, u32)]) -> Vec<Insn> {
    program.iter().map(|(code, jt, jf, k)| Insn { code: *code, jt: *jt, jf: *jf, k: *k }).collect()
}

/// The profile without names that the library does not know.
fn without(profile: &Value, names: &[String]) -> Value {
    let mut profile = profile.clone();
    for rule in profile["syscalls"].as_array_mut().into_iter().flatten() {
        let list = rule["names"].as_array_mut().expect("names");
        list.retain(|name| !names.iter().any(|unknown| name == unknown));
    }
    profile
}

/// Whether calls above the newest that the profile names are refused and not let through.
fn refuses(profile: &Value) -> bool {
    let default = profile["defaultAction"].as_str();
    !matches!(default, Some("SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" | "SCMP_ACT_TRACE"))
}

/// Compares on all machines, with all libraries.
fn compare(what: &str, profile: &Value) {
    for target in &TARGETS {
        compare_on(target, what, &target.adapt(profile));
    }
}

fn compare_on(target: &Target, what: &str, profile: &Value) {
    for library in libraries() {
        let theirs = compile(&library, target.name, profile);
        let profile = without(profile, &theirs.unknown);
        let (same, absent) = verdicts(target, what, &profile, &theirs);
        println!(
            "{what} on {}: libseccomp {} agrees on {same} calls, {absent} are newer than the profile; names that it does not \
             know, left out: {} {:?}",
            target.name,
            theirs.version,
            theirs.unknown.len(),
            theirs.unknown
        );
    }
}

/// How many calls were compared with libseccomp's program, and how many with ENOSYS, which runc has before it.
fn verdicts(target: &Target, what: &str, profile: &Value, theirs: &Compiled) -> (usize, usize) {
    let (own, program) = (ours(profile, target), insns(&theirs.program()));
    let (mut same, mut absent) = (0, 0);
    let samples = samples(profile);
    for (arch, number) in target.numbers() {
        let abi = target.abis.iter().find(|(_, audit, bit)| *audit == arch && (arch != X86_64 || number & X32 == *bit));
        let newest = abi.and_then(|(name, ..)| theirs.newest.get(*name));
        let unknown = UNKNOWN_THERE
            .iter()
            .find(|(version, audit, at, _)| theirs.version.starts_with(version) && (*audit, *at) == (arch, number));
        if let Some((.., name)) = unknown {
            println!("{what} on {}: left out, libseccomp {} does not know {name}", target.name, theirs.version);
            continue;
        }
        let newer = refuses(profile) && newest.is_some_and(|newest| number > *newest);
        for args in &samples {
            let call = Call { number, arch, args: *args };
            let answer = interpret(&own, &call).expect("a program that the kernel takes").0;
            let expected =
                if newer { ENOSYS } else { interpret(&program, &call).expect("a program of the kernel's").0 };
            assert_eq!(
                answer, expected,
                "{what} on {}, libseccomp {}: {call:x?} by {profile}",
                target.name, theirs.version
            );
            *if newer { &mut absent } else { &mut same } += 1;
        }
    }
    assert!(same > 0);
    (same, absent)
}

fn seccomp(config: &Path) -> Value {
    let text = std::fs::read_to_string(config).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
    let config: Value = serde_json::from_str(&text).unwrap();
    let profile = config["linux"]["seccomp"].clone();
    assert!(profile["syscalls"].as_array().is_some_and(|rules| rules.len() > 3), "{profile}");
    profile
}

#[test]
fn podmans_default_profile() {
    let all = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_DAC_READ_SEARCH", "CAP_SYS_TIME"];
    for target in &TARGETS {
        for (what, capabilities) in
            [("without capabilities", &[][..]), ("as usual", &spec::CAPABILITIES), ("with many", &all)]
        {
            let Some(profile) = spec::engine_seccomp_on(target.name, capabilities) else {
                skip!("the engines' default profile is not installed");
            };
            compare_on(target, &format!("Podman's profile {what}"), &profile);
        }
    }
}

#[test]
fn dockers_default_profile() {
    let place = Place::new();
    place.small_image();
    let archive = place.dir.join("small.docker.tar");
    let archive = archive.to_str().unwrap();
    place.ours("imgtool", &["save", "--quiet", "--format", "docker-archive", "-o", archive, "small:1"]).ok();
    let docker = Dockerd::start(&place.id, &place.dir, Runtime::under_test());
    docker.docker(&["load", "-q", "-i", archive]).ok();
    for flags in [&[][..], &["--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE"]] {
        let mut words = vec!["run", "-d", "--runtime", "tare", "--network", "none"];
        words.extend(flags);
        words.extend(["small:1", "/probe", "hold"]);
        let id = docker.docker(&words).ok().stdout;
        let bundles = place.dir.join("dockerd/exec/containerd/daemon/io.containerd.runtime.v2.task/moby");
        let profile = seccomp(&bundles.join(id.trim()).join("config.json"));
        docker.docker(&["rm", "-f", id.trim()]).ok();
        compare(&format!("Docker's profile {flags:?}"), &profile);
    }
}

#[test]
fn containerds_default_profile() {
    let place = Place::new();
    place.small_image();
    let archive = place.dir.join("small.oci.tar");
    let archive = archive.to_str().unwrap();
    place.ours("imgtool", &["save", "--quiet", "-o", archive, "small:1"]).ok();
    let containerd = Containerd::start(&place.id, &place.dir);
    containerd.ctr(&["images", "import", archive]).ok();
    let (runtime, mark) = (Containerd::runtime(), format!("TARE_TEST={}", place.id));
    let image = "docker.io/library/small:1";
    containerd.ctr(&["run", "-d", "--runtime", &runtime, "--env", &mark, "--seccomp", image, "web"]).ok();
    let bundles = place.dir.join("containerd/state/io.containerd.runtime.v2.task").join(&place.id);
    let profile = seccomp(&bundles.join("web/config.json"));
    containerd.ctr(&["tasks", "rm", "--force", "web"]).ok();
    containerd.ctr(&["containers", "rm", "web"]).ok();
    compare("containerd's profile", &profile);
}

#[test]
fn our_own_default_profile() {
    let place = Place::new();
    place.small_image();
    for flags in [&[][..], &["--cap-add", "SYS_ADMIN", "--cap-add", "SYS_TIME"]] {
        let mut words = vec!["bundle"];
        words.extend(flags);
        words.push("small:1");
        let bundle = place.ours("imgtool", &words).ok().stdout;
        compare(&format!("imgtool's profile {flags:?}"), &seccomp(&Path::new(bundle.trim()).join("config.json")));
        place.ours("imgtool", &["unbundle", bundle.trim()]).ok();
    }
}

/// The program that `runtime` loads for this profile, as the kernel has it.
fn loaded(runtime: &str, profile: &Value) -> Vec<Insn> {
    let mut case = Case::with(Runtime::at(&programs::on_path(Path::new(runtime))));
    case.spec["linux"]["seccomp"] = profile.clone();
    case.hold();
    let pid = case.pid().to_string();
    let hex = command::tool("python3", &["-c", include_str!("../../src/peer/loaded.py"), &pid]).ok().stdout;
    insns(&libseccomp::instructions(&libseccomp::bytes(&hex)))
}

#[test]
fn calls_newer_than_the_profile_are_absent_as_with_runc() {
    let target = &TARGETS[0];
    let system = &libraries()[0];
    let engine = spec::engine_seccomp(&spec::CAPABILITIES).expect("Podman's profile: run hack/setup");
    let mut native = engine.clone();
    native["architectures"] = json!(["SCMP_ARCH_X86_64"]);
    for (what, profile) in [("all conventions", &engine), ("the native convention", &native)] {
        let theirs = compile(system, target.name, profile);
        let profile = without(profile, &theirs.unknown);
        let program = loaded("runc", &profile);
        let own = ours(&profile, target);
        let samples = samples(&profile);
        let mut same = 0;
        for (arch, number) in target.numbers() {
            for args in &samples {
                let call = Call { number, arch, args: *args };
                let [answer, expected] = [&own, &program].map(|it| interpret(it, &call).unwrap().0);
                assert_eq!(answer, expected, "{what}: {call:x?}");
                same += 1;
            }
        }
        println!("{what}: the program that runc loads agrees on {same} calls; names left out: {:?}", theirs.unknown);
    }
}

#[test]
fn what_is_loaded_is_what_was_compiled() {
    let profile = spec::engine_seccomp(&spec::CAPABILITIES).expect("Podman's profile: run hack/setup");
    let runtime = programs::ours("runtime");
    assert_eq!(loaded(runtime.to_str().unwrap(), &profile), ours(&profile, &TARGETS[0]));
}

/// Rules of all kinds, each with calls of its own, i386's carriers among them. Where several rules on one argument meet,
/// libseccomp 2.5.4 lets 0xffffffff be at least 0xffffffffffffffff, or refuses what i386 makes of them: that is left to other
/// tests.
fn random_profile(random: &mut Random) -> Value {
    let mut calls = [
        "read",
        "personality",
        "clone",
        "socket",
        "connect",
        "semop",
        "ioctl",
        "execve",
        "openat2",
        "mseal",
        "recvmsg",
        "kill",
        "futex_waitv",
        "statx",
        "lseek",
        "mmap",
    ];
    const ACTIONS: [&str; 6] =
        ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"];
    const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let values = [0, 1, 40, 0xffff_ffff, 1 << 32, (5 << 32) | 7, u64::MAX, random.next()];
    for at in 0..calls.len() {
        let other = random.next() as usize % calls.len();
        calls.swap(at, other);
    }
    let rules: Vec<Value> = calls
        .chunks(random.pick(&[1, 2, 3]))
        .map(|names| {
            let indexes = random.pick(&[&[][..], &[0], &[1], &[5], &[0, 1], &[1, 0], &[0, 2, 5]]);
            let condition = |index| {
                let operator = format!("SCMP_CMP_{}", random.pick(&OPERATORS));
                json!({ "index": index, "op": operator, "value": random.pick(&values), "valueTwo": random.pick(&values) })
            };
            let args: Vec<Value> = indexes.iter().map(condition).collect();
            json!({ "names": names, "action": random.pick(&ACTIONS), "args": args })
        })
        .collect();
    json!({ "defaultAction": random.pick(&ACTIONS), "syscalls": rules })
}

#[test]
fn profiles_at_random() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for n in 0..6 {
        compare(&format!("profile {n} at random"), &random_profile(&mut random));
    }
}
