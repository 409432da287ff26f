//! A connection to systemd's manager, without threads: one call at a time, and the signals that come meanwhile.
//!
//! Root talks to the system's manager by its private socket, which spares the hop over the bus daemon and works where
//! there is none. A user's manager is asked over the session bus, whose address is the caller's to choose.

use super::wire::{Call, Kind, Message, PREFIX, Value, whole_length};
use crate::error::{At, Error, Result};
use std::{
    ffi::{OsStr, OsString},
    io::{ErrorKind, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            net::{SocketAddr, UnixStream},
        },
    },
    path::Path,
    time::{Duration, Instant},
};

/// For how long systemd may take for one call or job.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where root reaches the system's manager.
pub(super) const PRIVATE: &str = "/run/systemd/private";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// Without a name: the server takes the socket's credentials, which are right in any user namespace.
const GREETING: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";

/// Why the manager refused a call.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Such as `org.freedesktop.systemd1.UnitExists`.
    pub(super) name: String,
    text: String,
}

impl Refusal {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.strip_prefix("org.freedesktop.systemd1.") == Some(name)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let Refusal { name, text } = refusal;
        Error::other(if text.is_empty() { name } else { text })
    }
}

/// A connection to a manager.
#[derive(Debug)]
pub(super) struct Bus {
    socket: UnixStream,
    /// There is a bus daemon in between.
    routed: bool,
    serial: u32,
    /// Still to be sent: it goes with the next call.
    out: Vec<u8>,
    /// Come and not yet read.
    come: Vec<u8>,
    authenticated: bool,
    /// Jobs that have ended, with their results.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// To the manager of the system, or of the calling user.
    pub(super) fn connect(user: bool) -> Result<Self> {
        if user {
            return UnixStream::connect_addr(&session_address()?).at("session bus").map(|it| Self::over(it, true));
        }
        match UnixStream::connect(PRIVATE) {
            Ok(socket) => Ok(Self::over(socket, false)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                UnixStream::connect(SYSTEM_BUS).at(SYSTEM_BUS).map(|it| Self::over(it, true))
            }
            Err(error) => Err(error).at(PRIVATE),
        }
    }

    pub(super) fn over(socket: UnixStream, routed: bool) -> Self {
        let mut bus = Self {
            socket,
            routed,
            serial: 0,
            out: Vec::new(),
            come: Vec::new(),
            authenticated: false,
            ended: Vec::new(),
        };
        if routed {
            let (daemon, path) = (Some("org.freedesktop.DBus"), "/org/freedesktop/DBus");
            let call = |member, body| Call {
                destination: daemon,
                path,
                interface: "org.freedesktop.DBus",
                member,
                body,
                quiet: false,
            };
            bus.queue(&call("Hello", &[]));
            let rule = Value::str(format!(
                "type='signal',sender='org.freedesktop.systemd1',interface='{MANAGER}',member='JobRemoved'"
            ));
            bus.queue(&Call { quiet: true, ..call("AddMatch", &[rule]) });
            // Over a bus the manager speaks of its jobs only to those who said that they listen.
            let subscribe = Call { quiet: true, ..manager_call(true, "Subscribe", &[]) };
            bus.queue(&subscribe);
        }
        bus
    }

    /// Calls a method of the manager.
    pub(super) fn manager(&mut self, member: &str, body: &[Value]) -> Result<Result<Message, Refusal>> {
        let call = manager_call(self.routed, member, body);
        self.call(&call).at_with(|| member.to_owned())
    }

    /// A property of the manager that is a text.
    pub(super) fn property(&mut self, name: &str) -> Result<String> {
        let body = [Value::str(MANAGER), Value::str(name)];
        let call = Call { interface: "org.freedesktop.DBus.Properties", ..manager_call(self.routed, "Get", &body) };
        let step = || format!("the manager's {name}");
        let message = self.call(&call).at_with(step)?.at_with(step)?;
        message.variant().ok_or_else(|| Error::other("is no text").at(step()))
    }

    /// Returns when the manager has done what earlier calls left it to do: what it writes to cgroups it writes between two
    /// messages, and perhaps after its answer.
    pub(super) fn fence(&mut self) -> Result<()> {
        let call = Call { interface: "org.freedesktop.DBus.Peer", ..manager_call(self.routed, "Ping", &[]) };
        self.call(&call).at("Ping").map(drop)
    }

    /// Waits for the end of the job that the answer names; its result, `done` if all is well.
    pub(super) fn await_job(&mut self, answer: &Message) -> Result<String> {
        let job = answer.words().and_then(|words| words.into_iter().next());
        let job = job.ok_or_else(|| Error::other("the answer names no job"))?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| *ended == job) {
                return Ok(self.ended.swap_remove(at).1);
            }
            let message = self.next(until)?;
            self.note(&message);
        }
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Result<Message, Refusal>> {
        let until = Instant::now() + PATIENCE;
        if !self.authenticated {
            // Nothing goes with it: what systemd reads along with the greeting it looks at only when more comes.
            self.socket.write_all(GREETING).at("D-Bus: send")?;
            self.read_authentication(until)?;
        }
        let serial = self.queue(call);
        let out = std::mem::take(&mut self.out);
        self.socket.write_all(&out).at("D-Bus: send")?;
        loop {
            let message = self.next(until)?;
            match message.kind {
                Kind::Return if message.reply_to == Some(serial) => return Ok(Ok(message)),
                Kind::Error if message.reply_to == Some(serial) => {
                    let text = message.words().and_then(|words| words.into_iter().next()).unwrap_or_default();
                    return Ok(Err(Refusal { name: message.error, text }));
                }
                _ => self.note(&message),
            }
        }
    }

    fn queue(&mut self, call: &Call<'_>) -> u32 {
        self.serial += 1;
        self.out.extend(call.encode(self.serial));
        self.serial
    }

    /// A job may end before the answer that names it has been read.
    fn note(&mut self, message: &Message) {
        if message.kind == Kind::Signal
            && message.member == "JobRemoved"
            && let Some(words) = message.words()
            && let [_, job, _, result] = words.as_slice()
        {
            self.ended.push((job.clone(), result.clone()));
        }
    }

    fn next(&mut self, until: Instant) -> Result<Message> {
        loop {
            if let Some(prefix) = self.come.first_chunk::<PREFIX>() {
                let length = whole_length(prefix)?;
                if self.come.len() >= length {
                    let rest = self.come.split_off(length);
                    return Message::decode(&std::mem::replace(&mut self.come, rest));
                }
            }
            self.read(until)?;
        }
    }

    /// The server's lines: it asks for a name, gets none, and says OK.
    fn read_authentication(&mut self, until: Instant) -> Result<()> {
        loop {
            while let Some(end) = self.come.windows(2).position(|it| it == b"\r\n") {
                let rest = self.come.split_off(end + 2);
                let line = String::from_utf8_lossy(&std::mem::replace(&mut self.come, rest)).trim_end().to_owned();
                match line.split(' ').next() {
                    Some("OK") => {
                        self.authenticated = true;
                        return Ok(());
                    }
                    Some("DATA") => {}
                    _ => return Err(Error::other(format!("D-Bus: not let in: {line:?}"))),
                }
            }
            if self.come.len() > 4096 {
                return Err(Error::other("D-Bus: not let in: no answer that is one"));
            }
            self.read(until)?;
        }
    }

    fn read(&mut self, until: Instant) -> Result<()> {
        let mut buffer = [0; 4096];
        let late = || Error::other(format!("D-Bus: systemd did not answer within {} s", PATIENCE.as_secs()));
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        self.socket.set_read_timeout(Some(left)).at("D-Bus")?;
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(Error::other("D-Bus: the connection was closed")),
                Ok(count) => {
                    self.come.extend(buffer.iter().take(count));
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(late()),
                Err(error) => return Err(error).at("D-Bus: read"),
            }
        }
    }
}

fn manager_call<'a>(routed: bool, member: &'a str, body: &'a [Value]) -> Call<'a> {
    Call {
        destination: routed.then_some("org.freedesktop.systemd1"),
        path: "/org/freedesktop/systemd1",
        interface: MANAGER,
        member,
        body,
        quiet: false,
    }
}

/// Where the caller's session bus is: `DBUS_SESSION_BUS_ADDRESS`, else `bus` in `XDG_RUNTIME_DIR`.
fn session_address() -> Result<SocketAddr> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|it| !it.is_empty());
    if let Some(text) = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").filter(|it| !it.is_empty()) {
        return parse_address(&text, runtime.as_deref()).ok_or_else(|| {
            Error::invalid("DBUS_SESSION_BUS_ADDRESS", format!("{} names no Unix socket", text.display()))
        });
    }
    let bus = runtime.map(|dir| Path::new(&dir).join("bus"));
    match bus.filter(|it| it.exists()) {
        Some(path) => SocketAddr::from_pathname(path).at("XDG_RUNTIME_DIR"),
        None => Err(Error::other(
            "could not detect DBUS_SESSION_BUS_ADDRESS from the environment; make sure you have installed the \
             dbus-user-session or dbus-daemon package; note you may need to re-login",
        )),
    }
}

/// The first Unix socket of a list of addresses.
/// <https://dbus.freedesktop.org/doc/dbus-specification.html#addresses>
fn parse_address(text: &OsStr, runtime: Option<&OsStr>) -> Option<SocketAddr> {
    text.as_bytes().split(|&byte| byte == b';').find_map(|address| {
        let pairs = address.strip_prefix(b"unix:")?.split(|&byte| byte == b',');
        pairs.filter_map(|pair| pair.iter().position(|&byte| byte == b'=').map(|at| pair.split_at(at))).find_map(
            |(key, value)| match key {
                b"path" => SocketAddr::from_pathname(unescape(value.get(1..)?)?).ok(),
                b"abstract" => SocketAddr::from_abstract_name(unescape(value.get(1..)?)?.as_bytes()).ok(),
                b"runtime" if value == b"=yes" => SocketAddr::from_pathname(Path::new(runtime?).join("bus")).ok(),
                _ => None,
            },
        )
    })
}

/// `%41` is `A`.
fn unescape(value: &[u8]) -> Option<OsString> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(if byte == b'%' {
            let mut digit = || bytes.next().and_then(|&it| char::from(it).to_digit(16));
            (digit()? * 16 + digit()?) as u8
        } else {
            byte
        });
    }
    Some(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests;
