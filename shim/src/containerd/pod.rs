//! What a pod's sandbox is made of: as much of CRI's `PodSandboxConfig` as decides about its namespaces and cgroup, and
//! the configuration of the small process that holds them.

use std::collections::BTreeMap;
use std::path::Path;

use containerd_shim_protos::protobuf::rt::skip_field_for_tag;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// CRI's message about a pod.
const CONFIG_TYPE: &str = "runtime.v1.PodSandboxConfig";
/// Where the holding process finds its own binary.
pub(super) const PAUSE: &str = "/pause";
/// The directory in the bundle that is its root. containerd's own `rootfs` must be empty for it to delete the bundle.
pub(super) const ROOT: &str = "sandbox-root";
/// What it is called with there.
pub(crate) const PAUSE_VERB: &str = "sandbox-pause";

/// Whose namespace a pod's containers get, by CRI's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Scope {
    #[default]
    Pod,
    Container,
    Node,
    Target,
}

/// `PodSandboxConfig`, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    hostname: String,
    cgroup_parent: String,
    sysctls: BTreeMap<String, String>,
    network: Scope,
    pid: Scope,
    ipc: Scope,
}

/// Calls `take` for each field of a message; what it does not take is skipped.
fn fields(
    bytes: &[u8],
    mut take: impl FnMut(u32, &mut CodedInputStream<'_>) -> protobuf::Result<bool>,
) -> protobuf::Result<()> {
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if !take(tag, &mut input)? {
            skip_field_for_tag(tag, &mut input)?;
        }
    }
    Ok(())
}

/// The tag of a field that holds text, bytes or a message.
const fn block(field: u32) -> u32 {
    field << 3 | 2
}

/// The tag of a field that holds a number.
const fn number(field: u32) -> u32 {
    field << 3
}

impl Pod {
    /// Reads the message that came as a sandbox's options; none means defaults.
    pub(super) fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        if any.type_url.rsplit('/').next() != Some(CONFIG_TYPE) {
            return Err(Error::invalid(format!(
                "sandbox options of type {:?}: only {CONFIG_TYPE} is known",
                any.type_url
            )));
        }
        let mut pod = Self::default();
        let mut users = false;
        let read = fields(&any.value, |tag, input| {
            if tag == block(2) {
                pod.hostname = input.read_string()?;
            } else if tag == block(8) {
                pod.read_linux(&input.read_bytes()?, &mut users)?;
            } else {
                return Ok(false);
            }
            Ok(true)
        });
        read.map_err(|error| Error::invalid(format!("decode {CONFIG_TYPE}: {error}")))?;
        if users {
            return Err(Error::invalid("a sandbox with a user namespace is not supported: set the pod's hostUsers"));
        }
        Ok(pod)
    }

    /// `LinuxPodSandboxConfig`.
    fn read_linux(&mut self, bytes: &[u8], users: &mut bool) -> protobuf::Result<()> {
        fields(bytes, |tag, input| {
            if tag == block(1) {
                self.cgroup_parent = input.read_string()?;
            } else if tag == block(2) {
                // LinuxSandboxSecurityContext, of which the first field is NamespaceOption.
                fields(&input.read_bytes()?, |tag, input| {
                    let found = tag == block(1);
                    if found {
                        self.read_namespaces(&input.read_bytes()?, users)?;
                    }
                    Ok(found)
                })?;
            } else if tag == block(3) {
                let (mut name, mut value) = (String::new(), String::new());
                fields(&input.read_bytes()?, |tag, input| {
                    if tag == block(1) {
                        name = input.read_string()?;
                    } else if tag == block(2) {
                        value = input.read_string()?;
                    } else {
                        return Ok(false);
                    }
                    Ok(true)
                })?;
                self.sysctls.insert(name, value);
            } else {
                return Ok(false);
            }
            Ok(true)
        })
    }

    /// `NamespaceOption`.
    fn read_namespaces(&mut self, bytes: &[u8], users: &mut bool) -> protobuf::Result<()> {
        fields(bytes, |tag, input| {
            if tag == block(5) {
                // UserNamespace, of which the first field is the scope. Zero, the pod's own, is not sent.
                let mut whose = Scope::Pod;
                fields(&input.read_bytes()?, |tag, input| {
                    let found = tag == number(1);
                    if found {
                        whose = scope(input.read_int32()?);
                    }
                    Ok(found)
                })?;
                *users = whose == Scope::Pod;
                return Ok(true);
            }
            let of = if tag == number(1) {
                &mut self.network
            } else if tag == number(2) {
                &mut self.pid
            } else if tag == number(3) {
                &mut self.ipc
            } else {
                return Ok(false);
            };
            *of = scope(input.read_int32()?);
            Ok(true)
        })
    }

    /// Where the pod's own cgroup is: below the parent that CRI names, in the form that the runtime's driver takes.
    fn cgroups_path(&self, namespace: &str, id: &str, systemd: bool) -> String {
        let parent = self.cgroup_parent.trim_end_matches('/');
        if systemd {
            let slice = parent.rsplit('/').next().unwrap_or_default();
            return format!("{slice}:cri-containerd:{id}");
        }
        if parent.is_empty() { format!("/{namespace}/{id}") } else { format!("{parent}/{id}") }
    }

    /// The configuration of the process that holds the pod's namespaces: `executable`, alone in an empty root.
    pub(super) fn config(&self, id: &str, namespace: &str, netns: &str, executable: &Path, systemd: bool) -> Value {
        let mut namespaces = vec![json!({"type": "mount"})];
        let shares_host = self.network == Scope::Node;
        if !shares_host {
            // As in CRI's own sandboxes, the name of the host goes with its network.
            namespaces.push(json!({"type": "uts"}));
            let own =
                if netns.is_empty() { json!({"type": "network"}) } else { json!({"type": "network", "path": netns}) };
            namespaces.push(own);
        }
        if self.ipc != Scope::Node {
            namespaces.push(json!({"type": "ipc"}));
        }
        if self.pid != Scope::Node {
            namespaces.push(json!({"type": "pid"}));
        }
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": [PAUSE, PAUSE_VERB],
                "cwd": "/",
                "capabilities": {},
                "noNewPrivileges": true,
            },
            "root": {"path": ROOT, "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                // Read-only: /proc/1/exe leads other processes of the pod here.
                {"destination": PAUSE, "type": "bind", "source": executable, "options": ["bind", "ro", "nosuid", "nodev"]},
            ],
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": self.cgroups_path(namespace, id, systemd),
                "sysctl": self.sysctls,
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        // One for the host's own name space is the runtime's to refuse.
        if !self.hostname.is_empty() {
            config["hostname"] = json!(self.hostname);
        }
        config
    }
}

fn scope(number: i32) -> Scope {
    match number {
        1 => Scope::Container,
        2 => Scope::Node,
        3 => Scope::Target,
        _ => Scope::Pod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(parts: &[(u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (field, part) in parts {
            bytes.push(u8::try_from(block(*field)).unwrap());
            bytes.push(u8::try_from(part.len()).unwrap());
            bytes.extend(*part);
        }
        bytes
    }

    fn options(value: Vec<u8>) -> Any {
        Any { type_url: CONFIG_TYPE.into(), value, ..Any::default() }
    }

    fn sent(namespaces: &[u8]) -> Any {
        let context = message(&[(1, namespaces)]);
        let sysctl = message(&[(1, b"net.ipv4.ip_forward"), (2, b"1")]);
        let linux = message(&[(1, b"/kubepods/pod1"), (2, &context), (3, &sysctl)]);
        // Fields 1 (metadata) and 6 (labels) are there to be skipped.
        options(message(&[(1, &[10, 1, b'x']), (2, b"web-0"), (6, b""), (8, &linux)]))
    }

    fn kinds(config: &Value) -> Vec<&str> {
        config["linux"]["namespaces"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_pod_holds_what_its_containers_share() {
        let pod = Pod::from_any(Some(&sent(&[number(2) as u8, 1]))).unwrap();
        let config = pod.config("id", "k8s.io", "/run/netns/x", Path::new("/bin/shim"), false);
        assert_eq!(kinds(&config), ["mount", "uts", "network", "ipc", "pid"]);
        assert_eq!(config["linux"]["namespaces"][2]["path"], "/run/netns/x");
        assert_eq!(config["hostname"], "web-0");
        assert_eq!(config["linux"]["cgroupsPath"], "/kubepods/pod1/id");
        assert_eq!(config["linux"]["sysctl"]["net.ipv4.ip_forward"], "1");
        assert_eq!(config["mounts"][1]["source"], "/bin/shim");
    }

    #[test]
    fn what_is_the_hosts_stays_the_hosts() {
        let namespaces = [1, 2, 3].map(|field| [number(field) as u8, 2]).concat();
        let pod = Pod::from_any(Some(&sent(&namespaces))).unwrap();
        let config = pod.config("id", "k8s.io", "", Path::new("/bin/shim"), true);
        assert_eq!(kinds(&config), ["mount"]);
        assert_eq!(config["linux"]["cgroupsPath"], "pod1:cri-containerd:id");
    }

    #[test]
    fn other_options_are_refused() {
        assert_eq!(Pod::from_any(None).unwrap(), Pod::default());
        assert_eq!(Pod::default().cgroups_path("ns", "id", false), "/ns/id");
        let mapping = message(&[(2, &[number(3) as u8, 9])]);
        let users = message(&[(5, &mapping)]);
        for any in [
            sent(&users),
            options(vec![0xff]),
            options(message(&[(8, &[0xff])])),
            Any { type_url: "x.Y".into(), ..Any::default() },
        ] {
            assert!(Pod::from_any(Some(&any)).is_err(), "{any:?}");
        }
    }

    #[test]
    fn fuzz_shim_pod() {
        let seeds = [sent(&[number(2) as u8, 1]).value, message(&[(2, b"h"), (8, b"")])];
        crate::fuzz::fuzz("shim_pod", &seeds, |input| {
            if let Ok(pod) = Pod::from_any(Some(&options(input.to_vec()))) {
                pod.config("id", "ns", "", Path::new("/bin/shim"), input.len().is_multiple_of(2));
            }
        });
    }
}
