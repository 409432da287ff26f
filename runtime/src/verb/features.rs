//! `features`: what this runtime supports (runtime-spec `features.md`), and nothing that it does not.

use libcontainer::{
    Result,
    inside::{self, memory_policy, seccomp},
};
use serde_json::json;

fn list(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    names.collect()
}

pub(crate) fn run() -> Result<u8> {
    let capabilities: Vec<String> = inside::capability_names().collect();
    super::print_json(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": libcontainer::spec::VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": inside::MOUNT_OPTIONS.as_slice(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": list(seccomp::known_actions()),
                "operators": list(seccomp::known_operators()),
                "archs": list(seccomp::known_architectures()),
                "knownFlags": list(seccomp::known_flags()),
                "supportedFlags": list(seccomp::supported_flags()),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "mountExtensions": { "idmap": { "enabled": true } },
            "memoryPolicy": {
                "modes": list(memory_policy::known_modes()),
                "flags": list(memory_policy::known_flags()),
            },
            "netDevices": { "enabled": true },
        },
        // What changes the host's part in the container's life: a file that criu takes commands from, properties of the unit.
        "potentiallyUnsafeConfigAnnotations": ["org.criu.config", "org.systemd.property."],
        "annotations": { "org.tare.runtime.version": env!("CARGO_PKG_VERSION") },
    }))?;
    Ok(0)
}
