//! The door at which a created container waits: init listens on `start.sock`, `start` knocks.
//!
//! ```text
//!   start: connect, send one byte, remove the socket; then read to the end of the stream
//!   init:  accept, read the byte; run the startContainer hooks; exec, which closes the stream, or send why it failed,
//!          after a byte that says what did: `e`, or `x` for the program itself
//! ```
//!
//! A connection refused means that nobody listens any more, so a dead init is seen at once, and so is one that was started
//! by a `start` that died before it removed the socket.

use crate::{
    error::{At, Error, Kind, Result},
    store::{START_SOCKET, Slot},
    sys::{self, Signals},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
        listen, recv, send, socket_with,
    },
};
use std::io::Read;

/// The most that is read of init's last words, in bytes.
const MAX_TEXT: u64 = 8 << 10;
const FAILED: char = 'e';
const NOT_EXECUTED: char = 'x';

/// A listening socket in the container's directory, for init to inherit.
pub(super) fn make(slot: &Slot) -> Result<OwnedFd> {
    let socket = unix_socket()?;
    bind(&socket, &address(slot.dir())?).at("bind start.sock")?;
    listen(&socket, 1).at("listen on start.sock")?;
    Ok(socket)
}

/// Init waits here until somebody knocks; the connection is for its last words. One of the signals `endings` ends it.
pub(super) fn wait(door: &OwnedFd, endings: &Signals) -> Result<OwnedFd> {
    loop {
        match poll(&mut [PollFd::new(door, PollFlags::IN), PollFd::new(endings, PollFlags::IN)], None) {
            Err(Errno::INTR) => continue,
            polled => polled.at("wait for start")?,
        };
        if let Some(signal) = endings.next() {
            sys::exit(128 + signal);
        }
        let visitor = match accept_with(door, SocketFlags::CLOEXEC) {
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            visitor => visitor.at("wait for start")?,
        };
        // A visitor that goes away without a word died; the next one may mean it.
        if matches!(recv(&visitor, &mut [0], RecvFlags::empty()), Ok((1, _))) {
            return Ok(visitor);
        }
    }
}

/// Tells whoever started us why the program does not run.
pub(super) fn fail(visitor: &OwnedFd, error: &Error) {
    tell(visitor, FAILED, error);
}

/// The same, where it is the program itself that could not be executed.
pub(super) fn fail_to_execute(visitor: &OwnedFd, error: &Error) {
    tell(visitor, NOT_EXECUTED, error);
}

fn tell(visitor: &OwnedFd, what: char, error: &Error) {
    // Nobody is left to tell if the visitor died.
    let _ = send(visitor, format!("{what}{error}").as_bytes(), SendFlags::NOSIGNAL);
}

/// Lets a created container go on to run its program, and waits until it does.
///
/// # Errors
/// [`Kind::NotExecuted`] with the reason, which init has also written to its standard error; that nobody waits.
pub fn open(slot: &Slot) -> Result<()> {
    let socket = unix_socket()?;
    match connect(&socket, &address(slot.dir())?) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => {
            slot.forget_start()?;
            return Err(Error::other("the container's init no longer waits to be started"));
        }
        connected => connected.at("connect to start.sock")?,
    }
    send(&socket, b"s", SendFlags::NOSIGNAL).at("tell init to start")?;
    slot.forget_start()?;
    let mut text = String::new();
    match std::fs::File::from(socket).take(MAX_TEXT).read_to_string(&mut text) {
        Ok(0) => Ok(()),
        // Init was killed while we waited: the container has been started and has ended.
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => Ok(()),
        Ok(_) => Err(match text.strip_prefix(NOT_EXECUTED) {
            Some(text) => Error::new(Kind::NotExecuted, text),
            None => Error::other(text.strip_prefix(FAILED).unwrap_or(&text)),
        }),
        Err(error) => Err(error).at("hear from init"),
    }
}

/// Whether init listens behind the socket's file, which stays behind if a `start` is killed after it knocked.
pub(crate) fn is_watched(dir: BorrowedFd<'_>) -> bool {
    // Without waiting: an init that is frozen answers nobody, and listens.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let knock = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .at("socket")
        .and_then(|socket| connect(&socket, &address(dir)?).at("connect to start.sock"));
    !matches!(knock, Err(error) if matches!(error.errno(), Some(libc::ECONNREFUSED | libc::ENOENT)))
}

fn unix_socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).at("socket")
}

/// By way of the directory's descriptor: an address holds 107 bytes, roots and ids may be longer.
fn address(dir: BorrowedFd<'_>) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{START_SOCKET}", dir.as_fd().as_raw_fd())).at("start.sock")
}
