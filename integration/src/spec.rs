//! The configuration that tests start from: what containerd and Docker write for an ordinary container.

use serde_json::{Value, json};

/// Capabilities of an ordinary container, as containerd and Docker grant them.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The same as a bit mask (numbers are the kernel's).
pub const CAPABILITY_MASK: u64 = bits(&[0, 1, 4, 3, 27, 13, 6, 7, 31, 8, 10, 18, 5, 29]);

/// Mask with these bits set.
pub const fn bits(numbers: &[u32]) -> u64 {
    let mut mask = 0;
    let mut at = 0;
    while at < numbers.len() {
        mask |= 1 << numbers[at];
        at += 1;
    }
    mask
}

/// Paths that an ordinary container must not read.
pub const MASKED: [&str; 8] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths that an ordinary container must not write.
pub const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// An ordinary container's configuration, without seccomp, running `args` on `rootfs`.
pub fn ordinary(id: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/bin:/sbin:/usr/bin", format!("TARE_TEST={id}")],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "tare-test",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" },
            ],
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
        },
    })
}

/// The default seccomp profile that Docker's family of engines applies, for the given capabilities, in the form of the
/// runtime specification. Read from the file that the distribution installs with buildah.
pub fn engine_seccomp(capabilities: &[&str]) -> Option<Value> {
    engine_seccomp_on("x86_64", capabilities)
}

/// The same for another machine, `aarch64`.
pub fn engine_seccomp_on(machine: &str, capabilities: &[&str]) -> Option<Value> {
    let (aliases, architectures) = match machine {
        "aarch64" => (["arm64", "aarch64"], json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])),
        _ => (["amd64", "x86_64"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])),
    };
    let text = std::fs::read_to_string("/usr/share/containers/seccomp.json").ok()?;
    let profile: Value = serde_json::from_str(&text).expect("the installed profile");
    let granted = |list: &Value| -> bool {
        list.as_array().is_none_or(|l| l.is_empty() || l.iter().all(|c| capabilities.iter().any(|have| c == have)))
    };
    let any =
        |list: &Value| list.as_array().is_some_and(|l| l.iter().any(|c| capabilities.iter().any(|have| c == have)));
    let here = |list: &Value| {
        list.as_array().is_none_or(|l| l.is_empty() || l.iter().any(|a| aliases.iter().any(|alias| a == alias)))
    };
    let syscalls: Vec<Value> = profile["syscalls"]
        .as_array()?
        .iter()
        .filter(|rule| {
            let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
            let excluded = excludes["arches"].as_array().is_some_and(|l| !l.is_empty()) && here(&excludes["arches"]);
            granted(&includes["caps"]) && here(&includes["arches"]) && !any(&excludes["caps"]) && !excluded
        })
        .map(|rule| {
            let mut clean = json!({ "names": rule["names"], "action": rule["action"] });
            if rule["args"].as_array().is_some_and(|a| !a.is_empty()) {
                clean["args"] = rule["args"].clone();
            }
            if rule["errnoRet"].is_number() {
                clean["errnoRet"] = rule["errnoRet"].clone();
            }
            clean
        })
        .collect();
    let mut seccomp = json!({
        "defaultAction": profile["defaultAction"],
        "architectures": architectures,
        "syscalls": syscalls,
    });
    if profile["defaultErrnoRet"].is_number() {
        seccomp["defaultErrnoRet"] = profile["defaultErrnoRet"].clone();
    }
    Some(seccomp)
}
