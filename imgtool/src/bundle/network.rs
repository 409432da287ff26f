//! `--network`, `--dns`, `--add-host`: what is decided when the bundle is made. `link` acts it out when a container runs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::namespaces::Origin;
use super::options::Options;
use super::publish::{self, Exposed, Port};
use crate::error::{Error, Result};

/// Which network the container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Network {
    /// Its own network namespace with nothing but a loopback device.
    #[default]
    None,
    /// The host's.
    Host,
    /// A bridge of the host, by CNI plugins.
    Bridge,
    /// User-mode networking by pasta, which needs no privilege.
    Pasta,
    /// Another container's.
    Joined(Origin),
    /// A network that is configured for CNI on this host.
    Cni(String),
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "bridge" => Ok(Self::Bridge),
            "pasta" => Ok(Self::Pasta),
            other if Origin::joined(other).is_some() => Ok(Self::Joined(Origin::joined(other).unwrap_or_default())),
            name if !name.is_empty() && name.bytes().all(good) => Ok(Self::Cni(name.to_owned())),
            _ => {
                let want = "none, host, bridge, pasta, container:NAME-or-DIR, ns:/PATH or the name of a CNI network";
                Err(Error::malformed(format!("{text:?}: want {want}")))
            }
        }
    }
}

/// One `--add-host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostEntry {
    name: String,
    ip: IpAddr,
}

impl FromStr for HostEntry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::malformed(format!("{text:?}: want NAME:IP"));
        let (name, ip) = text.split_once([':', '=']).ok_or_else(bad)?;
        let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        let ip = ip.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| bad())?;
        if good { Ok(Self { name: name.to_owned(), ip }) } else { Err(bad()) }
    }
}

/// network.json: what the hooks do when a container of this bundle begins and ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    pub(super) hostname: String,
    /// /etc/hosts before the container has an address.
    pub(super) hosts: String,
    pub(super) ports: Vec<Port>,
    /// A list of CNI plugins; without one it is pasta.
    pub(super) cni: Option<Value>,
}

impl Plan {
    /// For an image that exposes these ports. `None`: nothing is to be done then.
    pub(super) fn of(options: &Options, exposed: &[Exposed], hostname: &str, hosts: &str) -> Result<Option<Self>> {
        let ports = publish::ports(&options.publish, if options.publish_all { exposed } else { &[] })?;
        let cni = match &options.network {
            Network::None | Network::Host | Network::Joined(_) => {
                return if ports.is_empty() {
                    Ok(None)
                } else {
                    Err(Error::other("--publish: this network has no ports to publish (use --network bridge or pasta)"))
                };
            }
            Network::Pasta if ports.iter().any(|port| port.protocol == "sctp") => {
                return Err(Error::other("--publish: pasta forwards tcp and udp, not sctp"));
            }
            Network::Pasta => None,
            Network::Bridge => Some(bridge()),
            Network::Cni(name) => Some(configured(name)?),
        };
        Ok(Some(Self { hostname: hostname.to_owned(), hosts: hosts.to_owned(), ports, cni }))
    }
}

/// The bridge that all bundles share.
fn bridge() -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "tare",
        "plugins": [
            {
                "type": "bridge", "bridge": "tare0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "ranges": [[{"subnet": "10.87.0.0/16", "gateway": "10.87.0.1"}]],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "firewall"},
        ],
    })
}

/// The network `name` of /etc/cni/net.d.
fn configured(name: &str) -> Result<Value> {
    let directory = Path::new("/etc/cni/net.d");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for file in files {
        let kind = file.extension().and_then(|e| e.to_str());
        if !matches!(kind, Some("conflist" | "conf" | "json")) {
            continue;
        }
        let Some(Ok(value)) = std::fs::read(&file).ok().map(|bytes| crate::oci::json::<Value>(&bytes)) else {
            continue;
        };
        if value["name"] == name {
            return Ok(match value.get("plugins") {
                Some(_) => value,
                None => json!({"cniVersion": value["cniVersion"], "name": name, "plugins": [value]}),
            });
        }
    }
    Err(Error::missing(format!("--network {name}: there is no such network in {}", directory.display())))
}

/// /etc/hosts without the container's own address, which is not known before it runs.
pub(super) fn hosts(options: &Options, hostname: &str) -> String {
    let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    match options.network {
        Network::Host => hosts = std::fs::read_to_string("/etc/hosts").unwrap_or(hosts),
        Network::None => hosts.extend(["127.0.0.1\t", hostname, "\n"]),
        _ => {}
    }
    if !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for HostEntry { name, ip } in &options.hosts {
        hosts.extend([&ip.to_string(), "\t", name, "\n"]);
    }
    hosts
}

/// resolv.conf; `None` where there is nobody to ask.
pub(super) fn resolv_conf(options: &Options) -> Option<String> {
    let asked = !options.dns.is_empty() || !options.dns_search.is_empty() || !options.resolver.is_empty();
    if options.network == Network::None && !asked {
        return None;
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let host = read("/etc/resolv.conf");
    if options.network == Network::Host && !asked {
        return Some(host);
    }
    Some(compose(options, &host, || read("/run/systemd/resolve/resolv.conf")))
}

/// The host's resolv.conf with the user's changes. A name server of the host's loopback is not there for a container: what
/// systemd-resolved asks is asked then.
fn compose(options: &Options, host: &str, upstream: impl Fn() -> String) -> String {
    let servers = |text: &str| -> Vec<String> {
        let all = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(str::trim);
        let own_network = options.network != Network::Host;
        all.filter(|ip| !own_network || ip.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback()))
            .map(str::to_owned)
            .collect()
    };
    let of = |key: &str| -> Option<String> {
        let line = host.lines().map(str::trim).rfind(|line| line.split_whitespace().next() == Some(key))?;
        Some(line[key.len()..].trim().to_owned())
    };
    let mut nameservers: Vec<String> = options.dns.iter().map(IpAddr::to_string).collect();
    if nameservers.is_empty() {
        nameservers = servers(host);
    }
    if nameservers.is_empty() {
        nameservers = servers(&upstream());
    }
    let search = if options.dns_search.is_empty() { of("search") } else { Some(options.dns_search.join(" ")) };
    let more = if options.resolver.is_empty() { of("options") } else { Some(options.resolver.join(" ")) };
    let mut text = String::new();
    for server in nameservers {
        text.extend(["nameserver ", &server, "\n"]);
    }
    for (key, value) in [("search", search), ("options", more)] {
        // "--dns-search ." is how people ask for none.
        if let Some(value) = value.filter(|value| !value.is_empty() && value != ".") {
            text.extend([key, " ", &value, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_what_a_container_can_reach() {
        let host = "# x\nnameserver 127.0.0.53\nsearch a b\noptions edns0\n";
        let upstream = || "nameserver 192.0.2.1\n".to_owned();
        let bridge = Options { network: Network::Bridge, ..Options::default() };
        assert_eq!(compose(&bridge, host, upstream), "nameserver 192.0.2.1\nsearch a b\noptions edns0\n");
        let asked = Options {
            network: Network::Bridge,
            dns: vec!["192.0.2.7".parse().unwrap()],
            dns_search: vec![".".into()],
            resolver: vec!["ndots:1".into()],
            ..Options::default()
        };
        assert_eq!(compose(&asked, host, upstream), "nameserver 192.0.2.7\noptions ndots:1\n");
        assert_eq!(resolv_conf(&Options::default()), None);
    }

    #[test]
    fn hosts_and_networks() {
        let entry: HostEntry = "db:192.0.2.9".parse().unwrap();
        let options = Options { hosts: vec![entry], ..Options::default() };
        assert!(hosts(&options, "box").ends_with("127.0.0.1\tbox\n192.0.2.9\tdb\n"));
        assert!("a b:192.0.2.9".parse::<HostEntry>().is_err());
        assert!("db:host".parse::<HostEntry>().is_err());
        assert_eq!("bridge".parse::<Network>().unwrap(), Network::Bridge);
        assert!("../x".parse::<Network>().is_err());
        let published = Options { publish: vec!["1:2".parse().unwrap()], ..Options::default() };
        assert!(Plan::of(&published, &[], "box", "").is_err(), "a port nobody could reach");
        let all = Options { publish_all: true, ..Options::default() };
        assert!(Plan::of(&all, &["80".parse().unwrap()], "box", "").is_err(), "and those of the image");
        assert!(Plan::of(&Options::default(), &[], "box", "").unwrap().is_none());
    }
}
