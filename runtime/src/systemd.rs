//! What systemd hands to a service, handed on to the container as runc does: listening sockets (sd_listen_fds(3)), and the way
//! to say that the service is ready (sd_notify(3)).
//!
//! ```text
//!   create, run:  the directory `notify` beside the container's state is mounted at /run/notify
//!   start, run:   a socket is bound in it; what the container says there is heard until it says READY=1
//!   then:         READY=1 and MAINPID=<init, as the host numbers it> go to the NOTIFY_SOCKET of whoever called us
//! ```
//!
//! Nothing else that a container says goes on: it could name any process of the host.

use libcontainer::{
    At, Error, Result, process,
    spec::{Mount, Spec},
    store::{NOTIFY, NOTIFY_PLACE, Slot, State},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    io::{Errno, retry_on_intr},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    pipe::{PipeFlags, pipe_with},
};
use std::{
    ffi::OsString,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
};

const SOCKET: &str = "notify.sock";
/// As long as systemd's own clients wait for a manager that may not know the word BARRIER, in seconds.
const BARRIER: i64 = 30;
/// The longest message that is heard, in bytes; systemd takes no longer ones.
const MAX: usize = 4096;

/// How many sockets the caller passes, from descriptor 3 on; none if they were meant for another process.
pub(crate) fn listening() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}

/// Tells the container's program of what it inherits; `directory` is the container's in the store. Returns whether there has
/// to be a directory for notifications in it.
pub(crate) fn pass_on(spec: &mut Spec, directory: &Path) -> bool {
    let Some(process) = &mut spec.process else { return false };
    let sockets = listening();
    if sockets != 0 {
        process.env.extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()]);
        process.env.extend(std::env::var("LISTEN_FDNAMES").ok().map(|names| format!("LISTEN_FDNAMES={names}")));
    }
    if notify_socket().is_none() {
        return false;
    }
    process.env.push(format!("NOTIFY_SOCKET={NOTIFY_PLACE}/{SOCKET}"));
    spec.mounts.push(Mount {
        destination: NOTIFY_PLACE.into(),
        source: Some(directory.join(NOTIFY)),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).into(),
        ..Mount::default()
    });
    true
}

fn notify_socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())
}

/// Waits for a container to say that it is ready.
pub(crate) struct Relay {
    container: UnixDatagram,
    host: UnixDatagram,
}

impl Relay {
    /// For a container that was created, and that nobody else starts meanwhile. None where nobody wants to hear, or the container was created
    /// without a place to say it.
    pub(crate) fn of(slot: &Slot) -> Result<Option<Self>> {
        let Some(name) = notify_socket() else { return Ok(None) };
        let Some(directory) = slot.notify_directory()? else { return Ok(None) };
        let step = || format!("NOTIFY_SOCKET={}", name.display());
        let host = UnixDatagram::unbound().at("make a socket")?;
        match name.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                SocketAddr::from_abstract_name(name).and_then(|address| host.connect_addr(&address)).at_with(step)?;
            }
            None => host.connect(&name).at_with(step)?,
        }
        // One that a `start` has left which did not come to its end.
        match rustix::fs::unlinkat(&directory, SOCKET, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(Error::from(error)).at_with(|| format!("unlink {SOCKET}")),
        }
        // By the descriptor: the path may be too long for a socket's address. Any user of the container may speak.
        let mask = rustix::process::umask(rustix::fs::Mode::empty());
        let bound = UnixDatagram::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        rustix::process::umask(mask);
        let container = bound.at("bind the socket for the container's notifications")?;
        container.set_nonblocking(true).at("make a socket that does not block")?;
        Ok(Some(Self { container, host }))
    }

    /// Waits until the container is ready, or has ended.
    pub(crate) fn run(&self, state: &State) -> Result<()> {
        let Ok(init) = process::open(state.pid, state.start_time) else { return Ok(()) };
        loop {
            let mut fds = [PollFd::new(self, PollFlags::IN), PollFd::new(&init, PollFlags::IN)];
            retry_on_intr(|| poll(&mut fds, None)).at("poll")?;
            let ended = !fds[1].revents().is_empty();
            if self.hear(state.pid)? {
                return self.wait_for_barrier();
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Takes what has come. Returns whether it said that the container is ready, which is then known to the host: no more is
    /// to be heard.
    pub(crate) fn hear(&self, pid: i32) -> Result<bool> {
        let mut message = [0; MAX];
        // A container may speak without end.
        for _ in 0..64 {
            let length = match self.container.recv(&mut message) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                heard => heard.at("hear from the container")?,
            };
            if is_ready(&message[..length]) {
                // One message each, as runc's: who reads only the first line of one gets both.
                for text in ["READY=1\n".to_owned(), format!("MAINPID={pid}\n")] {
                    self.host.send(text.as_bytes()).at("write to NOTIFY_SOCKET")?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the manager has read what was sent: it asks who the sender was, who must live until then
    /// (sd_notify_barrier(3)).
    fn wait_for_barrier(&self) -> Result<()> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).at("pipe")?;
        send_barrier(&self.host, writer)?;
        let mut fds = [PollFd::new(&reader, PollFlags::IN)];
        let most = Timespec { tv_sec: BARRIER, tv_nsec: 0 };
        match poll(&mut fds, Some(&most)) {
            Ok(0) => tracing::warn!("NOTIFY_SOCKET: no answer to BARRIER=1 within {BARRIER} s: ignored"),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::from(error)).at("poll"),
        }
        Ok(())
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.container.as_fd()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is closed here: only the receiver is to have it")]
fn send_barrier(host: &UnixDatagram, writer: OwnedFd) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [writer.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(host, &[IoSlice::new(b"BARRIER=1")], &mut control, SendFlags::NOSIGNAL)
        .at("write to NOTIFY_SOCKET")
        .map(drop)
}

fn is_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_message_says_ready() {
        for (message, ready) in [
            (&b"READY=1"[..], true),
            (b"READY=1\n", true),
            (b"STATUS=up\nREADY=1\nMAINPID=1", true),
            (b"READY=0", false),
            (b"NOTREADY=1", false),
            (b"MAINPID=1\nFDSTORE=1", false),
            (b"", false),
            (b"\xff\nREADY=11", false),
        ] {
            assert_eq!(is_ready(message), ready, "{}", String::from_utf8_lossy(message));
        }
    }
}
