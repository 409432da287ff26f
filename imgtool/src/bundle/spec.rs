//! From an image's config and the user's options to config.json: pure, nothing is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::health;
use super::init;
use super::namespaces::{self, Memory, Origin};
use super::network::Network;
use super::options::{Options, clean_absolute};
use super::rootless::Rootless;
use super::seccomp;
use super::security::{Devices, Rlimit, SecurityOpt, read_seccomp};
use super::user::Identity;
use super::volume::{Bind, Source};
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
    pub(super) devices: Devices,
    pub(super) hooks: Option<Value>,
    /// Kinds and paths of the namespaces of other containers.
    pub(super) joined: Vec<(&'static str, PathBuf)>,
    /// The directory that is /dev/shm, where others have it too.
    pub(super) shm: Option<PathBuf>,
    /// In an ordinary user's bundle.
    pub(super) rootless: Option<Rootless>,
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
    if options.tty {
        set("TERM=xterm".to_owned());
    }
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

/// Adds what the user wants annotated. Labels and annotations of the user's own may say anything but what is ours.
pub(super) fn add_annotations(all: &mut BTreeMap<String, String>, options: &Options, image_check: Option<&Value>) {
    for entry in &options.annotations {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        if !key.starts_with("org.tare.image.") {
            all.insert(key.to_owned(), value.to_owned());
        }
    }
    if let Some(signal) = &options.stop_signal {
        all.insert("org.opencontainers.image.stopSignal".to_owned(), signal.clone());
    }
    if let Some(check) = options.health.over(image_check) {
        all.insert(health::ANNOTATION.to_owned(), check.to_string());
    }
}

/// What can be refused before anything is touched.
pub(super) fn check(options: &Options) -> Result<()> {
    for entry in &options.annotations {
        if entry.split('=').next().is_none_or(str::is_empty) || entry.contains('\0') {
            return Err(Error::malformed(format!("label or annotation {entry:?}: want KEY=VALUE")));
        }
    }
    sysctl(options)?;
    for option in &options.security {
        if let SecurityOpt::Seccomp(file) = option {
            read_seccomp(file)?;
        }
    }
    Ok(())
}

/// Parameters that belong to a namespace the container has to itself: any other would be the host's.
fn sysctl(options: &Options) -> Result<BTreeMap<String, String>> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let mut all = BTreeMap::new();
    let shares_network = matches!(options.network, Network::Host | Network::Joined(_));
    if !shares_network {
        // As Docker has it: in a network of its own, low ports and ping need no privilege.
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    for entry in &options.sysctl {
        let bad = |why: &str| Error::malformed(format!("--sysctl {entry:?}: {why}"));
        let (key, value) = entry.split_once('=').ok_or_else(|| bad("want KEY=VALUE"))?;
        let key = key.replace('/', ".");
        if key.starts_with("net.") {
            if shares_network {
                let whose = if options.network == Network::Host { "the host's" } else { "another container's" };
                return Err(bad(&format!("the network is {whose}")));
            }
        } else if options.ipc.origin != Origin::Private {
            return Err(bad("the IPC namespace is not the container's own"));
        } else if !IPC.contains(&key.as_str()) && !key.starts_with("fs.mqueue.") {
            return Err(bad("is not of a namespace of the container (net.*, fs.mqueue.*, kernel.msg*, sem, shm*)"));
        }
        all.insert(key, value.to_owned());
    }
    Ok(all)
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
    let mut linux = json!({"resources": resources(options, &context.devices)});
    let asked = |option: &SecurityOpt| options.security.contains(option);
    if !options.privileged && !asked(&SecurityOpt::AllPaths) {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    let own_profile = options.security.iter().rev().find_map(|option| match option {
        SecurityOpt::Seccomp(file) => Some(file),
        _ => None,
    });
    if let Some(file) = own_profile {
        linux["seccomp"] = read_seccomp(file)?;
    } else if !options.privileged && !asked(&SecurityOpt::NoSeccomp) {
        linux["seccomp"] = seccomp::profile(&facts).at("seccomp")?;
    }
    let sysctl = sysctl(options)?;
    if !sysctl.is_empty() {
        linux["sysctl"] = json!(sysctl);
    }
    if !context.devices.nodes.is_empty() {
        linux["devices"] = json!(context.devices.nodes);
    }
    linux["namespaces"] = json!(namespaces::entries(options, &context.joined));
    let mut args = arguments(&config.config, options)?;
    if options.init.is_some() {
        args = init::before(args);
    }
    let mut process = json!({
        "terminal": options.tty,
        "user": user,
        "args": args,
        "env": environment(&config.config, options, context)?,
        "cwd": working_directory(&config.config, options)?,
        // Inheritable stays empty: with it, programs with file capabilities would get more (CVE-2022-24769).
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": asked(&SecurityOpt::NoNewPrivileges(true)),
    });
    if !options.rlimits.is_empty() {
        process["rlimits"] = json!(options.rlimits.iter().map(Rlimit::entry).collect::<Vec<_>>());
    }
    for option in &options.security {
        if let SecurityOpt::AppArmor(profile) = option {
            process["apparmorProfile"] = json!(profile);
        }
    }
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": context.rootfs, "readonly": options.read_only},
        "mounts": mounts(options, context),
        "annotations": context.annotations,
        "linux": linux,
    });
    // Another's is not the container's to set.
    if options.uts == Origin::Private {
        spec["hostname"] = json!(context.hostname);
    }
    if let Some(hooks) = &context.hooks {
        spec["hooks"] = hooks.clone();
    }
    if let Some(rootless) = &context.rootless {
        rootless.adapt(&mut spec, options, &context.devices);
    }
    Ok(spec)
}

fn mounts(options: &Options, context: &Context) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let shm = format!("size={}", options.shm_size());
    let access = if options.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    let shm = match (&options.ipc.origin, options.ipc.memory) {
        _ if context.shm.is_some() => context.shm.as_deref(),
        (Origin::Host, _) => Some(Path::new("/dev/shm")),
        (_, Memory::None) => {
            mounts.retain(|mount| mount["destination"] != "/dev/shm");
            None
        }
        _ => None,
    };
    if let (Some(shm), Some(mount)) = (shm, mounts.last_mut()) {
        *mount = json!({"destination": "/dev/shm", "type": "bind", "source": shm,
            "options": ["rbind", "nosuid", "noexec", "nodev", "rw", "rprivate"]});
    }
    // The user's mounts stand above the image's volumes and our files of the same place; a mount comes before those below it.
    let mut user: Vec<(String, Value)> = Vec::new();
    for volume in &options.volumes {
        let entry = match &volume.source {
            Source::Path(source) | Source::MadePath(source) => {
                let source = source.clone();
                Bind { source, target: volume.target.clone(), options: volume.options.clone(), ids: None }.entry()
            }
            Source::Tmpfs => {
                json!({"destination": volume.target, "type": "tmpfs", "source": "tmpfs", "options": volume.options})
            }
            Source::Named(_) | Source::New => continue, // among `ours`, where their directories are known
        };
        user.push((volume.target.clone(), entry));
    }
    for bind in &context.binds {
        if !user.iter().any(|(target, _)| *target == bind.target) {
            user.push((bind.target.clone(), bind.entry()));
        }
    }
    user.sort_by_key(|(target, _)| target.matches('/').count());
    // Who mounts over one of the standard places wants that, and not two of them.
    mounts.retain(|standard| !user.iter().any(|(target, _)| standard["destination"] == json!(target)));
    mounts.extend(user.into_iter().map(|(_, entry)| entry));
    mounts
}

fn resources(options: &Options, devices: &Devices) -> Value {
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
    if let Some(rules) = resources["devices"].as_array_mut() {
        rules.extend(devices.rules.iter().cloned());
    }
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
