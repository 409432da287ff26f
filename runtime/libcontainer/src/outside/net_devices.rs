//! Network devices that move from the host into a container's network namespace (runtime-spec `config-linux.md`, "Network
//! devices"), by rtnetlink(7).

use super::rtnetlink::{Address, Link, Route};
use crate::{
    error::{At, Error, Result},
    spec::{Linux, NamespaceKind},
    sys,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags},
    process::Pid,
};

/// One device, by its name on the host and its name in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetDevice {
    name: String,
    inner_name: String,
}

/// Translates and checks `linux.netDevices`.
pub(crate) fn devices(linux: &Linux, privileged: bool) -> Result<Vec<NetDevice>> {
    if linux.net_devices.is_empty() {
        return Ok(Vec::new());
    }
    let refused = |rule: &str| Err(Error::invalid("linux.netDevices", rule));
    if !linux.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Network) {
        return refused("unable to move network devices without a NET namespace: add network to linux.namespaces");
    }
    if !privileged {
        return refused("network devices are not supported for rootless containers");
    }
    let device = |(name, device): (&String, &crate::spec::NetDevice)| {
        let inner_name = if device.name.is_empty() { name } else { &device.name };
        match [name, inner_name].into_iter().find(|name| !is_valid(name)) {
            Some(bad) => Err(Error::invalid("linux.netDevices", format!("invalid network device name {bad:?}"))),
            None => Ok(NetDevice { name: name.clone(), inner_name: inner_name.clone() }),
        }
    };
    let devices: Vec<NetDevice> = linux.net_devices.iter().map(device).collect::<Result<_>>()?;
    let mut inner: Vec<_> = devices.iter().map(|it| &it.inner_name).collect();
    inner.sort_unstable();
    match inner.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => refused(&format!("two devices cannot both be {:?} in the container", pair[0])),
        None => Ok(devices),
    }
}

/// The kernel's rule (`dev_valid_name`).
fn is_valid(name: &str) -> bool {
    let bad = |c: char| matches!(c, '/' | ':' | '\0') || c.is_ascii_whitespace();
    !name.is_empty() && name.len() < libc::IFNAMSIZ && !matches!(name, "." | "..") && !name.contains(bad)
}

/// The devices that a container was given, for as long as it may still fail to be made: they go back then.
#[derive(Default)]
pub(crate) struct Gift {
    between: Option<Between>,
    moved: Vec<Moved>,
}

/// A socket in each of the two network namespaces. The container's lives as long as its socket, even without a process.
struct Between {
    host: Route,
    container: Route,
    host_namespace: OwnedFd,
    container_namespace: OwnedFd,
}

/// A device that has moved, and what it was on the host.
struct Moved {
    name: String,
    was_up: bool,
    addresses: Vec<Address>,
    /// In the container.
    link: Link,
}

impl Gift {
    /// Moves `devices` into the network namespace of `pid`, with the addresses that were given to them for good, and brings
    /// them up.
    pub(crate) fn give(&mut self, devices: &[NetDevice], pid: Pid) -> Result<()> {
        if devices.is_empty() {
            return Ok(());
        }
        let between = self.between.insert(Between::open(pid)?);
        // None moves unless all can be found.
        for NetDevice { name, .. } in devices {
            between.host_link(name).at("linux.netDevices")?;
        }
        for device in devices {
            let link = between.give(device, &mut self.moved).at_with(|| device.name.clone()).at("linux.netDevices")?;
            between.container.bring(link, true).at("fail to set up interface").at("linux.netDevices")?;
        }
        Ok(())
    }

    /// The container is not made: its devices are the host's again, as they were.
    pub(crate) fn take_back(mut self) {
        let Some(between) = self.between.take() else { return };
        for moved in self.moved.drain(..).rev() {
            if let Err(error) = between.take_back(&moved) {
                tracing::warn!("undo: network device {} is lost: {error}", moved.name);
            }
        }
    }
}

impl Between {
    fn open(pid: Pid) -> Result<Self> {
        let open = |path: &str| {
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at_with(|| format!("open {path}"))
        };
        let host_namespace = open("/proc/self/ns/net")?;
        let container_namespace = open(&format!("/proc/{}/ns/net", pid.as_raw_nonzero()))?;
        let host = Route::open()?;
        let enter = |namespace: &OwnedFd| sys::setns(namespace.as_fd(), libc::CLONE_NEWNET as u64);
        enter(&container_namespace).at("enter the container's network namespace")?;
        // A socket stays in the namespace that it was made in.
        let container = Route::open();
        enter(&host_namespace).at("go back to the own network namespace")?;
        Ok(Self { host, container: container?, host_namespace, container_namespace })
    }

    fn host_link(&self, name: &str) -> Result<Link> {
        let absent = || format!("{name}: link not found for interface {name} on runtime namespace");
        self.host.link(name).at_with(absent)
    }

    /// Returns the device in the container, which is on record in `moved` from the moment that it is there.
    fn give<'a>(&self, device: &NetDevice, moved: &'a mut Vec<Moved>) -> Result<&'a Link> {
        let NetDevice { name, inner_name } = device;
        let link = self.host_link(name)?;
        // The kernel moves first and renames then: a device that finds its name taken would be lost with the namespace.
        if self.container.link(inner_name).is_ok() {
            return Err(Error::other(format!("the name {inner_name:?} is taken in the container")));
        }
        // Those of IPv6 go when the link goes down.
        let addresses = self.host.addresses(&link).at("fail to get ip addresses")?;
        // The host's own programs must not use it on its way, and it loses its addresses there.
        self.host.bring(&link, false).at("fail to set link down")?;
        let rename = self.host.rename_into(&link, inner_name, self.container_namespace.as_fd());
        rename.at("fail to move network device").inspect_err(|_| {
            if link.is_up {
                drop(self.host.bring(&link, true));
            }
        })?;
        let inner = self.container.link(inner_name).at_with(|| format!("link not found for interface {inner_name}"))?;
        moved.push(Moved { name: name.clone(), was_up: link.is_up, addresses, link: inner });
        let Some(Moved { addresses, link, .. }) = moved.last() else {
            return Err(Error::other("no device is on record"));
        };
        for address in addresses.iter().filter(|address| address.is_global() && address.is_permanent()) {
            add(&self.container, link, address)?;
        }
        Ok(link)
    }

    fn take_back(&self, moved: &Moved) -> Result<()> {
        self.container.bring(&moved.link, false).at("fail to set link down")?;
        self.container.rename_into(&moved.link, &moved.name, self.host_namespace.as_fd()).at("move it back")?;
        let link = self.host_link(&moved.name)?;
        for address in moved.addresses.iter().filter(|address| address.is_permanent() && !address.is_link_local()) {
            add(&self.host, &link, address)?;
        }
        if moved.was_up { self.host.bring(&link, true).at("fail to set up interface") } else { Ok(()) }
    }
}

fn add(container: &Route, link: &Link, address: &Address) -> Result<()> {
    container.add_address(link, address).at_with(|| format!("fail to set up address {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        for name in ["eth0", "a", "fifteen-letters", "ä"] {
            assert!(is_valid(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a:1", "a b", "sixteen-letters-", "a\n", "a\0"] {
            assert!(!is_valid(name), "{name:?}");
        }
    }

    #[test]
    fn devices_need_a_namespace_and_privilege() {
        let linux = |json: &str| crate::spec::parse::<Linux>(json.as_bytes()).unwrap();
        let with = linux(r#"{"namespaces":[{"type":"network"}],"netDevices":{"a":{},"b":{"name":"c"}}}"#);
        let names: Vec<_> = devices(&with, true).unwrap().into_iter().map(|it| (it.name, it.inner_name)).collect();
        assert_eq!(names, [("a".into(), "a".into()), ("b".into(), "c".into())]);
        assert!(devices(&with, false).unwrap_err().to_string().contains("rootless"));
        let without = linux(r#"{"netDevices":{"a":{}}}"#);
        assert!(devices(&without, true).unwrap_err().to_string().contains("without a NET namespace"));
        let twice = linux(r#"{"namespaces":[{"type":"network"}],"netDevices":{"a":{},"b":{"name":"a"}}}"#);
        assert!(devices(&twice, true).unwrap_err().to_string().contains("both be \"a\""));
        let bad = linux(r#"{"namespaces":[{"type":"network"}],"netDevices":{"a":{"name":"x/y"}}}"#);
        assert!(devices(&bad, true).unwrap_err().to_string().contains("invalid network device name \"x/y\""));
    }
}
