//! `features`: what this runtime supports (runtime-spec `features.md`), and nothing that it does not.

use libcontainer::{
    Result,
    inside::{self, seccomp},
};
use serde_json::json;

/// Those that [`libcontainer`] sorts; file systems have further ones.
const MOUNT_OPTIONS: &[&str] = &[
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rsuid",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "tmpcopyup",
    "unbindable",
    "rstrictatime",
];

fn list(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    names.collect()
}

pub(crate) fn run() -> Result<u8> {
    let capabilities: Vec<String> = inside::capability_names().collect();
    super::print_json(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": libcontainer::spec::VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": list(seccomp::known_actions()),
                "operators": list(seccomp::known_operators()),
                "archs": list(seccomp::known_architectures()),
                "knownFlags": list(seccomp::known_flags()),
                "supportedFlags": list(seccomp::supported_flags()),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } },
            "netDevices": { "enabled": false },
        },
        "annotations": { "org.tare.runtime.version": env!("CARGO_PKG_VERSION") },
    }))?;
    Ok(0)
}
