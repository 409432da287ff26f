//! Published ports, each of one container at a time. Rules of address translation do not exclude each other as sockets do: of two
//! containers one would not be reached, without a word.
//!
//! A bundle's ports stand in a file of their own in `/run/imgtool/ports`, which is locked to read and change them. They are
//! the bundle's as long as it has a network-state.json and the container lives; those of a container that died and was not
//! deleted are taken from it. After a restart of the machine there are none.

use std::fs::{self, DirBuilder, File};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::containers::began;
use super::super::publish::Port;
use super::STATE;
use crate::digest::Digest;
use crate::error::{Error, Result, Step};
use crate::layout::boot_id;
use crate::oci;

const DIRECTORY: &str = "/run/imgtool/ports";

/// What a container has.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    /// The start of the machine in which it was made: of another one nothing is left but this file, where /run is on a disk.
    #[serde(default)]
    boot: String,
    /// The inodes of the namespaces that the ports are in and that the process is a number of.
    network: u64,
    pids: u64,
    bundle: PathBuf,
    container: String,
    pid: u32,
    /// When the process began, by which it is told from a later one of this number.
    started: String,
    ports: Vec<Port>,
}

/// Takes the ports for a container, all or none.
pub(super) fn take(directory: &Path, container: &str, pid: u32, ports: &[Port]) -> Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    // An ordinary user's are those of pasta, whose sockets tell.
    if !is_machines_root() {
        return ports.iter().try_for_each(is_free);
    }
    let claim = Claim {
        boot: boot_id()?,
        network: namespace("net")?,
        pids: namespace("pid")?,
        bundle: directory.to_owned(),
        container: container.to_owned(),
        pid,
        started: began(pid)
            .map(|ticks| ticks.to_string())
            .ok_or_else(|| Error::missing(format!("there is no process {pid}")))?,
        ports: ports.to_owned(),
    };
    let step = || format!("ports in {DIRECTORY}");
    DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY).with(step)?;
    let lock = File::open(DIRECTORY).with(step)?;
    loop {
        lock.lock().with(step)?;
        let Some((other, port)) = all().with(step)?.into_iter().find_map(|other| claim.meets(other)) else {
            ports.iter().try_for_each(is_free)?;
            return claim.write().with(step);
        };
        if other.is_alive()? {
            let (id, bundle) = (&other.container, other.bundle.display());
            return Err(refused(&port, &format!("port is already allocated (by the container {id} of {bundle})")));
        }
        // Without the lock, as disconnecting takes its time and ends with `release`.
        lock.unlock().with(step)?;
        super::down(&other.bundle).map_err(|e| {
            refused(&port, &format!("the container {} is dead, but not disconnected: {e}", other.container))
        })?;
        release(&other.bundle)?;
    }
}

/// Gives back what a bundle has.
pub(super) fn release(directory: &Path) -> Result<()> {
    if !is_machines_root() {
        return Ok(()); // has none here, and may not look
    }
    let path = file_of(directory);
    match fs::remove_file(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with(|| format!("remove {}", path.display())),
    }
}

/// Whether a container has this port now.
pub(crate) fn is_taken(port: &Port) -> bool {
    let network = namespace("net").unwrap_or(0);
    all().unwrap_or_default().iter().any(|claim| claim.network == network && claim.conflict(port).is_some())
}

impl Claim {
    /// The port that two cannot both have.
    fn meets(&self, other: Self) -> Option<(Self, Port)> {
        if other.bundle == self.bundle || other.network != self.network {
            return None;
        }
        let port = self.ports.iter().find(|port| other.conflict(port).is_some())?.clone();
        Some((other, port))
    }

    fn conflict(&self, port: &Port) -> Option<&Port> {
        self.ports.iter().find(|have| overlap(have, port))
    }

    fn is_alive(&self) -> Result<bool> {
        if !self.bundle.join(STATE).exists() {
            return Ok(false);
        }
        // Of processes that we cannot see we know nothing.
        Ok(self.pids != namespace("pid")?
            || began(self.pid).map(|ticks| ticks.to_string()).as_ref() == Some(&self.started))
    }

    fn write(&self) -> Result<()> {
        let path = file_of(&self.bundle);
        let temporary = path.with_extension("new");
        fs::write(&temporary, oci::to_json(self)?)?;
        Ok(fs::rename(&temporary, &path)?)
    }
}

/// Whether two ports are one: an address that means all of them is each of them.
pub(crate) fn overlap(one: &Port, other: &Port) -> bool {
    let every =
        |port: &Port, of: IpAddr| port.host_ip.is_none_or(|ip| ip.is_unspecified() && (ip.is_ipv6() || of.is_ipv4()));
    let same = match (one.host_ip, other.host_ip) {
        (Some(a), Some(b)) => a == b || every(one, b) || every(other, a),
        _ => true,
    };
    one.protocol == other.protocol && one.host == other.host && same
}

fn all() -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    let boot = boot_id()?;
    let list = match fs::read_dir(DIRECTORY) {
        Ok(list) => list,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(claims),
        Err(e) => return Err(e.into()),
    };
    for entry in list {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "json") {
            match fs::read(&path) {
                Ok(bytes) => {
                    let claim: Claim = oci::json(&bytes).with(|| path.display())?;
                    if claim.boot == boot {
                        claims.push(claim);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).with(|| path.display()),
            }
        }
    }
    Ok(claims)
}

/// Whether no program of the machine listens on the port: what is translated before it would never reach it.
fn is_free(port: &Port) -> Result<()> {
    let address = port.address();
    let bound = match port.protocol.as_str() {
        "tcp" => TcpListener::bind(address).map(drop),
        "udp" => UdpSocket::bind(address).map(drop),
        _ => return Ok(()),
    };
    bound.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            refused(port, "port is already allocated (a program of this machine listens on it)")
        }
        _ => refused(port, &Error::from(e).to_string()),
    })
}

/// In Docker's words, which people look for.
pub(crate) fn refused(port: &Port, why: &str) -> Error {
    Error::other(format!("Bind for {} failed: {why}", port.address()))
}

fn file_of(bundle: &Path) -> PathBuf {
    let name = Digest::of(bundle.as_os_str().as_bytes());
    Path::new(DIRECTORY).join(format!("{}.json", &name.hex()[..32]))
}

fn is_machines_root() -> bool {
    rustix::process::geteuid().is_root() && matches!(crate::rights::user_namespace(), Ok(None))
}

fn namespace(kind: &str) -> Result<u64> {
    let path = format!("/proc/self/ns/{kind}");
    Ok(fs::metadata(&path).with(|| path)?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: Option<&str>, host: u16, protocol: &str) -> Port {
        Port { host, container: 80, protocol: protocol.to_owned(), host_ip: ip.map(|ip| ip.parse().unwrap()) }
    }

    #[test]
    fn an_address_that_means_all_is_each_of_them() {
        let at = |ip| port(ip, 80, "tcp");
        for (one, other, want) in [
            (None, None, true),
            (None, Some("127.0.0.1"), true),
            (None, Some("::1"), true),
            (Some("0.0.0.0"), Some("192.0.2.1"), true),
            (Some("0.0.0.0"), Some("::1"), false),
            (Some("::"), Some("::1"), true),
            (Some("127.0.0.1"), Some("127.0.0.1"), true),
            (Some("127.0.0.1"), Some("127.0.0.2"), false),
        ] {
            assert_eq!(overlap(&at(one), &at(other)), want, "{one:?} {other:?}");
            assert_eq!(overlap(&at(other), &at(one)), want, "{other:?} {one:?}");
        }
        assert!(!overlap(&at(None), &port(None, 81, "tcp")));
        assert!(!overlap(&at(None), &port(None, 80, "udp")));
    }

    #[test]
    fn what_a_program_listens_on_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let busy = is_free(&port(Some("127.0.0.1"), number, "tcp")).unwrap_err().to_string();
        assert!(busy.contains(&format!("Bind for 127.0.0.1:{number} failed: port is already allocated")), "{busy}");
        drop(listener);
        is_free(&port(Some("127.0.0.1"), number, "tcp")).unwrap();
    }
}
