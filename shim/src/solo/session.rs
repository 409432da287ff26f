//! A client's side of a monitor's socket: attaching, waiting for the end, sending a signal.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::termios::isatty;

use super::directory::Directory;
use super::frames::{self, Type};
use super::record::Ended;
use super::relay::{self, Asked, Outlet, Signals};
use super::terminal::{self, DetachKeys, KeyFilter, Raw};
use crate::error::{Context, Error, Kind, Result};

/// How much input waits for the monitor before the user has to wait.
const MAX_INPUT: usize = 64 * 1024;

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The container ended.
    Exited(Ended),
    /// The user pressed the keys; the container goes on.
    Detached,
    /// We were asked to end so often that we left; the container goes on.
    Left,
}

/// What came of waiting for a container to run.
#[derive(Debug)]
pub(crate) enum Birth {
    Runs,
    /// It never will, for this reason.
    Failed(Error),
    /// We were asked to end so often that we left.
    NotAwaited,
}

/// How the user's streams are connected.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// Whether the container has a terminal.
    pub(crate) terminal: bool,
    /// Whether it gets our stdin.
    pub(crate) stdin: bool,
    /// What detaches, if not the usual.
    pub(crate) keys: Option<DetachKeys>,
}

/// A connection to a monitor.
#[derive(Debug)]
pub(crate) struct Session {
    stream: UnixStream,
    received: Vec<u8>,
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Session {
    pub(crate) fn over(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// Connects to the monitor of a running container. `None` means that it has none.
    pub(crate) fn connect(directory: &Directory, wants_output: bool) -> Result<Option<Self>> {
        match UnixStream::connect(directory.socket()) {
            Ok(stream) => {
                let mut session = Self::over(stream);
                let mut hello = Vec::new();
                frames::put(&mut hello, Type::Hello, &[u8::from(wants_output)]);
                match session.stream.write_all(&hello) {
                    // It was about to go, and has not accepted us.
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
                    {
                        Ok(None)
                    }
                    written => written.map(|()| Some(session)).context(|| "talk to the container's monitor"),
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error).context(|| format!("connect to {}", directory.socket().display())),
        }
    }

    /// Sends one frame, blocking.
    pub(crate) fn send(&mut self, kind: Type, payload: &[u8]) -> Result<()> {
        let mut bytes = Vec::new();
        frames::put(&mut bytes, kind, payload);
        self.stream.write_all(&bytes).context(|| "talk to the container's monitor")
    }

    /// Waits until the container runs. Output that comes with the news stays for [`Session::attach`], and signals are
    /// passed on as they come: the monitor hears of them once there is somebody who gets them. An error means that the
    /// monitor died.
    pub(crate) fn await_start(&mut self, signals: Option<&Signals>) -> Result<Birth> {
        loop {
            if let Some((frame, length)) = frames::first(&self.received)? {
                return match frame.kind {
                    Type::Started => {
                        self.received.drain(..length);
                        Ok(Birth::Runs)
                    }
                    Type::Failed => Ok(Birth::Failed(frames::failure(frame.payload))),
                    _ => Err(nonsense()),
                };
            }
            if let Some(signals) = signals {
                let (news, asked) = (self.stream.as_fd(), signals.as_fd());
                relay::wait(&mut [news, asked].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)))?;
                while let Some(asked) = signals.next() {
                    match asked {
                        // It is told our size when it is attached to.
                        Asked::Resize => {}
                        Asked::PassOn(number) => self.send(Type::Signal, &[number])?,
                        Asked::PassOnAndLeave(_) => return Ok(Birth::NotAwaited),
                    }
                }
                self.receive_some()?;
            } else {
                self.receive()?;
            }
        }
    }

    /// Waits for the container's end. `None` means that the monitor died.
    pub(crate) fn await_end(&mut self) -> Result<Option<Ended>> {
        loop {
            while let Some((frame, length)) = frames::first(&self.received)? {
                if frame.kind == Type::Exited {
                    return Ok(Some(serde_json::from_slice(frame.payload)?));
                }
                self.received.drain(..length);
            }
            match self.receive() {
                Err(error) if error.kind == Kind::NotFound => return Ok(None),
                other => other?,
            }
        }
    }

    /// Whether the container has ended, or the monitor: to be asked when something has come.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        match self.receive_some() {
            Err(error) if error.kind == Kind::NotFound => return Ok(true),
            other => other?,
        }
        while let Some((frame, length)) = frames::first(&self.received)? {
            if frame.kind == Type::Exited {
                return Ok(true);
            }
            self.received.drain(..length);
        }
        Ok(false)
    }

    /// Reads more, blocking. The end of the stream is an error of kind `NotFound`.
    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0_u8; 4096];
        let count = match self.stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            other => other.context(|| "listen to the container's monitor")?,
        };
        self.received.extend_from_slice(&buffer[..count]);
        if count == 0 { Err(gone()) } else { Ok(()) }
    }

    /// Connects the user's streams to the container's until it ends or the user detaches. Signals that have come since
    /// they were taken are passed on too.
    pub(crate) fn attach(mut self, signals: &Signals, manner: Manner) -> Result<Outcome> {
        let Manner { terminal: has_terminal, stdin: with_stdin, keys } = manner;
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let (mut out, mut err) = (Outlet::to(&stdout)?, Outlet::to(&stderr)?);
        let raw = has_terminal && with_stdin && isatty(&stdin);
        let _raw = raw.then(|| Raw::enter(stdin.as_fd())).transpose()?;
        let mut keys = KeyFilter::new(keys);
        let mut to_send = Vec::new();
        let mut input_open = with_stdin;
        if has_terminal {
            put_size(&mut to_send);
        }
        loop {
            if let Some(ended) = self.sort(&mut out, &mut err)? {
                out.finish()?;
                err.finish()?;
                return Ok(Outcome::Exited(ended));
            }
            let flags = |wanted: bool, flags| if wanted { flags } else { PollFlags::empty() };
            let keeps_up = out.is_empty() && err.is_empty();
            let reads_input = input_open && to_send.len() < MAX_INPUT;
            let socket = flags(keeps_up, PollFlags::IN) | flags(!to_send.is_empty(), PollFlags::OUT);
            let idle = signals.as_fd();
            let mut fds = [
                relay::watch_if(true, Some(idle), PollFlags::IN, idle),
                relay::watch_if(!socket.is_empty(), Some(self.stream.as_fd()), socket, idle),
                relay::watch_if(reads_input, Some(stdin.as_fd()), PollFlags::IN, idle),
                relay::watch_if(!out.is_empty(), Some(out.as_fd()), PollFlags::OUT, idle),
                relay::watch_if(!err.is_empty(), Some(err.as_fd()), PollFlags::OUT, idle),
            ];
            relay::wait(&mut fds)?;
            let ready = fds.map(|fd| !fd.revents().is_empty());
            while let Some(asked) = signals.next() {
                match asked {
                    Asked::Resize if has_terminal => put_size(&mut to_send),
                    Asked::Resize => {}
                    Asked::PassOn(number) => frames::put(&mut to_send, Type::Signal, &[number]),
                    Asked::PassOnAndLeave(number) => {
                        frames::put(&mut to_send, Type::Signal, &[number]);
                        self.send_some(&mut to_send)?;
                        return Ok(Outcome::Left);
                    }
                }
            }
            if ready[2] && reads_input {
                let mut buffer = [0_u8; relay::CHUNK];
                match relay::read_some(&stdin, &mut buffer)? {
                    None => {}
                    Some(0) => {
                        input_open = false;
                        frames::put(&mut to_send, Type::EndOfInput, &[]);
                    }
                    Some(count) => {
                        let mut typed = Vec::new();
                        let detached = if raw {
                            keys.filter(&buffer[..count], &mut typed)
                        } else {
                            typed.extend_from_slice(&buffer[..count]);
                            false
                        };
                        if !typed.is_empty() {
                            frames::put(&mut to_send, Type::Stdin, &typed);
                        }
                        if detached {
                            self.send_some(&mut to_send)?;
                            return Ok(Outcome::Detached);
                        }
                    }
                }
            }
            if !to_send.is_empty() {
                self.send_some(&mut to_send)?;
            }
            if ready[1] && keeps_up {
                self.receive_some()?;
            }
            if ready[3] && !out.is_empty() {
                out.flush()?;
            }
            if ready[4] && !err.is_empty() {
                err.flush()?;
            }
        }
    }

    /// Gives output that has come to the outlets. Stops at the news of the end.
    fn sort(&mut self, out: &mut Outlet, err: &mut Outlet) -> Result<Option<Ended>> {
        let mut done = 0;
        let mut ended = None;
        while let Some((frame, length)) = frames::first(&self.received[done..])? {
            done += length;
            match frame.kind {
                Type::Stdout => out.push(frame.payload),
                Type::Stderr => err.push(frame.payload),
                Type::Skipped => {
                    let count = frame.payload.try_into().map(u64::from_le_bytes).unwrap_or_default();
                    err.push(format!("[shim: {count} bytes skipped, the log has them]\n").as_bytes());
                }
                Type::Started => {}
                Type::Failed => return Err(frames::failure(frame.payload)),
                Type::Exited => {
                    ended = Some(serde_json::from_slice(frame.payload)?);
                    break;
                }
                _ => return Err(nonsense()),
            }
        }
        self.received.drain(..done);
        Ok(ended)
    }

    fn receive_some(&mut self) -> Result<()> {
        let mut buffer = [0_u8; relay::CHUNK];
        match recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Err(gone()),
            Ok((count, _)) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno).context(|| "listen to the container's monitor"),
        }
    }

    fn send_some(&self, to_send: &mut Vec<u8>) -> Result<()> {
        match send(&self.stream, to_send, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => {
                to_send.drain(..count);
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            // What it said before it went is still to be read.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {
                to_send.clear();
                Ok(())
            }
            Err(errno) => Err(errno).context(|| "talk to the container's monitor"),
        }
    }
}

fn put_size(to_send: &mut Vec<u8>) {
    if let Some((rows, columns)) = terminal::size() {
        frames::put(to_send, Type::Resize, &frames::size_payload(rows, columns));
    }
}

/// The monitor has hung up without a word.
fn gone() -> Error {
    let text = "the container's monitor is gone: shim ps shows what became of the container";
    Error::new(Kind::NotFound, text)
}

fn nonsense() -> Error {
    Error::other("the container's monitor talks nonsense")
}
