//! Terminals: where a container's goes, and the caller's own as its picture while `run` or `exec` wait.

use crate::cli::Birth;
use libcontainer::{At, Error, Result};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
        socketpair,
    },
    termios::{
        OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
    },
};
use std::{io::IoSliceMut, mem::MaybeUninit, os::unix::net::UnixStream, path::Path};

/// Connects to the console socket that the caller named.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd> {
    let connected =
        UnixStream::connect(path).at_with(|| format!("connect to the console socket {}", path.display()))?;
    Ok(connected.into())
}

/// Where the master goes: to the caller's socket, to ourselves when we stay and show it, or nowhere.
pub(crate) enum Console {
    None,
    Theirs(OwnedFd),
    Ours { engine: OwnedFd, own: OwnedFd },
}

impl Console {
    /// By the flags, and by whether the process has a terminal.
    pub(crate) fn of(socket: Option<&Path>, terminal: bool, detach: bool) -> Result<Self> {
        match (socket, terminal && !detach) {
            (Some(path), _) => Ok(Self::Theirs(connect(path)?)),
            (None, false) => Ok(Self::None),
            (None, true) => {
                let (engine, own) =
                    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).at("socketpair")?;
                Ok(Self::Ours { engine, own })
            }
        }
    }

    /// As `run` and `create` have it.
    pub(crate) fn of_birth(args: &Birth, terminal: bool, detach: bool) -> Result<Self> {
        Self::of(args.console_socket.as_deref(), terminal, detach)
    }

    /// The half for the engine, and ours.
    pub(crate) fn split(self) -> (Option<OwnedFd>, Option<OwnedFd>) {
        match self {
            Self::None => (None, None),
            Self::Theirs(socket) => (Some(socket), None),
            Self::Ours { engine, own } => (Some(engine), Some(own)),
        }
    }
}

/// A container's terminal, shown on the caller's.
pub(crate) struct Picture {
    pub(crate) master: OwnedFd,
    // What the caller's terminal was like; it is so again when this is dropped.
    before: Option<Termios>,
    /// Typed, not yet taken by the container.
    typed: Vec<u8>,
    /// Whether what was typed last is the end of a line.
    line_ended: bool,
}

impl Picture {
    /// Receives the master by `socket`, and makes the caller's terminal, if it is one, pass everything on.
    pub(crate) fn receive(socket: &OwnedFd) -> Result<Self> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        recvmsg(socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .at("receive the terminal")?;
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let master = master.ok_or_else(|| Error::other("no terminal came from the container"))?;
        // The caller's terminal turns line ends into what it needs, and a file or a pipe gets them as they were written.
        let mut modes = tcgetattr(&master).at("read the terminal's modes")?;
        modes.output_modes -= OutputModes::ONLCR;
        tcsetattr(&master, OptionalActions::Now, &modes).at("set the terminal's modes")?;
        // Who types faster than the container reads must not keep us from showing what it writes.
        rustix::io::ioctl_fionbio(&master, true).at("make the terminal non-blocking")?;
        let picture = Self { master, before: make_raw()?, typed: Vec::new(), line_ended: true };
        picture.resize();
        Ok(picture)
    }

    /// Gives the container's terminal the size of the caller's.
    pub(crate) fn resize(&self) {
        // Standard input may be no terminal: then the size is the configuration's.
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            // Fails only when the container is gone.
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Whether something typed waits for the container.
    pub(crate) fn has_typed(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Takes what was typed. False at its end, which the container is told as script(1) does where a file or a pipe ends: by the
    /// character for it. One in the middle of a line ends the line only.
    pub(crate) fn read_typed(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) | Err(Errno::IO) => {
                if self.before.is_none()
                    && let Ok(modes) = tcgetattr(&self.master)
                {
                    let end = modes.special_codes[SpecialCodeIndex::VEOF];
                    self.typed.extend(std::iter::repeat_n(end, if self.line_ended { 1 } else { 2 }));
                }
                Ok(false)
            }
            Ok(n) => {
                self.typed.extend_from_slice(&buffer[..n]);
                self.line_ended = buffer[n - 1] == b'\n';
                Ok(true)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(true),
            Err(error) => Err(error).at("read standard input"),
        }
    }

    /// Gives the container what was typed, as far as it takes it.
    pub(crate) fn write_typed(&mut self) -> Result<()> {
        match rustix::io::write(&self.master, &self.typed) {
            Ok(n) => drop(self.typed.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody reads any more.
            Err(Errno::IO) => self.typed.clear(),
            Err(error) => return Err(error).at("write to the container's terminal"),
        }
        Ok(())
    }

    /// Shows what the container wrote. False when all who could write are gone.
    pub(crate) fn show(&self) -> Result<bool> {
        let mut buffer = [0; 16384];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) | Err(Errno::IO) => Ok(false),
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(error) => Err(error).at("read the container's terminal"),
            Ok(n) => {
                use std::io::Write;
                let mut out = std::io::stdout();
                out.write_all(&buffer[..n]).and_then(|()| out.flush()).at("write to standard output")?;
                Ok(true)
            }
        }
    }
}

impl AsFd for Picture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

fn make_raw() -> Result<Option<Termios>> {
    let Ok(before) = tcgetattr(rustix::stdio::stdin()) else { return Ok(None) };
    let mut raw = before.clone();
    raw.make_raw();
    raw.output_modes |= before.output_modes & OutputModes::OPOST;
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).at("make the terminal raw")?;
    Ok(Some(before))
}

impl Drop for Picture {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Fails only when the caller's terminal is gone.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
        }
    }
}
