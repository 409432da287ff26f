//! What is different in an ordinary user's bundle: a user namespace, and nothing that only the machine's root may do.

use serde_json::{Value, json};

use super::namespaces::Origin;
use super::network::Network;
use super::options::Options;
use super::security::Devices;
use super::user::Identity;
use super::userns::mappings;
use crate::error::{Error, Result};
use crate::rights::{Maps, Range, has};

/// What an ordinary user's config.json has besides.
#[derive(Clone, Debug)]
pub(super) struct Rootless {
    pub(super) maps: Maps,
    /// The overlay on the container's root, which the runtime mounts: no mount of an ordinary user's outlives imgtool.
    pub(super) root: Option<Value>,
    /// cgroup v2 can be shown in a user namespace, v1 cannot.
    pub(super) cgroup2: bool,
    /// The machine's root made it, and for a container of its own.
    pub(super) roots: bool,
    /// The host's message queues are mounted, where a container that shares them finds them.
    pub(super) queues: bool,
}

/// Checks that the process's ids are there in the container's user namespace. Where the user alone is mapped, as 0 because runtimes
/// want a root, the process is that one whatever the image says; gives who it should have been.
pub(super) fn check_identity(own: &Maps, identity: &mut Identity) -> Result<Option<Identity>> {
    if own.is_single() {
        let alone = Identity::default();
        return Ok((*identity != alone).then(|| std::mem::replace(identity, alone)));
    }
    let missing = |what: &str, id: u32, file: &str| {
        Err(Error::other(format!("{what} {id} is not among the ids that you may use ({file} gives more)")))
    };
    if !has(&own.uids, identity.uid) {
        return missing("user", identity.uid, "/etc/subuid");
    }
    if let Some(&gid) = [identity.gid].iter().chain(&identity.groups).find(|&&gid| !has(&own.gids, gid)) {
        return missing("group", gid, "/etc/subgid");
    }
    Ok(None)
}

impl Rootless {
    /// For a runtime that is called in the user namespace in which this process is root: the container's has the same ids.
    /// Nothing has to be mounted on its root, as what is mounted here is there for the runtime too.
    pub(super) fn within(outer: &Maps) -> Self {
        let same = |ranges: &[Range]| ranges.iter().map(|range| Range { outside: range.inside, ..*range }).collect();
        let maps = Maps { uids: same(&outer.uids), gids: same(&outer.gids) };
        Self { maps, root: None, cgroup2: has_cgroup2(), queues: has_queues(), roots: false }
    }

    /// Turns root's config.json into one that an ordinary user can run.
    pub(super) fn adapt(&self, spec: &mut Value, options: &Options, devices: &Devices) {
        let linux = &mut spec["linux"];
        if let Some(namespaces) = linux["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "user"}));
        }
        linux["uidMappings"] = mappings(&self.maps.uids);
        linux["gidMappings"] = mappings(&self.maps.gids);
        if !self.roots
            && let Some(resources) = linux["resources"].as_object_mut()
        {
            // Devices are not an ordinary user's to allow; the kernel allows none to be made in a user namespace.
            resources.remove("devices");
            if resources.is_empty() {
                linux.as_object_mut().map(|linux| linux.remove("resources"));
            }
        }
        if let Some(sysctl) = spec["linux"]["sysctl"].as_object_mut() {
            // All groups there are, which are not all in the namespace.
            sysctl.remove("net.ipv4.ping_group_range");
        }
        // No device can be made in a user namespace: runtimes mount the host's of the same path in its place.
        if let Some(nodes) = spec["linux"]["devices"].as_array_mut() {
            nodes.retain(|node| !devices.moved.iter().any(|(_, path)| node["path"] == json!(path)));
        }
        let Some(mounts) = spec["mounts"].as_array_mut() else { return };
        mounts.extend(devices.moved.iter().map(|(host, path)| {
            json!({"destination": path, "type": "bind", "source": host, "options": ["bind", "nosuid", "noexec", "rprivate"]})
        }));
        mounts.retain(|mount| self.cgroup2 || self.roots || mount["type"] != "cgroup");
        mounts.retain(|mount| mount["type"] != "mqueue" || options.ipc.origin != Origin::Host || self.queues);
        for mount in mounts.iter_mut() {
            if mount["type"] == "devpts"
                && let Some(options) = mount["options"].as_array_mut()
            {
                options.retain(|option| option != "gid=5" || has(&self.maps.gids, 5));
            }
            // Each of them shows a namespace, and is for the owner of that to mount.
            for (kind, place, hosts) in [
                ("sysfs", "/sys", matches!(options.network, Network::Host | Network::Joined(_))),
                ("proc", "/proc", options.pid == Origin::Host),
                ("mqueue", "/dev/mqueue", options.ipc.origin == Origin::Host),
            ] {
                if mount["type"] == kind && hosts {
                    // With all that is mounted below.
                    let access = if kind == "sysfs" { "rro" } else { "rw" };
                    *mount = json!({"destination": place, "type": "bind", "source": place,
                        "options": ["rbind", "nosuid", "noexec", "nodev", access]});
                }
            }
        }
        if let Some(root) = &self.root {
            mounts.insert(0, root.clone());
        }
    }
}

/// Whether this host has cgroup v2 alone.
pub(super) fn has_cgroup2() -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

/// Whether this host has its message queues mounted.
pub(super) fn has_queues() -> bool {
    std::path::Path::new("/dev/mqueue").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, count: u32) -> Range {
        Range { inside, outside, count }
    }

    fn identity() -> Identity {
        Identity { uid: 33, gid: 44, groups: vec![50] }
    }

    #[test]
    fn with_one_id_the_process_is_that_one() {
        let own = Maps { uids: vec![range(0, 1000, 1)], gids: vec![range(0, 100, 1)] };
        let mut asked = identity();
        assert_eq!(check_identity(&own, &mut asked).unwrap(), Some(identity()));
        assert_eq!(asked, Identity::default());
        assert_eq!(check_identity(&own, &mut asked).unwrap(), None);
    }

    #[test]
    fn ids_must_be_in_the_ranges() {
        let ranges = |count| vec![range(0, 1000, 1), range(1, 100_000, count)];
        let own = |uids, gids| Maps { uids: ranges(uids), gids: ranges(gids) };
        let refused = |own: Maps| check_identity(&own, &mut identity()).unwrap_err().to_string();
        assert_eq!(check_identity(&own(60, 60), &mut identity()).unwrap(), None);
        assert!(refused(own(30, 60)).contains("user 33"));
        assert!(refused(own(60, 43)).contains("group 44"));
        assert!(refused(own(60, 45)).contains("group 50"));
    }

    #[test]
    fn what_only_root_may_do_is_left_out() {
        let mut spec = json!({
            "linux": {
                "namespaces": [{"type": "pid"}],
                "resources": {"devices": [{"allow": false}], "pids": {"limit": 3}},
                "sysctl": {"net.ipv4.ping_group_range": "0 1", "net.ipv4.ip_unprivileged_port_start": "0"},
            },
            "mounts": [
                {"destination": "/dev/pts", "type": "devpts", "options": ["gid=5", "mode=0620"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup"},
            ],
        });
        let rootless = Rootless {
            maps: Maps { uids: vec![range(0, 1000, 1)], gids: vec![range(0, 1000, 1)] },
            root: Some(json!({"destination": "/", "type": "overlay"})),
            cgroup2: false,
            queues: false,
            roots: false,
        };
        let mut other = spec.clone();
        rootless.adapt(&mut spec, &Options::default(), &Devices::default());
        assert_eq!(spec["linux"]["namespaces"][1]["type"], "user");
        assert_eq!(spec["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
        assert_eq!(spec["linux"]["resources"], json!({"pids": {"limit": 3}}));
        assert_eq!(spec["linux"]["sysctl"], json!({"net.ipv4.ip_unprivileged_port_start": "0"}));
        let kinds: Vec<&Value> = spec["mounts"].as_array().unwrap().iter().map(|mount| &mount["type"]).collect();
        assert_eq!(kinds, ["overlay", "devpts", "sysfs"]);
        assert_eq!(spec["mounts"][1]["options"], json!(["mode=0620"]));
        other["linux"]["resources"] = json!({"devices": []});
        let host = Options { network: Network::Host, ..Options::default() };
        Rootless { cgroup2: true, root: None, ..rootless }.adapt(&mut other, &host, &Devices::default());
        assert_eq!(other["linux"].get("resources"), None);
        let kinds: Vec<&Value> = other["mounts"].as_array().unwrap().iter().map(|mount| &mount["type"]).collect();
        assert_eq!(kinds, ["devpts", "bind", "cgroup"]);
    }
}
