//! The door at which a created container waits: init reads from `start.fifo`, `start` writes to it.
//!
//! ```text
//!   start: open both pipes, write one byte to `start.fifo`, remove them; then read `started.fifo` to its end
//!   init:  read the byte; run the startContainer hooks; exec, which closes `started.fifo`, or write to it why that failed,
//!          after a byte that says what did: `e`, or `x` for the program itself
//! ```
//!
//! A pipe that nobody reads means that nobody waits any more, so a dead init is seen at once, and so is one that was started
//! by a `start` that died before it removed the pipes.
//!
//! Init may be under the container's seccomp filter already. So all that it does here is read(2) and write(2), which no
//! program can do without, on descriptors that were opened before.

use crate::{
    error::{At, Error, Kind, Result, shortened},
    store::{START_FIFO, STARTED_FIFO, Slot},
};
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    fs::{FileType, Mode, OFlags, fcntl_setfl, mknodat, openat},
    io::{Errno, read, retry_on_intr, write},
};
use std::io::Read;

/// The most that init says, in bytes: it fits into any pipe, so that init never waits for a reader (pipe(7)).
const MAX_TEXT: usize = 4 << 10;
const FAILED: char = 'e';
const NOT_EXECUTED: char = 'x';
const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// Init's side. It has both ends of both pipes: it needs no peer to open them, or to wait.
pub(super) struct Door {
    knocks: OwnedFd,
    answers: OwnedFd,
}

/// A door in the container's directory, for init to inherit.
pub(super) fn make(slot: &Slot) -> Result<Door> {
    let pipe = |name: &str| {
        mknodat(slot.dir(), name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .and_then(|()| openat(slot.dir(), name, FLAGS | OFlags::RDWR, Mode::empty()))
            .at_with(|| format!("make {name}"))
    };
    Ok(Door { knocks: pipe(START_FIFO)?, answers: pipe(STARTED_FIFO)? })
}

impl Door {
    /// Init waits here until somebody knocks.
    pub(super) fn wait(&self) -> Result<()> {
        retry_on_intr(|| read(&self.knocks, &mut [0_u8])).at("wait for start").map(drop)
    }

    /// Tells whoever started us why the program does not run.
    pub(super) fn fail(&self, error: &Error) {
        self.tell(FAILED, error);
    }

    /// The same, where it is the program itself that could not be executed.
    pub(super) fn fail_to_execute(&self, error: &Error) {
        self.tell(NOT_EXECUTED, error);
    }

    fn tell(&self, what: char, error: &Error) {
        let text = format!("{what}{}", shortened(&error.to_string(), MAX_TEXT - 1));
        // There is nobody else to tell.
        let _ = write(&self.answers, text.as_bytes());
    }
}

/// Lets a created container go on to run its program, and waits until it does.
///
/// # Errors
/// [`Kind::NotExecuted`] with the reason, which init has also written to its standard error; that nobody waits.
pub fn open(slot: &Slot) -> Result<()> {
    let gone = || {
        slot.forget_start()?;
        Err(Error::other("the container's init no longer waits to be started"))
    };
    let knocks = match knock(slot.dir()) {
        Err(Errno::NXIO | Errno::NOENT) => return gone(),
        knocks => knocks.at_with(|| format!("open {START_FIFO}"))?,
    };
    // Without waiting: init has the other end, or is gone.
    let answers = openat(slot.dir(), STARTED_FIFO, FLAGS | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
        .and_then(|answers| fcntl_setfl(&answers, OFlags::empty()).map(|()| answers))
        .at_with(|| format!("open {STARTED_FIFO}"))?;
    match write(&knocks, b"s") {
        Err(Errno::PIPE) => return gone(),
        written => written.at("tell init to start")?,
    };
    slot.forget_start()?;
    let mut text = Vec::new();
    // Nothing is said by an init that became its program, or was killed: then the container has been started and has ended.
    std::fs::File::from(answers).take(MAX_TEXT as u64).read_to_end(&mut text).at("hear from init")?;
    let text = String::from_utf8_lossy(&text);
    match text.strip_prefix(NOT_EXECUTED) {
        _ if text.is_empty() => Ok(()),
        Some(text) => Err(Error::new(Kind::NotExecuted, text)),
        None => Err(Error::other(text.strip_prefix(FAILED).unwrap_or(&text))),
    }
}

/// Whether init waits behind the pipe, which stays behind if a `start` is killed after it knocked.
pub(crate) fn is_watched(dir: BorrowedFd<'_>) -> bool {
    !matches!(knock(dir), Err(Errno::NXIO | Errno::NOENT))
}

/// Without waiting: an init that is frozen answers nobody, and waits.
fn knock(dir: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    openat(dir, START_FIFO, FLAGS | OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())
}
