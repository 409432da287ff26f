//! `spec`: a configuration to start from, as runc's.

use crate::cli::Spec;
use libcontainer::{At, Error, Result};
use serde_json::{Value, json};
use std::{fs::File, io::Write};

pub(crate) fn run(args: &Spec) -> Result<u8> {
    let path = args.bundle.join("config.json");
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let config = config(libcontainer::outside::cgroup::is_unified())?;
    let config = if args.rootless { rootless(config, uid, gid) } else { config };
    let text = serde_json::to_string_pretty(&config).map_err(|error| Error::other(error.to_string()))?;
    let file = File::create_new(&path);
    if file.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists) {
        return Err(Error::other(format!("File {} exists. Remove it first", path.display())));
    }
    file.and_then(|mut file| writeln!(file, "{text}")).at_with(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// A cgroup namespace hides the host's tree where there is one tree; with v1's many the container's own paths stay
/// visible, as tools written for v1 expect.
fn config(unified: bool) -> Result<Value> {
    let mut config: Value = serde_json::from_str(include_str!("spec.json"))
        .map_err(|error| Error::other(format!("the configuration to start from: {error}")))?;
    config["ociVersion"] = libcontainer::spec::VERSION.into();
    if unified && let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    Ok(config)
}

/// What a caller without root can have: its own ids, the host's network and with it the host's sysfs.
fn rootless(mut config: Value, uid: u32, gid: u32) -> Value {
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("resources");
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        for mount in mounts {
            if mount["destination"] == "/sys" {
                *mount = json!({
                    "destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
                });
            }
            // Other groups are not mapped.
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|option| option != "gid=5");
            }
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let config = |unified| config(unified).unwrap();
        for config in [config(false), config(true), rootless(config(true), 1000, 1000)] {
            let spec = libcontainer::spec::Spec::parse(config.to_string().as_bytes()).unwrap();
            assert_eq!(spec.mounts.len(), 7);
        }
        let rootless = rootless(config(true), 7, 8).to_string();
        assert!(rootless.contains(r#""hostID":7"#) && !rootless.contains("gid=5") && !rootless.contains("network"));
    }
}
