//! `-p`, `-P` and `--expose`: which ports of the container are ports of the host, and which ones.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::link;
use crate::error::{Error, Result, Step};
use crate::oci::Execution;

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
/// Of an image's ports that are published unseen: each is a rule, or a socket.
const EXPOSED_MAX: usize = 1000;

/// `FIRST[-LAST]`
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

fn protocol(text: &str) -> Option<&'static str> {
    PROTOCOLS.into_iter().find(|known| known.eq_ignore_ascii_case(text))
}

/// One `-p`, perhaps of several ports in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    ip: Option<IpAddr>,
    /// `None`: any free ports. Several for one of the container: the first of them that is free.
    host: Option<RangeInclusive<u16>>,
    container: RangeInclusive<u16>,
    protocol: &'static str,
}

impl FromStr for Publish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::malformed(format!("{text:?}: {why} (want [[IP:]HOST_PORT:]CONTAINER_PORT[/tcp|udp|sctp])"))
        };
        let (ports, kind) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = protocol(kind).ok_or_else(|| bad("unknown protocol"))?;
        let (before, container) = ports.rsplit_once(':').unwrap_or(("", ports));
        let container = range(container).ok_or_else(|| bad("no port of the container"))?;
        let (ip, host) = match before.rsplit_once(':') {
            Some((ip, host)) => (Some(ip.trim_start_matches('[').trim_end_matches(']')), host),
            None => (None, before),
        };
        let ip = ip.map(|ip| ip.parse::<IpAddr>().map_err(|_| bad("no IP address"))).transpose()?;
        let host = match host {
            "" | "0" => None,
            host => {
                let host = range(host).ok_or_else(|| bad("no port of the host"))?;
                // One port of the container may be any of several of the host.
                if container.len() != 1 && host.len() != container.len() {
                    return Err(bad("the ranges differ in length"));
                }
                Some(host)
            }
        };
        Ok(Self { ip, host, container, protocol })
    }
}

/// One `--expose`, or EXPOSE of an image: ports that `-P` publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    ports: RangeInclusive<u16>,
    protocol: &'static str,
}

impl FromStr for Exposed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::malformed(format!("{text:?}: {why} (want PORT[-PORT][/tcp|udp|sctp])"));
        let (ports, kind) = text.split_once('/').unwrap_or((text, "tcp"));
        let ports = range(ports).ok_or_else(|| bad("no port of the container"))?;
        Ok(Self { ports, protocol: protocol(kind).ok_or_else(|| bad("unknown protocol"))? })
    }
}

impl Exposed {
    pub(crate) fn has(&self, port: &Port) -> bool {
        self.ports.contains(&port.container) && self.protocol == port.protocol
    }

    pub(crate) fn is_single(&self) -> bool {
        self.ports.len() == 1
    }
}

impl std::fmt::Display for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.ports.start(), self.ports.end());
        if first == last {
            write!(f, "{first}/{}", self.protocol)
        } else {
            write!(f, "{first}-{last}/{}", self.protocol)
        }
    }
}

/// What the image exposes, and what the user exposes besides.
pub(super) fn exposed(image: &Execution, more: &[Exposed]) -> Result<Vec<Exposed>> {
    let all = image.exposed_ports.iter().flatten();
    let of_image = all.map(|(text, _)| text.parse().with(|| format!("exposed port {text:?} of the image")));
    of_image.chain(more.iter().cloned().map(Ok)).collect()
}

/// One published port, as CNI's portmap plugin takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Port {
    #[serde(rename = "hostPort")]
    pub(crate) host: u16,
    #[serde(rename = "containerPort")]
    pub(crate) container: u16,
    pub(crate) protocol: String,
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub(crate) host_ip: Option<IpAddr>,
}

impl Port {
    /// Where it is reached.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), self.host)
    }
}

/// All that is published: what the user says, and of the `exposed` ports those that the user says nothing of.
pub(super) fn ports(publish: &[Publish], exposed: &[Exposed]) -> Result<Vec<Port>> {
    let mut ports: Vec<Port> = Vec::new();
    let mut choices = Vec::new();
    for Publish { ip, host, container, protocol } in publish {
        let mut host = host.clone();
        if let Some(choice) = host.take_if(|host| host.len() > container.len()) {
            choices.push((ports.len(), choice));
        }
        for container in container.clone() {
            // 0: not chosen yet.
            let host = host.as_mut().and_then(Iterator::next).unwrap_or(0);
            let port = Port { host, container, protocol: (*protocol).to_owned(), host_ip: *ip };
            if host != 0 && ports.iter().any(|have| link::overlap(have, &port)) {
                return Err(link::refused(&port, "port is already allocated (by another --publish)"));
            }
            ports.push(port);
        }
    }
    let said = ports.len();
    for Exposed { ports: range, protocol } in exposed {
        for container in range.clone() {
            if ports.iter().any(|have| have.container == container && have.protocol == *protocol) {
                continue;
            }
            if ports.len() - said == EXPOSED_MAX {
                return Err(Error::other(format!("--publish-all: the image exposes more than {EXPOSED_MAX} ports")));
            }
            ports.push(Port { host: 0, container, protocol: (*protocol).to_owned(), host_ip: None });
        }
    }
    // After all that have a number of their own.
    for (index, choice) in choices {
        ports[index].host = choose_of(choice, &ports[index], &ports)?;
    }
    for index in 0..ports.len() {
        if ports[index].host == 0 {
            ports[index].host = choose(&ports[index], &ports)?;
        }
    }
    Ok(ports)
}

/// As the column PORTS of `docker ps` has it.
pub(super) fn as_docker_lists(ports: &[Port]) -> String {
    let one = |port: &Port| format!("{}->{}/{}", port.address(), port.container, port.protocol);
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A port that nobody has at this moment: no program of the machine, no other container, and none of these.
fn choose(port: &Port, others: &[Port]) -> Result<u16> {
    const ATTEMPTS: usize = 64;
    let port = Port { host: 0, ..port.clone() };
    for _ in 0..ATTEMPTS {
        let found = bind(&port).at("--publish: find a free port")?;
        if is_free(&Port { host: found, ..port.clone() }, others) {
            return Ok(found);
        }
    }
    Err(Error::other("--publish: no free port found"))
}

/// The same, of a choice.
fn choose_of(mut choice: RangeInclusive<u16>, port: &Port, others: &[Port]) -> Result<u16> {
    let (first, last) = (*choice.start(), *choice.end());
    let mut why = "of other containers".to_owned();
    let found = choice.find(|host| {
        let port = Port { host: *host, ..port.clone() };
        match bind(&port) {
            Ok(_) => is_free(&port, others),
            Err(e) => {
                why = e.to_string();
                false
            }
        }
    });
    found.ok_or_else(|| Error::other(format!("--publish: no port from {first} to {last} is free: {why}")))
}

/// Whether a program of this machine may have the port now, and which it is.
fn bind(port: &Port) -> std::io::Result<u16> {
    let found = if port.protocol == "udp" {
        UdpSocket::bind(port.address()).and_then(|socket| socket.local_addr())
    } else {
        TcpListener::bind(port.address()).and_then(|listener| listener.local_addr())
    };
    found.map(|address| address.port())
}

/// Whether no other container has it, and none of these.
fn is_free(port: &Port, others: &[Port]) -> bool {
    !link::is_taken(port) && !others.iter().any(|other| link::overlap(other, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(all: &[&str], exposed: &[&str]) -> Result<Vec<Port>> {
        let all: Vec<_> = all.iter().map(|text| text.parse().unwrap()).collect();
        let exposed: Vec<_> = exposed.iter().map(|text| text.parse().unwrap()).collect();
        ports(&all, &exposed)
    }

    fn of(text: &str) -> Vec<(Option<String>, u16, u16, String)> {
        let ports = publish(&[text], &[]).unwrap();
        ports.into_iter().map(|p| (p.host_ip.map(|ip| ip.to_string()), p.host, p.container, p.protocol)).collect()
    }

    #[test]
    fn ports_are_published_as_docker_does() {
        assert_eq!(of("8080:80"), [(None, 8080, 80, "tcp".into())]);
        assert_eq!(of("127.0.0.1:53:5353/UDP"), [(Some("127.0.0.1".into()), 53, 5353, "udp".into())]);
        assert_eq!(of("[::1]:1:2")[0].0.as_deref(), Some("::1"));
        assert_eq!(of("10-12:20-22").iter().map(|p| (p.1, p.2)).collect::<Vec<_>>(), [(10, 20), (11, 21), (12, 22)]);
        assert_eq!(of("65535:65535")[0].1, 65535);
        assert_ne!(of("80")[0].1, 0);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = taken.local_addr().unwrap().port();
        let next = |last: u16| {
            let choice = format!("127.0.0.1:{first}-{last}:80");
            publish(&[&choice, &choice], &[]).map(|ports| ports.iter().map(|port| port.host).collect::<Vec<_>>())
        };
        if let Some(last) = first.checked_add(20) {
            let found = next(last).unwrap();
            assert!(found[0] > first && found[1] > found[0] && found[1] <= last, "{found:?} of {first}-{last}");
            // Ours now, or somebody's already.
            let _second = TcpListener::bind(("127.0.0.1", first + 1));
            let none = next(first + 1).unwrap_err().to_string();
            assert!(none.contains(&format!("no port from {first} to {} is free: ", first + 1)), "{none}");
        }
        for bad in ["", "x", "1:x", "0", "1:2/icmp", "1-2:3-5", "2-1:3", "999999:1", "host:1:2", "3-1:3-1"] {
            assert!(bad.parse::<Publish>().is_err(), "{bad}");
        }
        publish(&["127.0.0.1:1:2", "127.0.0.2:1:2", "1:2/udp"], &[]).unwrap();
        let twice = publish(&["8080:80", "8079-8081:1-3"], &[]).unwrap_err().to_string();
        assert!(twice.starts_with("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{twice}");
    }

    #[test]
    fn exposed_ports_get_ports_of_their_own_unless_the_user_gave_one() {
        let ports = publish(&["8080:80"], &["80/tcp", "80/udp", "90-92", "91"]).unwrap();
        let mut containers: Vec<_> = ports.iter().map(|port| (port.container, port.protocol.as_str())).collect();
        assert_eq!(containers, [(80, "tcp"), (80, "udp"), (90, "tcp"), (91, "tcp"), (92, "tcp")]);
        assert_eq!(ports[0].host, 8080);
        containers.dedup();
        let mut hosts: Vec<_> = ports.iter().map(|port| (port.host, port.protocol.as_str())).collect();
        hosts.sort_unstable();
        hosts.dedup();
        assert_eq!(hosts.len(), 5, "each its own: {ports:?}");
        assert!(hosts.iter().all(|(host, _)| *host != 0));
        let many = publish(&[], &["1-1001"]).unwrap_err().to_string();
        assert!(many.contains("more than 1000 ports"), "{many}");
    }

    #[test]
    fn what_an_image_exposes_is_read_with_its_mistakes_named() {
        let image = |port: &str| Execution {
            exposed_ports: Some([(port.to_owned(), serde_json::Value::Null)].into()),
            ..Execution::default()
        };
        let all = exposed(&image("53/udp"), &["80-81".parse().unwrap()]).unwrap();
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), ["53/udp", "80-81/tcp"]);
        for bad in ["", "x", "0", "70000", "2-1", "80/icmp", "8080:80", "80/tcp/udp"] {
            let error = exposed(&image(bad), &[]).unwrap_err().to_string();
            assert!(error.contains("of the image"), "{bad}: {error}");
        }
    }
}
