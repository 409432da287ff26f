//! What a device changes in config.json.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::edits::{Edits, Mount, Node};
use super::{Common, Device};
use crate::error::{Error, Result, Step};

impl Edits {
    fn apply(&self, spec: &mut Value, rootless: bool) -> Result<()> {
        for entry in &self.env {
            let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
            list(spec, "/process", "env", |env| {
                match env.iter_mut().find(|have| have.as_str().is_some_and(|have| key(have) == key(entry))) {
                    Some(have) => *have = json!(entry),
                    None => env.push(json!(entry)),
                }
            });
        }
        for node in &self.device_nodes {
            let step = || format!("device node {}", node.path);
            let found = node.found(&spec["process"]["user"]).with(step)?;
            if rootless {
                node.bind(spec);
                // An ordinary user has no rules; root's container with ids of its own has them.
                if !spec["linux"]["resources"]["devices"].is_array() {
                    continue;
                }
            } else {
                list(spec, "/linux", "devices", |devices| {
                    devices.retain(|have| have["path"] != found["path"]);
                    devices.push(found.clone());
                });
            }
            let access = match node.permissions.as_deref() {
                None | Some("") => "rwm",
                Some("none") => continue,
                Some(access) => access,
            };
            if found["type"] != "p" {
                let rule = json!({
                    "allow": true, "type": found["type"], "major": found["major"], "minor": found["minor"], "access": access,
                });
                list(spec, "/linux/resources", "devices", |rules| rules.push(rule));
            }
        }
        for device in &self.net_devices {
            let linux = &mut spec["linux"];
            if !linux["netDevices"].is_object() {
                linux["netDevices"] = json!({});
            }
            linux["netDevices"][&device.host_interface_name] = json!({"name": device.name});
        }
        for mount in &self.mounts {
            place(spec, mount.entry());
        }
        for hook in &self.hooks {
            let mut entry = json!({"path": hook.path});
            for (key, words) in [("args", &hook.args), ("env", &hook.env)] {
                if !words.is_empty() {
                    entry[key] = json!(words);
                }
            }
            if let Some(timeout) = hook.timeout {
                entry["timeout"] = json!(timeout);
            }
            list(spec, "/hooks", &hook.name, |hooks| hooks.push(entry));
        }
        if let Some(rdt) = &self.intel_rdt {
            spec["linux"]["intelRdt"] = json!(rdt);
        }
        for gid in self.additional_gids.iter().filter(|gid| **gid != 0) {
            list(spec, "/process/user", "additionalGids", |groups| {
                if !groups.contains(&json!(gid)) {
                    groups.push(json!(gid));
                }
            });
        }
        Ok(())
    }
}

/// A list of config.json, made where it is not there.
fn list(spec: &mut Value, above: &str, key: &str, act: impl FnOnce(&mut Vec<Value>)) {
    let mut at = spec;
    for part in above.split('/').skip(1).chain([key]) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    if !at.is_array() {
        *at = json!([]);
    }
    if let Value::Array(list) = at {
        act(list);
    }
}

/// Adds a mount in place of what is mounted there.
fn place(spec: &mut Value, entry: Value) {
    list(spec, "", "mounts", |mounts| {
        mounts.retain(|have| have["destination"] != entry["destination"]);
        mounts.push(entry);
    });
}

impl Node {
    fn host(&self) -> &Path {
        self.host_path.as_deref().unwrap_or(Path::new(&self.path))
    }

    /// Its entry, with what is not said of it as it is on the machine.
    fn found(&self, user: &Value) -> Result<Value> {
        let said =
            self.kind.as_deref().filter(|kind| !kind.is_empty()).map(|kind| if kind == "u" { "c" } else { kind });
        let whole = said.is_some_and(|kind| kind == "p" || self.major.is_some_and(|major| major != 0));
        // What is said in full need not be there yet.
        let meta = match fs::symlink_metadata(self.host()) {
            Err(_) if whole => None,
            meta => Some(meta.with(|| self.host().display().to_string())?),
        };
        let mut kind = said.map(str::to_owned);
        let (mut major, mut minor) = (self.major.unwrap_or(0), self.minor.unwrap_or(0));
        if let Some(meta) = meta.as_ref().filter(|_| !whole) {
            let have = match meta.file_type() {
                kind if kind.is_char_device() => "c",
                kind if kind.is_block_device() => "b",
                kind if kind.is_fifo() => "p",
                _ => return Err(Error::other(format!("{}: is no device", self.host().display()))),
            };
            if said.is_some_and(|said| said != have) {
                return Err(Error::other(format!("{}: is of type {have}", self.host().display())));
            }
            kind = Some(have.to_owned());
            if have != "p" && major == 0 {
                major = rustix::fs::major(meta.rdev()).into();
                minor = rustix::fs::minor(meta.rdev()).into();
            }
        }
        let mut entry = json!({"path": self.path, "type": kind, "major": major, "minor": minor});
        if let Some(mode) = self.file_mode.or(meta.map(|meta| meta.mode() & 0o777)) {
            entry["fileMode"] = json!(mode & 0o777);
        }
        for (key, said) in [("uid", self.uid), ("gid", self.gid)] {
            let process = user[key].as_u64().filter(|id| *id > 0);
            if let Some(id) = said.map(u64::from).or(process) {
                entry[key] = json!(id);
            }
        }
        Ok(entry)
    }

    /// In a user namespace none can be made: the machine's is shown.
    fn bind(&self, spec: &mut Value) {
        let access = match self.permissions.as_deref() {
            Some(access) if !access.is_empty() && !access.contains('w') => "ro",
            _ => "rw",
        };
        place(
            spec,
            json!({
                "destination": self.path, "type": "bind", "source": self.host(),
                "options": ["bind", "rprivate", "nosuid", "noexec", access],
            }),
        );
    }
}

impl Mount {
    fn entry(&self) -> Value {
        let kind = if self.is_bind() { "bind" } else { self.kind.as_deref().unwrap_or_default() };
        let mut options = self.options.clone();
        if self.is_bind() && !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.push("rbind".to_owned());
        }
        json!({"destination": self.container_path, "type": kind, "source": self.host_path, "options": options})
    }
}

/// The edits of all devices; what is common to several devices of one file counts once, and first.
fn all(devices: &[Device]) -> Vec<(&str, &Edits)> {
    let mut seen: Vec<&Arc<Common>> = Vec::new();
    let mut all: Vec<(&str, &Edits)> = Vec::new();
    for device in devices {
        if !seen.iter().any(|have| Arc::ptr_eq(have, &device.common)) {
            seen.push(&device.common);
            all.push((&device.name, &device.common.edits));
        }
        all.push((&device.name, &device.edits));
    }
    all
}

/// Puts devices into config.json.
pub(crate) fn apply(devices: &[Device], spec: &mut Value, rootless: bool) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    for (name, edits) in all(devices) {
        edits.apply(spec, rootless).with(|| format!("device {name}"))?;
    }
    // A mount comes before those below it.
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        let depth = |mount: &Value| {
            let path = mount["destination"].as_str().unwrap_or_default();
            path.split('/').filter(|part| !part.is_empty()).count()
        };
        mounts.sort_by_key(depth);
    }
    Ok(())
}

/// Whether that is so whatever links there are.
fn is_below_dev(path: &str) -> bool {
    path.starts_with("/dev/") && !path.split('/').any(|part| part == "..")
}

/// The places that devices need in the container's files, and whether each is a file's. Those of /dev are elsewhere.
pub(crate) fn mount_points(devices: &[Device], rootless: bool) -> Result<Vec<(String, bool)>> {
    let mut points = Vec::new();
    for (name, edits) in all(devices) {
        for node in edits.device_nodes.iter().filter(|node| !is_below_dev(&node.path)) {
            if !rootless {
                let text =
                    format!("device {name}: its node {} is not below /dev: it would stay in the image", node.path);
                return Err(Error::other(text));
            }
            points.push((node.path.clone(), true));
        }
        for mount in &edits.mounts {
            let is_file = mount.is_bind() && fs::metadata(&mount.host_path).is_ok_and(|meta| !meta.is_dir());
            points.push((mount.container_path.clone(), is_file));
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::super::edits::tests::edits;
    use super::*;

    fn spec() -> Value {
        json!({
            "process": {"env": ["A=1", "B=2"], "user": {"uid": 5, "gid": 0}},
            "mounts": [{"destination": "/dev", "type": "tmpfs"}, {"destination": "/a/b", "type": "x"}],
            "linux": {"resources": {"devices": [{"allow": false}]}},
        })
    }

    const ALL: &str = "\
env: [B=3, C=4]
deviceNodes:
- {path: /dev/one, hostPath: /dev/null, permissions: r, fileMode: 0o644}
- {path: /dev/two, type: b, major: 7, minor: 9, uid: 8, permissions: none}
mounts:
- {hostPath: /etc, containerPath: /a/b, options: [ro, rbind]}
- {hostPath: tmpfs, containerPath: /a, type: tmpfs}
hooks:
- {hookName: createContainer, path: /bin/hook, args: [hook, x], timeout: 3}
additionalGids: [0, 44, 44]
intelRdt: {closID: fast, l3CacheSchema: \"L3:0=f\"}
netDevices: [{hostInterfaceName: enp1s0, name: eth9}]
";

    #[test]
    fn all_edits_reach_config_json() {
        let mut spec = spec();
        edits(ALL).unwrap().apply(&mut spec, false).unwrap();
        assert_eq!(spec["process"]["env"], json!(["A=1", "B=3", "C=4"]));
        assert_eq!(
            spec["linux"]["devices"],
            json!([
                {"path": "/dev/one", "type": "c", "major": 1, "minor": 3, "fileMode": 0o644, "uid": 5},
                {"path": "/dev/two", "type": "b", "major": 7, "minor": 9, "uid": 8},
            ])
        );
        let rules = &spec["linux"]["resources"]["devices"];
        assert_eq!(rules[1], json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}));
        assert_eq!(rules.as_array().unwrap().len(), 2, "none is none: {rules}");
        assert_eq!(
            spec["mounts"][1],
            json!({"destination": "/a/b", "type": "bind", "source": "/etc", "options": ["ro", "rbind"]})
        );
        assert_eq!(
            spec["hooks"]["createContainer"],
            json!([{"path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}])
        );
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([44]));
        assert_eq!(spec["linux"]["intelRdt"], json!({"closID": "fast", "l3CacheSchema": "L3:0=f"}));
        assert_eq!(spec["linux"]["netDevices"], json!({"enp1s0": {"name": "eth9"}}));
    }

    #[test]
    fn what_devices_of_one_file_have_in_common_counts_once_and_mounts_stand_in_their_order() {
        let common = Arc::new(Common {
            path: "/x".into(),
            edits: edits("additionalGids: [7]\nhooks: [{hookName: poststop, path: /h}]\n").unwrap(),
        });
        let device = |yaml: &str| Device {
            name: "a/b=c".into(),
            annotations: [].into(),
            edits: edits(yaml).unwrap(),
            common: Arc::clone(&common),
        };
        let devices = [device(ALL), device("deviceNodes: [{path: /dev/one, hostPath: /dev/zero}]\n")];
        let mut made = spec();
        apply(&devices, &mut made, false).unwrap();
        assert_eq!(made["hooks"]["poststop"].as_array().unwrap().len(), 1);
        let order: Vec<&str> =
            made["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        assert_eq!(order, ["/dev", "/a", "/a/b"]);
        let devices_there = made["linux"]["devices"].as_array().unwrap();
        assert!(
            devices_there.len() == 2 && devices_there.iter().any(|d| d["path"] == "/dev/one" && d["minor"] == 5),
            "the last counts"
        );
        assert_eq!(mount_points(&devices, false).unwrap(), [("/a/b".to_owned(), false), ("/a".to_owned(), false)]);
        let mut user = spec();
        apply(&devices, &mut user, true).unwrap();
        assert!(user["linux"]["devices"].is_null());
        let rules = |spec: &Value| spec["linux"]["resources"]["devices"].as_array().map(Vec::len);
        assert_eq!(rules(&user), rules(&made), "where there are rules they allow it");
        let mut without = spec();
        without["linux"]["resources"] = Value::Null;
        apply(&devices, &mut without, true).unwrap();
        assert_eq!(rules(&without), None);
        let shown = user["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/dev/one").unwrap();
        assert_eq!((&shown["source"], &shown["type"]), (&json!("/dev/zero"), &json!("bind")));
        let odd = [device("deviceNodes: [{path: /opt/x, hostPath: /dev/null}]\n")];
        assert!(mount_points(&odd, false).unwrap_err().to_string().contains("not below /dev"));
    }

    #[test]
    fn devices_that_are_not_there_or_something_else_are_refused() {
        for (text, why) in [
            ("deviceNodes: [{path: /dev/no-such}]", "/dev/no-such"),
            ("deviceNodes: [{path: /dev/null, type: b}]", "is of type c"),
            ("deviceNodes: [{path: /dev/x, hostPath: /etc/passwd}]", "no device"),
        ] {
            let error = edits(text).unwrap().apply(&mut spec(), false).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
