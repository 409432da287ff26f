//! Passing on what the container tells systemd. Only what cannot be used to deceive: not which process is the main one,
//! nor descriptors to be kept.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use rustix::net::SocketType;

use super::socket;
use crate::error::{Context, Result};

const WHOLE: [&str; 5] = ["READY=1", "RELOADING=1", "STOPPING=1", "WATCHDOG=1", "WATCHDOG=trigger"];
/// How many messages are passed on before others have their turn.
const AT_ONCE: usize = 16;
const BEGINNINGS: [&str; 4] = ["STATUS=", "ERRNO=", "BUSERROR=", "MONOTONIC_USEC="];

/// The container's socket and the host's.
#[derive(Debug)]
pub(crate) struct Notify {
    container: UnixDatagram,
    host: OsString,
}

impl Notify {
    /// Makes `notify/notify.sock` in the bundle, which anybody in the container may write to.
    pub(crate) fn make(bundle: &Path, host: &OsStr) -> Result<Self> {
        let container = socket::make(bundle, "notify/notify.sock", SocketType::DGRAM, 0o777)?;
        Ok(Self { container: container.into(), host: host.to_owned() })
    }

    /// Passes on what has come; of a flood a part, for there is more to do than to listen to it.
    pub(crate) fn relay(&self) {
        let mut buffer = [0_u8; 8192];
        for _ in 0..AT_ONCE {
            let Ok(count) = self.container.recv(&mut buffer) else { break };
            let text = String::from_utf8_lossy(&buffer[..count]);
            let passed = filter(&text);
            if !passed.is_empty() {
                // A service manager that is gone need not know.
                let _: Result<()> = send(&self.host, &passed);
            }
        }
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.container.as_fd()
    }
}

/// Sends a message to a service manager that listens at `host`: a path, or `@` and an abstract name.
pub(crate) fn send(host: &OsStr, text: &str) -> Result<()> {
    let step = || format!("notify {}", host.display());
    let socket = UnixDatagram::unbound().context(step)?;
    socket.set_nonblocking(true).context(step)?;
    let address = match host.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(host),
    };
    socket.send_to_addr(text.as_bytes(), &address.context(step)?).map(drop).context(step)
}

fn filter(message: &str) -> String {
    let harmless = |line: &&str| WHOLE.contains(line) || BEGINNINGS.iter().any(|beginning| line.starts_with(beginning));
    message.split(['\n', '\r']).filter(harmless).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_harmless_passes() {
        assert_eq!(filter("READY=1\nMAINPID=1\nSTATUS=up\nFDSTORE=1\n"), "READY=1\nSTATUS=up");
        assert_eq!(filter("READY=0\nREADY=10"), "");
    }

    #[test]
    fn it_reaches_the_host() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("notify")).unwrap();
        let host = UnixDatagram::bind(dir.path().join("host")).unwrap();
        let notify = Notify::make(dir.path(), dir.path().join("host").as_os_str()).unwrap();
        let container = UnixDatagram::unbound().unwrap();
        container.send_to(b"READY=1\nMAINPID=2", dir.path().join("notify/notify.sock")).unwrap();
        notify.relay();
        let mut buffer = [0; 64];
        let count = host.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"READY=1");
    }
}
