//! `--network`, `-p`, `--dns`, `--add-host`: what is decided when the bundle is made. `link` acts it out when a container runs.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::link;
use super::options::Options;
use crate::error::{Error, Result, Step};

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
            name if !name.is_empty() && name.bytes().all(good) => Ok(Self::Cni(name.to_owned())),
            _ => {
                Err(Error::malformed(format!("{text:?}: want none, host, bridge, pasta or the name of a CNI network")))
            }
        }
    }
}

/// One `-p`, perhaps of several ports in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    ip: Option<IpAddr>,
    /// `None`: any free port.
    host: Option<u16>,
    container: u16,
    count: u16,
    protocol: &'static str,
}

impl FromStr for Publish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::malformed(format!("{text:?}: {why} (want [[IP:]HOST_PORT:]CONTAINER_PORT[/tcp|udp|sctp])"))
        };
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = ["tcp", "udp", "sctp"].into_iter().find(|known| *known == protocol);
        let protocol = protocol.ok_or_else(|| bad("unknown protocol"))?;
        let range = |text: &str| -> Option<(u16, u16)> {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
            (first > 0 && first <= last).then(|| (first, last - first + 1))
        };
        let (before, container) = ports.rsplit_once(':').map_or(("", ports), |(before, after)| (before, after));
        let (container, count) = range(container).ok_or_else(|| bad("no port of the container"))?;
        let (ip, host) = match before.rsplit_once(':') {
            Some((ip, host)) => (Some(ip.trim_start_matches('[').trim_end_matches(']')), host),
            None => (None, before),
        };
        let ip = ip.map(|ip| ip.parse::<IpAddr>().map_err(|_| bad("no IP address"))).transpose()?;
        let host = match host {
            "" | "0" => None,
            host => {
                let (first, length) = range(host).ok_or_else(|| bad("no port of the host"))?;
                if length != count {
                    return Err(bad("the ranges differ in length"));
                }
                Some(first)
            }
        };
        Ok(Self { ip, host, container, count, protocol })
    }
}

/// One published port, as CNI's portmap plugin takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Port {
    #[serde(rename = "hostPort")]
    pub(super) host: u16,
    #[serde(rename = "containerPort")]
    pub(super) container: u16,
    pub(super) protocol: String,
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub(super) host_ip: Option<IpAddr>,
}

impl Publish {
    fn ports(&self) -> Result<Vec<Port>> {
        let mut ports = Vec::new();
        for n in 0..self.count {
            let host = match self.host {
                Some(first) => first.checked_add(n).ok_or_else(|| Error::malformed("--publish: port above 65535"))?,
                None => 0,
            };
            let mut port = Port {
                host,
                container: self.container.saturating_add(n),
                protocol: self.protocol.to_owned(),
                host_ip: self.ip,
            };
            if host == 0 {
                choose(&mut port)?;
            }
            ports.push(port);
        }
        Ok(ports)
    }
}

/// Sets a port that nobody has at this moment: no program of the machine, and no other container.
fn choose(port: &mut Port) -> Result<()> {
    const ATTEMPTS: usize = 64;
    let address = (port.host_ip.unwrap_or(IpAddr::from([0, 0, 0, 0])), 0);
    for _ in 0..ATTEMPTS {
        let found = if port.protocol == "udp" {
            UdpSocket::bind(address).and_then(|socket| socket.local_addr())
        } else {
            TcpListener::bind(address).and_then(|listener| listener.local_addr())
        };
        port.host = found.at("--publish: find a free port")?.port();
        if !link::is_taken(port) {
            return Ok(());
        }
    }
    Err(Error::other("--publish: no free port found"))
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
    /// `None`: nothing is to be done then.
    pub(super) fn of(options: &Options, hostname: &str, hosts: &str) -> Result<Option<Self>> {
        let mut ports: Vec<Port> = Vec::new();
        for publish in &options.publish {
            for port in publish.ports()? {
                if ports.iter().any(|have| link::overlap(have, &port)) {
                    return Err(link::refused(&port, "port is already allocated (by another --publish)"));
                }
                ports.push(port);
            }
        }
        let cni = match &options.network {
            Network::None | Network::Host => {
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

    fn ports(text: &str) -> Vec<(Option<String>, u16, u16, String)> {
        let ports = text.parse::<Publish>().unwrap().ports().unwrap();
        ports.into_iter().map(|p| (p.host_ip.map(|ip| ip.to_string()), p.host, p.container, p.protocol)).collect()
    }

    #[test]
    fn ports_are_published_as_docker_does() {
        assert_eq!(ports("8080:80"), [(None, 8080, 80, "tcp".into())]);
        assert_eq!(ports("127.0.0.1:53:5353/udp"), [(Some("127.0.0.1".into()), 53, 5353, "udp".into())]);
        assert_eq!(ports("[::1]:1:2")[0].0.as_deref(), Some("::1"));
        assert_eq!(ports("10-12:20-22").iter().map(|p| (p.1, p.2)).collect::<Vec<_>>(), [(10, 20), (11, 21), (12, 22)]);
        assert_ne!(ports("80")[0].1, 0);
        for bad in ["", "x", "1:x", "0", "1:2/icmp", "1-2:3", "999999:1", "host:1:2", "3-1:3-1"] {
            assert!(bad.parse::<Publish>().is_err(), "{bad}");
        }
    }

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
        assert!(Plan::of(&published, "box", "").is_err(), "a port nobody could reach");
        assert!(Plan::of(&Options::default(), "box", "").unwrap().is_none());
        let publish = |ports: &[&str]| {
            let publish = ports.iter().map(|port| port.parse().unwrap()).collect();
            Plan::of(&Options { network: Network::Bridge, publish, ..Options::default() }, "box", "")
        };
        publish(&["127.0.0.1:1:2", "127.0.0.2:1:2", "1:2/udp"]).unwrap();
        let twice = publish(&["8080:80", "8079-8081:1-3"]).unwrap_err().to_string();
        assert!(twice.starts_with("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{twice}");
    }
}
