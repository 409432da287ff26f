//! The streams of one process under containerd: what the process gets, and the tasks that serve the other side.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll;
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fcntl_setfl, fstat, open};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;

use super::logger::Logger;
use super::pump::{self, Phase, Sink, Source};
use super::uri::Target;
use super::watch as readiness;
use crate::error::{Context, Error, Result};
use crate::io::console::{self, set_nonblocking};
use crate::io::fifo;

/// How long a deletion waits for readers of what the process has left behind.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// What containerd asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// Whose streams they are: a program that logs is told, and pipes belong to the user of the container.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Streams that are open on both sides but not served yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    outputs: Vec<(OwnedFd, Sink)>,
    input: Option<(OwnedFd, OwnedFd)>,
    logger: Option<Logger>,
}

impl Prepared {
    /// Opens what `wanted` names and makes the pipes for a process without a terminal.
    pub(crate) async fn pipes(wanted: &Wanted, owner: &Owner) -> Result<(Self, [Stdio; 3])> {
        let mut prepared = Self { outputs: Vec::new(), input: None, logger: None };
        let mut stdin = Stdio::null();
        if !wanted.stdin.is_empty() {
            let client = fifo::open_both_ends(Path::new(&wanted.stdin))?;
            let (reader, writer) = fifo::pipe()?;
            give(&reader, owner)?;
            set_nonblocking(&writer)?;
            prepared.input = Some((client, writer));
            stdin = reader.into();
        }
        let target = Target::parse(&wanted.stdout)?;
        if let Target::Binary { path, arguments, must_confirm } = &target {
            let (logger, stdout, stderr) = Logger::start(path, arguments, *must_confirm, owner).await?;
            prepared.logger = Some(logger);
            return Ok((prepared, [stdin, stdout.into(), stderr.into()]));
        }
        // A file takes both streams, whatever stderr says.
        let both = matches!(target, Target::File(_)).then(|| target.clone());
        let stdout = prepared.output(&target, owner)?;
        let stderr = both.map_or_else(|| Target::parse(&wanted.stderr), Ok)?;
        let stderr = prepared.output(&stderr, owner)?;
        Ok((prepared, [stdin, stdout, stderr]))
    }

    /// Opens what `wanted` names for a process with a terminal, which carries both outputs.
    pub(crate) async fn terminal(wanted: &Wanted, owner: &Owner) -> Result<PreparedTerminal> {
        let stdin = Some(&wanted.stdin).filter(|path| !path.is_empty());
        let stdin = stdin.map(|path| fifo::open_both_ends(Path::new(path))).transpose()?;
        let mut logger = None;
        let sink = match Target::parse(&wanted.stdout)? {
            Target::Binary { path, arguments, must_confirm } => {
                let (started, stdout, _stderr) = Logger::start(&path, &arguments, must_confirm, owner).await?;
                logger = Some(started);
                set_nonblocking(&stdout)?;
                let fd = readiness::register(stdout, Interest::WRITABLE)?;
                Sink::Fifo { fd, met: true }
            }
            target => sink(&target)?,
        };
        Ok(PreparedTerminal { stdin, sink, logger })
    }

    fn output(&mut self, target: &Target, owner: &Owner) -> Result<Stdio> {
        if *target == Target::Null {
            return Ok(Stdio::null());
        }
        if matches!(target, Target::Binary { .. }) {
            return Err(Error::invalid("stderr cannot go to a program of its own: name it for stdout"));
        }
        let sink = sink(target)?;
        let (reader, writer) = fifo::pipe()?;
        give(&writer, owner)?;
        set_nonblocking(&reader)?;
        self.outputs.push((reader, sink));
        Ok(writer.into())
    }

    /// Starts to serve the streams.
    pub(crate) fn serve(self) -> Result<Streams> {
        let mut streams = Streams::new(self.logger);
        for (reader, sink) in self.outputs {
            let source = Arc::new(readiness::register(reader, Interest::READABLE)?);
            streams.spawn_output(source, sink);
        }
        if let Some((client, writer)) = self.input {
            let writer = Arc::new(readiness::register(writer, Interest::WRITABLE)?);
            streams.spawn_input(client, writer);
        }
        Ok(streams)
    }
}

/// The other side of a terminal that is still to come.
#[derive(Debug)]
pub(crate) struct PreparedTerminal {
    stdin: Option<OwnedFd>,
    sink: Sink,
    logger: Option<Logger>,
}

impl PreparedTerminal {
    /// Starts to serve the terminal.
    pub(crate) fn serve(self, master: OwnedFd) -> Result<Streams> {
        let mut streams = Streams::new(self.logger);
        let master = Arc::new(readiness::register(master, Interest::READABLE | Interest::WRITABLE)?);
        streams.spawn_output(Arc::clone(&master), self.sink);
        if let Some(client) = self.stdin {
            streams.spawn_input(client, Arc::clone(&master));
        }
        streams.master = Some(master);
        Ok(streams)
    }
}

fn sink(target: &Target) -> Result<Sink> {
    match target {
        Target::Fifo(path) => {
            // Only a client that is there already lets us open one end alone; both are never closed in between.
            let probe = fifo::open_writer(path);
            let fd = readiness::register(fifo::open_both_ends(path)?, Interest::WRITABLE)?;
            let met = probe.is_ok();
            Ok(Sink::Fifo { fd, met })
        }
        Target::File(path) => append_to(path),
        Target::Null | Target::Binary { .. } => Ok(Sink::Null),
    }
}

/// Opens what `file://` names, which mostly is a file, or will be. As with other shims it may be a device or a fifo, too.
/// Opening waits for nobody: all containers of the shim would wait with it.
fn append_to(path: &Path) -> Result<Sink> {
    let step = || format!("open {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).context(|| format!("make {}", dir.display()))?;
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match open(path, flags, Mode::from_raw_mode(0o644)) {
        Err(Errno::NXIO) => {
            let text =
                format!("open {}: nobody reads there: use fifo:// for a reader that is still to come", path.display());
            return Err(Error::invalid(text));
        }
        opened => opened.context(step)?,
    };
    match FileType::from_raw_mode(fstat(&fd).context(step)?.st_mode) {
        FileType::RegularFile => Ok(Sink::File(fd.into())),
        // One that cannot be waited for takes everything at once.
        FileType::CharacterDevice if !can_be_waited_for(&fd)? => Ok(Sink::File(fd.into())),
        FileType::CharacterDevice | FileType::Fifo => {
            // Nothing is moved between pipes to one that is appended to.
            fcntl_setfl(&fd, OFlags::NONBLOCK).context(step)?;
            Ok(Sink::Fifo { fd: readiness::register(fd, Interest::WRITABLE)?, met: true })
        }
        _ => Err(Error::invalid(format!("open {}: it is neither a file nor a fifo nor a terminal", path.display()))),
    }
}

/// Whether the kernel tells of `fd` when there is room to write.
fn can_be_waited_for(fd: &OwnedFd) -> Result<bool> {
    let trial = epoll::create(epoll::CreateFlags::CLOEXEC).context(|| "make an event loop")?;
    match epoll::add(&trial, fd, epoll::EventData::new_u64(0), epoll::EventFlags::OUT) {
        Err(Errno::PERM) => Ok(false),
        added => added.map(|()| true).context(|| "watch a descriptor"),
    }
}

/// A container's user must be able to open its own /dev/stdout.
fn give(fd: &OwnedFd, owner: &Owner) -> Result<()> {
    if owner.uid == 0 && owner.gid == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    fchown(fd, Some(uid), Some(gid)).context(|| "give a stdio pipe to io_uid and io_gid")
}

/// The served streams of one process.
#[derive(Debug)]
pub(crate) struct Streams {
    phase: watch::Sender<Phase>,
    close_stdin: watch::Sender<bool>,
    outputs: watch::Sender<usize>,
    tasks: Vec<tokio::task::AbortHandle>,
    master: Option<Arc<AsyncFd<OwnedFd>>>,
    logger: Option<Logger>,
}

impl Streams {
    fn new(logger: Option<Logger>) -> Self {
        Self {
            phase: watch::Sender::new(Phase::Open),
            close_stdin: watch::Sender::new(false),
            outputs: watch::Sender::new(0),
            tasks: Vec::new(),
            master: None,
            logger,
        }
    }

    fn spawn_output(&mut self, source: Source, sink: Sink) {
        self.outputs.send_modify(|count| *count += 1);
        let (phase, outputs) = (self.phase.subscribe(), self.outputs.clone());
        let task = tokio::spawn(async move {
            pump::output(source, sink, phase).await;
            outputs.send_modify(|count| *count -= 1);
        });
        self.tasks.push(task.abort_handle());
    }

    fn spawn_input(&mut self, client: OwnedFd, sink: Arc<AsyncFd<OwnedFd>>) {
        let task = tokio::spawn(pump::input(client, sink, self.close_stdin.subscribe()));
        self.tasks.push(task.abort_handle());
    }

    /// Lets the process's stdin end once the client has closed its side.
    pub(crate) fn close_stdin(&self) {
        self.close_stdin.send_replace(true);
    }

    /// Resizes the terminal; without one there is nothing to resize.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.master.as_ref().map_or(Ok(()), |master| console::resize(master.as_fd(), rows, columns))
    }

    /// Tells the streams that their process has ended.
    pub(crate) fn ended(&self) {
        self.phase.send_replace(Phase::Ended);
    }

    /// Waits until everything that the process has written is with its readers, then closes all. `false` means that a
    /// slow reader, or a process that outlives its parent, has used up our patience.
    pub(crate) async fn finish(self) -> bool {
        self.phase.send_replace(Phase::Released);
        let mut outputs = self.outputs.subscribe();
        let drained = timeout(DRAIN_PATIENCE, outputs.wait_for(|&count| count == 0)).await.is_ok();
        for task in &self.tasks {
            task.abort();
        }
        if let Some(logger) = self.logger {
            logger.finish().await;
        }
        drained
    }
}
