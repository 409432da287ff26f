//! From an image's config and the user's options to config.json: pure, nothing is touched.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::options::{Bind, Network, Options, clean_absolute};
use super::seccomp;
use super::user::Identity;
use crate::error::{Error, Result, Step};
use crate::oci::{Execution, ImageConfig};

/// The lowest version that has all we write: crun before 1.9 refuses any that is not 1.0.
const OCI_VERSION: &str = "1.0.2";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Annotations that programs under us obey: a label of an image must not reach them. crun writes files named by
/// `run.oci.*`, runc sets properties of the host's systemd by `org.systemd.property.*`, and both read a configuration
/// file of the host's that `org.criu.config` names.
const RESERVED_LABELS: [&str; 11] = [
    "run.oci.",
    "org.systemd.property.",
    "org.criu.",
    "org.tare.",
    "module.wasm.",
    "io.katacontainers.",
    "io.kubernetes.",
    "io.containerd.",
    "io.container.",
    "io.podman.",
    "dev.gvisor.",
];

/// All that config.json depends on besides image and options.
pub(super) struct Context {
    pub(super) hostname: String,
    pub(super) identity: Identity,
    /// Values of this process for `-e KEY`.
    pub(super) inherited: BTreeMap<String, String>,
    /// Binds that the bundle itself brings: volumes, hostname, hosts.
    pub(super) binds: Vec<Bind>,
    pub(super) rootfs: PathBuf,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) capabilities: Vec<String>,
    pub(super) architecture: String,
    pub(super) kernel: (u32, u32),
}

/// The process's arguments: entrypoint and command, as Docker joins them.
pub(super) fn arguments(image: &Execution, options: &Options) -> Result<Vec<String>> {
    let (mut args, default) = match &options.entrypoint {
        // An entrypoint of the user's makes the image's command meaningless.
        Some(entrypoint) if entrypoint.is_empty() => (Vec::new(), Vec::new()),
        Some(entrypoint) => (vec![entrypoint.clone()], Vec::new()),
        None => (image.entrypoint.clone().unwrap_or_default(), image.cmd.clone().unwrap_or_default()),
    };
    args.extend(if options.command.is_empty() { default } else { options.command.clone() });
    if args.is_empty() {
        return Err(Error::other("the image has neither Entrypoint nor Cmd: give a command after --"));
    }
    refuse_nul("argument", &args)?;
    Ok(args)
}

/// The directory the process starts in.
pub(super) fn working_directory(image: &Execution, options: &Options) -> Result<String> {
    match &options.workdir {
        Some(dir) => {
            clean_absolute(dir).ok_or_else(|| Error::malformed(format!("--workdir {dir:?}: want an absolute path")))
        }
        // Docker reads a relative one from the root.
        None => clean_absolute(&format!("/{}", image.working_dir))
            .ok_or_else(|| Error::malformed(format!("WorkingDir {:?} of the image", image.working_dir))),
    }
}

fn environment(image: &Execution, options: &Options, context: &Context) -> Result<Vec<String>> {
    let mut env: Vec<String> = Vec::new();
    let key = |entry: &str| entry.split_once('=').map_or(entry, |(key, _)| key).to_owned();
    let mut set = |entry: String| match env.iter_mut().find(|have| key(have) == key(&entry)) {
        Some(have) => *have = entry,
        None => env.push(entry),
    };
    set(DEFAULT_PATH.to_owned());
    set(format!("HOSTNAME={}", context.hostname));
    for entry in image.env.iter().flatten().filter(|entry| !entry.starts_with('=') && entry.contains('=')) {
        set(entry.clone());
    }
    for entry in &options.env {
        match entry.split_once('=') {
            Some(("", _)) => {
                return Err(Error::malformed(format!("--env {entry:?}: want KEY=VALUE")));
            }
            Some(_) => set(entry.clone()),
            None => {
                if let Some(value) = context.inherited.get(entry) {
                    set(format!("{entry}={value}"));
                }
            }
        }
    }
    refuse_nul("environment variable", &env)?;
    Ok(env)
}

fn refuse_nul(what: &str, list: &[String]) -> Result<()> {
    match list.iter().find(|text| text.contains('\0')) {
        Some(text) => Err(Error::malformed(format!("{what} {text:?}: has a NUL byte"))),
        None => Ok(()),
    }
}

/// Annotations by the conversion rules of the OCI image specification; labels count above them, ours above all. Gives
/// also the labels that were left out.
pub(super) fn annotations(
    config: &ImageConfig,
    ours: &BTreeMap<String, String>,
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut all = BTreeMap::new();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            all.insert(format!("org.opencontainers.image.{key}"), value);
        }
    };
    set("os", Some(config.os.clone()));
    set("architecture", Some(config.architecture.clone()));
    set("variant", config.variant.clone());
    set("os.version", config.os_version.clone());
    set("os.features", config.os_features.as_ref().map(|f| f.join(",")));
    set("author", config.author.clone());
    set("created", config.created.clone());
    set("stopSignal", config.config.stop_signal.clone());
    set("exposedPorts", config.config.exposed_ports.as_ref().map(|p| p.keys().cloned().collect::<Vec<_>>().join(",")));
    let mut left_out = Vec::new();
    for (key, value) in config.config.labels.iter().flatten() {
        if RESERVED_LABELS.iter().any(|reserved| key.starts_with(reserved)) {
            left_out.push(key.clone());
        } else if !key.is_empty() {
            all.insert(key.clone(), value.clone());
        }
    }
    all.extend(ours.clone());
    (all, left_out)
}

/// config.json.
pub(super) fn spec(config: &ImageConfig, options: &Options, context: &Context) -> Result<Value> {
    let capabilities = &context.capabilities;
    let facts = seccomp::Facts {
        architecture: &context.architecture,
        kernel: context.kernel,
        capabilities: capabilities.as_slice(),
    };
    let Identity { uid, gid, groups } = &context.identity;
    let mut user = json!({"uid": uid, "gid": gid});
    if !groups.is_empty() {
        user["additionalGids"] = json!(groups);
    }
    let mut namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind})).into();
    let mut linux = json!({
        "resources": resources(options),
        "seccomp": seccomp::profile(&facts).at("seccomp")?,
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
    });
    if options.network == Network::None {
        namespaces.push(json!({"type": "network"}));
        // As Docker has it: in a network of its own, low ports and ping need no privilege.
        linux["sysctl"] =
            json!({"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"});
    }
    linux["namespaces"] = json!(namespaces);
    Ok(json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": false,
            "user": user,
            "args": arguments(&config.config, options)?,
            "env": environment(&config.config, options, context)?,
            "cwd": working_directory(&config.config, options)?,
            // Inheritable stays empty: with it, programs with file capabilities would get more (CVE-2022-24769).
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": false,
        },
        "root": {"path": context.rootfs, "readonly": options.read_only},
        "hostname": context.hostname,
        "mounts": mounts(options, &context.binds),
        "annotations": context.annotations,
        "linux": linux,
    }))
}

fn mounts(options: &Options, ours: &[Bind]) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ];
    // The user's binds stand above the image's volumes and our files of the same place; a mount comes before those below it.
    let mut binds: Vec<&Bind> = options.volumes.iter().collect();
    for bind in ours {
        if !binds.iter().any(|have| have.target == bind.target) {
            binds.push(bind);
        }
    }
    binds.sort_by_key(|bind| bind.target.matches('/').count());
    mounts.extend(binds.iter().map(
        |bind| json!({"destination": bind.target, "type": "bind", "source": bind.source, "options": bind.options}),
    ));
    mounts
}

fn resources(options: &Options) -> Value {
    let device = |kind: &str, major: i64, minor: Option<i64>| match minor {
        Some(minor) => {
            json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm"})
        }
        None => json!({"allow": true, "type": kind, "major": major, "access": "rwm"}),
    };
    let mut resources = json!({
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "access": "m"},
            {"allow": true, "type": "b", "access": "m"},
            device("c", 1, Some(3)),   // null
            device("c", 1, Some(5)),   // zero
            device("c", 1, Some(7)),   // full
            device("c", 1, Some(8)),   // random
            device("c", 1, Some(9)),   // urandom
            device("c", 5, Some(0)),   // tty
            device("c", 5, Some(2)),   // ptmx
            device("c", 136, None),    // pts
        ],
    });
    if let Some(limit) = options.memory {
        resources["memory"] = json!({"limit": limit});
    }
    if let Some(nano) = options.nano_cpus {
        let period = 100_000u64;
        let quota = u128::from(nano) * u128::from(period) / 1_000_000_000;
        resources["cpu"] = json!({"quota": u64::try_from(quota).unwrap_or(u64::MAX), "period": period});
    }
    if let Some(limit) = options.pids {
        resources["pids"] = json!({"limit": limit});
    }
    resources
}

/// Docker's: what would show or change the host.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
