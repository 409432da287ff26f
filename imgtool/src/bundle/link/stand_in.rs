//! A network namespace in the place of one that is gone: plugins find in it the device and the addresses that the container had,
//! by which alone some of them know what to undo.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use serde_json::Value;

use crate::error::{Error, Result, Step};

// `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`
const NLMSG_ERROR: u16 = 2;
const REQUEST_NEW: u16 = 0x1 | 0x4 | 0x200 | 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const HEADER: usize = 16;
/// Above those that a new namespace has of its own.
const INDEX: i32 = 1000;

/// The namespace with `interface` in it, as `result`, what plugins answered, says of its addresses.
pub(super) fn make(interface: &str, result: &Value) -> Result<OwnedFd> {
    let all = result["ips"].as_array().into_iter().flatten();
    let addresses: Vec<(IpAddr, u8)> = all
        .filter_map(|ip| ip["address"].as_str()?.split_once('/'))
        .filter_map(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)))
        .collect();
    // In a thread: it alone is in the new namespace, and ends.
    std::thread::scope(|scope| scope.spawn(|| fill(interface, &addresses)).join())
        .unwrap_or_else(|_| Err(Error::other("its thread failed")))
}

fn fill(interface: &str, addresses: &[(IpAddr, u8)]) -> Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let route = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // One end of a pair, as the container had.
    let mut link = vec![0; 4];
    link.extend(INDEX.to_ne_bytes());
    link.extend([0; 8]);
    attribute(&mut link, IFLA_IFNAME, &[interface.as_bytes(), b"\0"].concat());
    let mut kind = Vec::new();
    attribute(&mut kind, IFLA_INFO_KIND, b"veth");
    attribute(&mut link, IFLA_LINKINFO, &kind);
    ask(&route, RTM_NEWLINK, &link).at("make its device")?;
    for (address, prefix) in addresses {
        let (family, bytes) = match address {
            IpAddr::V4(four) => (AddressFamily::INET, four.octets().to_vec()),
            IpAddr::V6(six) => (AddressFamily::INET6, six.octets().to_vec()),
        };
        let mut body = vec![family.as_raw() as u8, *prefix, 0, 0];
        body.extend(INDEX.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &bytes);
        attribute(&mut body, IFA_ADDRESS, &bytes);
        ask(&route, RTM_NEWADDR, &body).with(|| format!("give it {address}"))?;
    }
    Ok(namespace.into())
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((value.len() + 4) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Sends one request and hears whether it was done.
fn ask(route: &OwnedFd, kind: u16, body: &[u8]) -> Result<()> {
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(REQUEST_NEW.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(route, &message, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let n = loop {
        match recv(route, &mut answer[..], RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            received => break received?.0,
        }
    };
    let answer = answer.get(..n).unwrap_or_default();
    let is_answer = answer.get(4..6) == Some(&NLMSG_ERROR.to_ne_bytes()[..]);
    let code = answer.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code.filter(|_| is_answer) {
        Some(0) => Ok(()),
        Some(errno) => Err(Errno::from_raw_os_error(errno.saturating_neg()).into()),
        None => Err(Error::malformed("an answer of netlink that is none")),
    }
}
