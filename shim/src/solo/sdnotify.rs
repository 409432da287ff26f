//! Telling the service manager, by sd_notify(3), that a container is ready: `--sdnotify`.

use std::env;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::directory::{Directory, private_dir};
use crate::conmon::{Notify, notify_host};
use crate::error::{Context, Error, Result};

/// By which a service manager tells where it listens.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// Where the container finds the directory of its own socket.
const INSIDE: &str = "/run/notify";

/// Who says that the container is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Nobody.
    #[default]
    Ignore,
    /// The monitor, as soon as it has been started.
    #[value(alias = "conmon")]
    Shim,
    /// Its health check, when it succeeds for the first time.
    Healthy,
    /// The container itself, on a socket that is passed on.
    Container,
}

/// Adds what a container needs in order to tell for itself.
pub(crate) fn prepare(config: &mut Value, directory: &Path) -> Result<()> {
    let wrong = |what: &str| Error::invalid(format!("config.json: {what} is not a list"));
    let source = directory.join("notify");
    let mount =
        json!({"destination": INSIDE, "type": "bind", "source": source, "options": ["bind", "nosuid", "nodev"]});
    let mounts = config["mounts"].take();
    let mut mounts = if mounts.is_null() { json!([]) } else { mounts };
    mounts.as_array_mut().ok_or_else(|| wrong("mounts"))?.push(mount);
    config["mounts"] = mounts;
    let process = config["process"].as_object_mut().ok_or_else(|| wrong("process"))?;
    let env = process.entry("env").or_insert_with(|| json!([])).as_array_mut().ok_or_else(|| wrong("process.env"))?;
    env.retain(|entry| !entry.as_str().is_some_and(|entry| entry.starts_with("NOTIFY_SOCKET=")));
    env.push(json!(format!("{VARIABLE}={INSIDE}/notify.sock")));
    Ok(())
}

/// What a monitor has to tell, and to whom.
#[derive(Debug)]
pub(crate) struct Herald {
    mode: Mode,
    /// Where the service manager listens, until it has been told all.
    host: Option<OsString>,
    relay: Option<Notify>,
}

impl Herald {
    /// Makes the container's own socket, if it is to have one.
    pub(crate) fn make(mode: Mode, directory: &Directory) -> Result<Self> {
        let host = env::var_os(VARIABLE).filter(|host| !host.is_empty());
        let mut relay = None;
        if mode == Mode::Container {
            private_dir(&directory.run.join("notify"))?;
            let path = directory.run.join("notify");
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
            std::fs::set_permissions(&path, open).context(|| format!("open {} for the container", path.display()))?;
            // Without anybody to pass it on to it is still there: the container need not know.
            relay = Some(Notify::make(&directory.run, &host.clone().unwrap_or_default())?);
        }
        Ok(Self { mode, host: host.filter(|_| mode != Mode::Ignore), relay })
    }

    /// The container has been started.
    pub(crate) fn started(&mut self) {
        let pid = format!("MAINPID={}", std::process::id());
        match self.mode {
            Mode::Ignore => {}
            Mode::Shim => self.ready(&pid),
            Mode::Healthy | Mode::Container => self.tell(&pid),
        }
    }

    /// A health check has succeeded.
    pub(crate) fn healthy(&mut self) {
        if self.mode == Mode::Healthy {
            self.ready("STATUS=healthy");
        }
    }

    fn ready(&mut self, first: &str) {
        self.tell(&format!("{first}\nREADY=1"));
        self.host = None;
    }

    fn tell(&self, text: &str) {
        if let Some(host) = &self.host {
            // A service manager that is gone need not know.
            let _: Result<()> = notify_host(host, text);
        }
    }

    /// Passes on what the container has said.
    pub(crate) fn relay(&self) {
        if let Some(relay) = &self.relay {
            relay.relay();
        }
    }

    /// The container's own socket.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.relay.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn the_container_is_told_where_to_speak() {
        let mut config = json!({"process": {"env": ["A=1", "NOTIFY_SOCKET=/x"]}});
        prepare(&mut config, Path::new("/run/c")).unwrap();
        assert_eq!(config["process"]["env"], json!(["A=1", "NOTIFY_SOCKET=/run/notify/notify.sock"]));
        assert_eq!(config["mounts"][0]["source"], "/run/c/notify");
        assert!(prepare(&mut json!({"process": {}, "mounts": 7}), Path::new("/r")).is_err());
        assert!(prepare(&mut json!({}), Path::new("/r")).is_err());
    }

    #[test]
    fn both_kinds_of_address_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let name = format!("tare-test-{}", std::process::id());
        let sockets = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
            ),
        ];
        for (host, socket) in sockets {
            let mut herald = Herald { mode: Mode::Healthy, host: Some(host), relay: None };
            herald.started();
            herald.healthy();
            herald.healthy();
            let mut buffer = [0; 64];
            let count = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..count].starts_with(b"MAINPID="));
            let count = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"STATUS=healthy\nREADY=1");
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut buffer).is_err(), "once is enough");
        }
    }
}
