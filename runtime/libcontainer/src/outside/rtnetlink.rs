//! The few requests of rtnetlink(7) that moving a device takes. Messages are in the machine's own byte order, their parts
//! padded to four bytes.

use crate::error::{At, Error, Result};
use rustix::{
    fd::{AsRawFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

// `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const REPLACE_OR_CREATE: u16 = 0x400 | 0x200;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFF_UP: u32 = 1;
const HEADER: usize = 16;

/// A device.
pub(super) struct Link {
    index: i32,
    pub(super) is_up: bool,
}

/// An address as the kernel tells it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    flags: u32,
    /// `IFA_ADDRESS`, `IFA_LOCAL`, `IFA_BROADCAST`.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Valid beyond its link (`RT_SCOPE_UNIVERSE`).
    pub(super) fn is_global(&self) -> bool {
        self.scope == 0
    }

    /// What every IPv6 device has by itself: `fe80::…` (`RT_SCOPE_LINK`).
    pub(super) fn is_link_local(&self) -> bool {
        i32::from(self.family) == libc::AF_INET6 && self.scope == 253
    }

    /// Given by somebody, not learnt and leased.
    pub(super) fn is_permanent(&self) -> bool {
        self.flags & IFA_F_PERMANENT != 0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.attributes.first().map_or(&[][..], |(_, bytes)| bytes);
        let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        match four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|it| Ipv6Addr::from(it).into())) {
            Ok(address) => write!(f, "{address}/{}", self.prefix),
            Err(_) => f.write_str("of an unknown family"),
        }
    }
}

/// A socket of one network namespace.
pub(super) struct Route(OwnedFd);

impl Route {
    /// For the present namespace.
    pub(super) fn open() -> Result<Self> {
        // The default protocol is NETLINK_ROUTE.
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .at("open a netlink socket")
            .map(Self)
    }

    /// The device of this name.
    pub(super) fn link(&self, name: &str) -> Result<Link> {
        let request = Request::new(RTM_GETLINK, ACK).link(0, 0, 0).attribute(IFLA_IFNAME, &zero_terminated(name));
        let mut found = None;
        self.ask(request, |kind, body| {
            if let (RTM_NEWLINK, Some(index), Some(flags)) = (kind, word(body, 4), word(body, 8)) {
                found = Some(Link { index: index.cast_signed(), is_up: flags & IFF_UP != 0 });
            }
        })?;
        found.ok_or_else(|| Error::from(Errno::NODEV))
    }

    /// Sets the device up or down.
    pub(super) fn bring(&self, link: &Link, up: bool) -> Result<()> {
        self.ask(Request::new(RTM_NEWLINK, ACK).link(link.index, if up { IFF_UP } else { 0 }, IFF_UP), |_, _| {})
    }

    /// Moves the device to another namespace and renames it, in one step: no name is taken in between.
    pub(super) fn rename_into(&self, link: &Link, name: &str, namespace: BorrowedFd<'_>) -> Result<()> {
        let request = Request::new(RTM_NEWLINK, ACK)
            .link(link.index, 0, 0)
            .attribute(IFLA_IFNAME, &zero_terminated(name))
            .attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.ask(request, |_, _| {})
    }

    /// Every address of the device.
    pub(super) fn addresses(&self, link: &Link) -> Result<Vec<Address>> {
        let mut addresses = Vec::new();
        self.ask(Request::new(RTM_GETADDR, DUMP).body(&[0; 8]), |kind, body| {
            if kind == RTM_NEWADDR && word(body, 4) == Some(link.index.cast_unsigned()) {
                addresses.extend(parse_address(body));
            }
        })?;
        Ok(addresses)
    }

    /// Gives the device an address.
    pub(super) fn add_address(&self, link: &Link, address: &Address) -> Result<()> {
        let mut body = vec![address.family, address.prefix, 0, address.scope];
        body.extend(link.index.to_ne_bytes());
        let mut request = Request::new(RTM_NEWADDR, ACK | REPLACE_OR_CREATE).body(&body);
        for (kind, value) in &address.attributes {
            request = request.attribute(*kind, value);
        }
        self.ask(request, |_, _| {})
    }

    /// Sends a request; gives each message of the answer to `hear`, with its type and what follows its header.
    fn ask(&self, request: Request, mut hear: impl FnMut(u16, &[u8])) -> Result<()> {
        send(&self.0, &request.finish(), SendFlags::empty()).at("send to netlink")?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received.at("receive from netlink")?.0,
            };
            let mut rest = buffer.get(..n).unwrap_or_default();
            while let Some((kind, body, behind)) = message(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        return match word(body, 0).map_or(0, u32::cast_signed) {
                            0 => Ok(()),
                            errno => Err(Errno::from_raw_os_error(-errno).into()),
                        };
                    }
                    kind => hear(kind, body),
                }
                rest = behind;
            }
        }
    }
}

/// A message that is being written.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        Self(bytes)
    }

    fn body(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// `struct ifinfomsg`.
    fn link(self, index: i32, flags: u32, change: u32) -> Self {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend(change.to_ne_bytes());
        self.body(&body)
    }

    fn attribute(self, kind: u16, value: &[u8]) -> Self {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        self.body(&bytes)
    }

    fn finish(mut self) -> Vec<u8> {
        let len = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&len);
        self.0
    }
}

fn zero_terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// The first message: its type, what follows its header, and the messages behind it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = word(bytes, 0)? as usize;
    let kind = half(bytes, 4)?;
    let body = bytes.get(HEADER..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// `struct ifaddrmsg` and its attributes.
fn parse_address(body: &[u8]) -> Option<Address> {
    let &[family, prefix, flags, scope, _, _, _, _, ref rest @ ..] = body else { return None };
    let mut address = Address { family, prefix, scope, flags: flags.into(), attributes: Vec::new() };
    let mut rest = rest;
    while let (Some(len), Some(kind)) = (half(rest, 0).map(usize::from), half(rest, 2)) {
        let Some(value) = rest.get(4..len) else { break };
        match kind {
            // The same with more bits.
            IFA_FLAGS => address.flags = word(value, 0).unwrap_or(address.flags),
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => address.attributes.push((kind, value.to_vec())),
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(address)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let request = Request::new(RTM_NEWADDR, 0)
            .body(&[2, 24, 0x80, 0, 7, 0, 0, 0])
            .attribute(IFA_ADDRESS, &[10, 0, 0, 1])
            .attribute(3, b"label\0")
            .attribute(IFA_FLAGS, &0x280_u32.to_ne_bytes())
            .attribute(IFA_BROADCAST, &[10, 0, 0, 255])
            .finish();
        let (kind, body, behind) = message(&request).unwrap();
        assert_eq!((kind, behind), (RTM_NEWADDR, &[][..]));
        let address = parse_address(body).unwrap();
        assert_eq!(address.to_string(), "10.0.0.1/24");
        assert_eq!((address.flags, address.attributes.len()), (0x280, 2));
        assert!(address.is_global() && address.is_permanent());
    }

    #[test]
    fn what_is_cut_is_not_read_beyond_its_end() {
        let whole =
            Request::new(RTM_NEWADDR, 0).body(&[2, 24, 0, 0, 7, 0, 0, 0]).attribute(IFA_ADDRESS, &[1; 4]).finish();
        for n in 0..whole.len() {
            assert!(message(&whole[..n]).is_none(), "{n}");
            let _ = parse_address(&whole[..n]);
        }
        // A length below that of a header.
        assert!(message(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert_eq!(parse_address(&[2, 8, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]).unwrap().attributes, []);
    }

    #[test]
    fn the_loopback_device_is_found() {
        let route = Route::open().unwrap();
        let link = route.link("lo").unwrap();
        assert_eq!(link.index, 1);
        assert_eq!(route.link("no-such-device").err().unwrap().errno(), Some(libc::ENODEV));
        for address in route.addresses(&link).unwrap() {
            assert!(address.to_string().starts_with("127.") || address.to_string() == "::1/128", "{address}");
        }
    }
}
