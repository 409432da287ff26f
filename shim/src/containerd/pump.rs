//! Moving bytes between a container's streams and containerd's fifos and files on the event loop.
//!
//! Each stream is one task. A full sink stops the task, and so in the end the writer, but nothing else.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ioctl_fionread, read, write};
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{log, watch as readiness};
use crate::error::{Context, Result};
use crate::io::console::read_output;
use crate::io::fifo::is_fifo;

/// How much is moved at once: the usual capacity of a pipe.
const CHUNK: usize = 64 * 1024;
/// The buffer for what splice cannot move.
const BUFFER: usize = 16 * 1024;

/// How long a deletion waits for a reader that has never been there.
const LATE_READER: Duration = Duration::from_secs(2);

/// How far the process behind the streams has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It lives, or may.
    Open,
    /// It has ended: a terminal that is empty now stays so.
    Ended,
    /// It is being deleted: whoever still wants its output must be reading, so a fifo without a reader ends the task.
    Released,
}

/// Where output goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A fifo of which we hold both ends, or a writing end (a pipe's, a terminal).
    Fifo {
        fd: AsyncFd<OwnedFd>,
        /// Whether somebody has ever read it. A client may open its end later than a short process lives.
        met: bool,
    },
    /// A regular file or a device such as /dev/null: always ready.
    File(File),
    /// Nowhere.
    Null,
}

/// The source of output: a pipe's reading end, or a terminal that its stdin task shares.
pub(crate) type Source = Arc<AsyncFd<OwnedFd>>;

/// Moves everything from `source` to `sink` until the source ends.
pub(crate) async fn output(source: Source, mut sink: Sink, mut phase: watch::Receiver<Phase>) {
    let moved = match move_output(&source, &mut sink, &mut phase).await {
        // What nobody holds open is gone: leave only when the reader has come.
        Ok(()) => meet(&mut sink, &mut phase).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = moved {
        log::warn(&format!("copy output: {error}"));
    }
}

async fn move_output(source: &Source, sink: &mut Sink, phase: &mut watch::Receiver<Phase>) -> Result<()> {
    // The kernel moves pages between pipes; between anything else a buffer must.
    let from_pipe = is_fifo(source.as_fd())?;
    let by_splice = from_pipe && matches!(sink, Sink::Fifo { fd, .. } if is_fifo(fd.as_fd())?);
    loop {
        let ready = tokio::select! {
            ready = source.readable() => Some(ready.context(|| "wait for output")?),
            changed = phase.changed() => match changed {
                Ok(()) => None,
                Err(_) => return Ok(()),
            },
        };
        let mut moved = if by_splice { splice_step(source, sink)? } else { copy_step(source, sink)? };
        let over = *phase.borrow() >= Phase::Ended && !from_pipe;
        if over && matches!(moved, Step::Empty) {
            // The kernel may still be moving the last output: asked again, it finishes that first.
            moved = copy_step(source, sink)?;
        }
        match moved {
            Step::Moved => {}
            Step::End => return Ok(()),
            Step::Empty => {
                if let Some(mut ready) = ready {
                    ready.clear_ready();
                }
                // A lingering process can hold a terminal open for ever.
                if over {
                    return Ok(());
                }
            }
            Step::Full(rest) => {
                if !drain_into(sink, &rest, phase).await? {
                    return Ok(());
                }
            }
        }
    }
}

/// What came of one attempt to move bytes.
enum Step {
    Moved,
    /// The source has ended.
    End,
    /// The source is empty for now.
    Empty,
    /// The sink is full; these bytes were read but not written.
    Full(Vec<u8>),
}

fn splice_step(source: &AsyncFd<OwnedFd>, sink: &Sink) -> Result<Step> {
    let Sink::Fifo { fd: fifo, .. } = sink else {
        return Ok(Step::End);
    };
    match splice(source, None, fifo, None, CHUNK, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
        Ok(0) | Err(Errno::PIPE) => Ok(Step::End),
        Ok(_) | Err(Errno::INTR) => Ok(Step::Moved),
        // Either side may be meant.
        Err(Errno::AGAIN) if ioctl_fionread(source).context(|| "examine a pipe")? == 0 => Ok(Step::Empty),
        Err(Errno::AGAIN) => Ok(Step::Full(Vec::new())),
        Err(errno) => Err(errno).context(|| "splice"),
    }
}

fn copy_step(source: &AsyncFd<OwnedFd>, sink: &mut Sink) -> Result<Step> {
    let mut buffer = [0_u8; BUFFER];
    let count = match read_output(source, &mut buffer) {
        // A terminal whose other side is closed everywhere says EIO.
        Ok(0) | Err(Errno::IO) => return Ok(Step::End),
        Ok(count) => count,
        Err(Errno::AGAIN) => return Ok(Step::Empty),
        Err(Errno::INTR) => return Ok(Step::Moved),
        Err(errno) => return Err(errno).context(|| "read"),
    };
    let bytes = &buffer[..count];
    match sink {
        Sink::Null => Ok(Step::Moved),
        Sink::File(file) => {
            // A full disk costs output, not the container.
            if let Err(error) = file.write_all(bytes) {
                log::warn(&format!("write output to a file: {count} bytes are lost: {error}"));
            }
            Ok(Step::Moved)
        }
        Sink::Fifo { fd: fifo, .. } => {
            let written = write_some(fifo.as_fd(), bytes)?;
            Ok(match written {
                None => Step::End,
                Some(written) if written == count => Step::Moved,
                Some(written) => Step::Full(bytes[written..].to_vec()),
            })
        }
    }
}

/// Writes what fits. `None` means that nobody will ever read it.
fn write_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<Option<usize>> {
    let mut written = 0;
    while written < bytes.len() {
        match write(fd, &bytes[written..]) {
            Ok(count) => written += count,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::IO) => return Ok(None),
            Err(errno) => return Err(errno).context(|| "write"),
        }
    }
    Ok(Some(written))
}

/// Waits until the full `sink` takes something again, and writes `rest`. `false` means that it never will.
async fn drain_into(sink: &mut Sink, mut rest: &[u8], phase: &mut watch::Receiver<Phase>) -> Result<bool> {
    loop {
        if *phase.borrow_and_update() == Phase::Released && !meet(sink, phase).await? {
            return Ok(false);
        }
        let Sink::Fifo { fd: fifo, .. } = sink else {
            return Ok(true);
        };
        let mut ready = tokio::select! {
            ready = fifo.writable() => ready.context(|| "wait for a reader")?,
            changed = phase.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(false),
            },
        };
        match write_some(fifo.as_fd(), rest)? {
            None => return Ok(false),
            Some(written) => rest = &rest[written..],
        }
        // What splice left is still in the source: its next attempt tells.
        if rest.is_empty() && is_writable(fifo.as_fd())? {
            return Ok(true);
        }
        ready.clear_ready();
    }
}

/// Lets go of our own reading end of a fifo and sees whether somebody else reads it; waits for a reader that has never
/// been there while there is something to read. `false` means that nobody does, or that there is nothing.
async fn meet(sink: &mut Sink, phase: &mut watch::Receiver<Phase>) -> Result<bool> {
    let Sink::Fifo { fd, met } = sink else {
        return Ok(true);
    };
    if holds_reader(fd.as_fd())? {
        let writer = reopen(fd.as_fd(), OFlags::WRONLY)?;
        *fd = readiness::register(writer, Interest::WRITABLE)?;
    }
    let waits = |fd: &AsyncFd<OwnedFd>| {
        let unread = ioctl_fionread(fd).context(|| "examine a fifo")?;
        Ok::<_, crate::error::Error>(unread > 0 && !has_reader(fd.as_fd())?)
    };
    if !*met && waits(fd)? {
        let openings = watch_openings(fd.as_fd())?;
        while waits(fd)? {
            let released = async {
                let _: std::result::Result<_, _> = phase.wait_for(|&phase| phase == Phase::Released).await;
                sleep(LATE_READER).await;
            };
            tokio::select! {
                opened = openings.readable() => {
                    opened.context(|| "wait for a reader")?.clear_ready();
                    let _: rustix::io::Result<usize> = read(&openings, &mut [0_u8; 1024][..]);
                }
                () = released => break,
            }
        }
    }
    has_reader(fd.as_fd())
}

/// Becomes readable when somebody opens the fifo.
fn watch_openings(fifo: BorrowedFd<'_>) -> Result<AsyncFd<OwnedFd>> {
    let step = || "watch a fifo";
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(step)?;
    let path = format!("/proc/self/fd/{}", fifo.as_raw_fd());
    inotify::add_watch(&watch, path, WatchFlags::OPEN).context(step)?;
    readiness::register(watch, Interest::READABLE)
}

/// Whether a pipe whose writing end is `fd` has a reader.
fn has_reader(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(!readiness_of(fd)?.contains(PollFlags::ERR))
}

fn holds_reader(fd: BorrowedFd<'_>) -> Result<bool> {
    let flags = rustix::fs::fcntl_getfl(fd).context(|| "read descriptor flags")?;
    Ok(flags & OFlags::RWMODE == OFlags::RDWR)
}

fn is_writable(fd: BorrowedFd<'_>) -> Result<bool> {
    // An error shows at the next write.
    Ok(!readiness_of(fd)?.is_empty())
}

fn readiness_of(fd: BorrowedFd<'_>) -> Result<PollFlags> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).context(|| "poll a fifo")?;
    Ok(fds[0].revents())
}

/// Opens the same pipe once more, in another mode; it may have lost its name meanwhile.
fn reopen(fd: BorrowedFd<'_>, mode: OFlags) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path, mode | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).context(|| "reopen a fifo")
}

/// Moves a client's input from `fifo` to the container until the container stops reading, or until `close` and the
/// client's own end. The container's side is closed then (a terminal's is shared and stays).
pub(crate) async fn input(fifo: OwnedFd, sink: Arc<AsyncFd<OwnedFd>>, mut close: watch::Receiver<bool>) {
    if let Err(error) = move_input(fifo, &sink, &mut close).await {
        log::warn(&format!("copy stdin: {error}"));
    }
}

async fn move_input(fifo: OwnedFd, sink: &AsyncFd<OwnedFd>, close: &mut watch::Receiver<bool>) -> Result<()> {
    let mut source = readiness::register(fifo, Interest::READABLE)?;
    let mut holding = true;
    let mut buffer = Vec::new();
    loop {
        if holding && *close.borrow_and_update() {
            // Without our own writing end the fifo ends when the client's is closed.
            let reader = reopen(source.as_fd(), OFlags::RDONLY)?;
            source = readiness::register(reader, Interest::READABLE)?;
            holding = false;
        }
        let mut ready = tokio::select! {
            ready = source.readable() => ready.context(|| "wait for input")?,
            changed = close.changed(), if holding => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        buffer.resize(BUFFER, 0);
        match read(&source, &mut buffer[..]) {
            Ok(0) => return Ok(()),
            Ok(count) => buffer.truncate(count),
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                // Input is rare: do not keep a buffer for it.
                buffer = Vec::new();
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).context(|| "read"),
        }
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let mut ready = sink.writable().await.context(|| "wait for the container to read")?;
            match write_some(sink.as_fd(), rest)? {
                None => return Ok(()),
                Some(0) => ready.clear_ready(),
                Some(written) => rest = &rest[written..],
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::fifo::{open_both_ends, pipe};
    use std::io::Read;
    use std::path::PathBuf;
    use tokio::task::JoinHandle;

    /// A task that moves `text` from a process that has ended already to a fifo.
    struct Moving {
        _dir: tempfile::TempDir,
        path: PathBuf,
        phase: watch::Sender<Phase>,
        task: JoinHandle<()>,
    }

    fn moving(text: &[u8]) -> Moving {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        let (reader, writer) = pipe().unwrap();
        crate::io::console::set_nonblocking(&reader).unwrap();
        let text = text.to_vec();
        std::thread::spawn(move || File::from(writer).write_all(&text));
        let fd = readiness::register(open_both_ends(&path).unwrap(), Interest::WRITABLE).unwrap();
        let source = Arc::new(readiness::register(reader, Interest::READABLE).unwrap());
        let phase = watch::Sender::new(Phase::Open);
        let sink = Sink::Fifo { fd, met: false };
        let task = tokio::spawn(output(source, sink, phase.subscribe()));
        Moving { _dir: dir, path, phase, task }
    }

    fn read_all(path: PathBuf) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            File::open(path).unwrap().read_to_end(&mut text).unwrap();
            text
        })
    }

    #[tokio::test]
    async fn a_reader_that_comes_late_misses_nothing() {
        for size in [5, 3_000_000] {
            let text: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
            let moving = moving(&text);
            sleep(Duration::from_millis(50)).await;
            assert!(!moving.task.is_finished(), "nobody has read it yet");
            moving.phase.send_replace(Phase::Released);
            let reader = read_all(moving.path.clone());
            moving.task.await.unwrap();
            assert!(reader.join().unwrap() == text, "{size} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_never_comes_is_not_waited_for_for_ever() {
        let moving = moving(&vec![0; 3_000_000]);
        moving.phase.send_replace(Phase::Released);
        moving.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_process_waits_for_nobody() {
        moving(b"").task.await.unwrap();
    }

    #[tokio::test]
    async fn input_ends_with_the_client_once_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        let ours = open_both_ends(&path).unwrap();
        let (reader, writer) = pipe().unwrap();
        crate::io::console::set_nonblocking(&writer).unwrap();
        let sink = Arc::new(readiness::register(writer, Interest::WRITABLE).unwrap());
        let close = watch::Sender::new(false);
        let task = tokio::spawn(input(ours, sink, close.subscribe()));
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"typed").unwrap();
        sleep(Duration::from_millis(50)).await;
        assert!(!task.is_finished(), "another client may come");
        close.send_replace(true);
        task.await.unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "typed");
    }
}
