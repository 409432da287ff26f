//! Pieces of the loops that stand between the user's streams and a container's.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, write};

use crate::error::{Context, Result};
use crate::io::console::read_output;

/// How much is read at once.
pub(crate) const CHUNK: usize = 16 * 1024;
/// What a pipe or terminal that is ready for writing takes for certain.
const ATOMIC: usize = 4096;
/// Signals that are passed on to the container. Those of job control stay ours.
const PASSED_ON: [NixSignal; 7] = [
    NixSignal::SIGHUP,
    NixSignal::SIGINT,
    NixSignal::SIGQUIT,
    NixSignal::SIGTERM,
    NixSignal::SIGUSR1,
    NixSignal::SIGUSR2,
    NixSignal::SIGALRM,
];

/// How often we are asked to end before we do: nothing in the container may heed what we pass on (as in Docker).
const PATIENCE: u8 = 3;
/// What is said then, in Docker's words.
pub(crate) const OUT_OF_PATIENCE: &str = "got 3 SIGTERM/SIGINTs, forcefully exiting";

/// What a signal asks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Adapt to the terminal's size.
    Resize,
    /// Pass this signal on.
    PassOn(u8),
    /// Pass this signal on and leave.
    PassOnAndLeave(u8),
}

/// Signals as something to read.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
    /// How often we have been asked to end.
    endings: Cell<u8>,
}

impl Signals {
    /// Takes the signals that concern a container; without `pass_on` only those about our terminal.
    pub(crate) fn take(pass_on: bool) -> Result<Self> {
        let mut set = SigSet::empty();
        set.add(NixSignal::SIGWINCH);
        for signal in PASSED_ON.iter().filter(|_| pass_on) {
            set.add(*signal);
        }
        set.thread_block().context(|| "block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let fd = signals.context(|| "make a signal descriptor")?;
        Ok(Self { fd, endings: Cell::new(0) })
    }

    pub(crate) fn next(&self) -> Option<Asked> {
        let number = u8::try_from(self.fd.read_signal().ok().flatten()?.ssi_signo).unwrap_or_default();
        Some(match NixSignal::try_from(i32::from(number)) {
            Ok(NixSignal::SIGWINCH) => Asked::Resize,
            Ok(NixSignal::SIGINT | NixSignal::SIGTERM) => {
                self.endings.set(self.endings.get().saturating_add(1));
                if self.endings.get() < PATIENCE { Asked::PassOn(number) } else { Asked::PassOnAndLeave(number) }
            }
            _ => Asked::PassOn(number),
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Bytes on their way to a stream of the user's, which others share and which therefore keeps its blocking mode: it is
/// written to only in portions that are certain not to block.
#[derive(Debug)]
pub(crate) struct Outlet {
    fd: OwnedFd,
    regular: bool,
    pending: Vec<u8>,
    sent: usize,
    /// Nobody reads any longer: the rest is dropped.
    broken: bool,
}

impl Outlet {
    pub(crate) fn to(stream: &impl AsFd) -> Result<Self> {
        let fd = stream.as_fd().try_clone_to_owned().context(|| "duplicate a stream")?;
        let found = fstat(&fd).context(|| "examine a stream")?;
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        Ok(Self { fd, regular, pending: Vec::new(), sent: 0, broken: false })
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.pending.extend_from_slice(bytes);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.pending.len()
    }

    /// Writes one portion. Call it when the stream is ready.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let rest = &self.pending[self.sent..];
        let portion = if self.regular { rest } else { &rest[..rest.len().min(ATOMIC)] };
        match write(&self.fd, portion) {
            Ok(count) => self.sent += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::PIPE | Errno::IO) => {
                self.broken = true;
                self.sent = self.pending.len();
            }
            Err(errno) => return Err(errno).context(|| "write output"),
        }
        if self.is_empty() {
            self.pending.clear();
            self.sent = 0;
        }
        Ok(())
    }

    /// Writes everything, waiting as long as it takes.
    pub(crate) fn finish(&mut self) -> Result<()> {
        while !self.is_empty() {
            wait(&mut [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::OUT)])?;
            self.flush()?;
        }
        Ok(())
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until one of `fds` is ready.
pub(crate) fn wait(fds: &mut [PollFd<'_>]) -> Result<()> {
    match poll(fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context(|| "poll"),
    }
}

/// Waits for `fd` if it is there and `wanted`, else for `idle` without wanting anything of it: a stream that nothing is
/// wanted of would still report its end, again and again.
pub(crate) fn watch_if<'a>(
    wanted: bool,
    fd: Option<BorrowedFd<'a>>,
    flags: PollFlags,
    idle: BorrowedFd<'a>,
) -> PollFd<'a> {
    match fd.filter(|_| wanted) {
        Some(fd) => PollFd::from_borrowed_fd(fd, flags),
        None => PollFd::from_borrowed_fd(idle, PollFlags::empty()),
    }
}

/// Reads what there is. `None` means that there is nothing yet; empty means the end.
pub(crate) fn read_some(fd: impl AsFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    match read_output(fd, buffer) {
        Ok(count) => Ok(Some(count)),
        // A terminal that is closed everywhere, or that has hung up.
        Err(Errno::IO) => Ok(Some(0)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno).context(|| "read"),
    }
}
