//! The monitor's event loop.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{Errno, read, write};
use rustix::process::{Signal, pidfd_send_signal};

use super::Newborn;
use super::client::{Client, Request};
use super::door::Door;
use crate::error::{Context, Result};
use crate::io::console;
use crate::io::log::{Log, Stream};
use crate::reap::{self, Exit};
use crate::runtime::Runtime;
use crate::solo::directory::Directory;
use crate::solo::frames::Type;
use crate::solo::record::Options;

/// How much is read of a stream at once.
const CHUNK: usize = 16 * 1024;
/// How much input may wait for the container before clients have to wait.
const MAX_INPUT: usize = 64 * 1024;
/// How long a pipe that somebody holds open keeps us after the container's end.
const LINGER: Duration = Duration::from_secs(5);
/// How long clients may take to read what is left at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Names of what the event loop watches; clients come after.
const SIGNALS: u64 = 0;
pub(super) const LISTENER: u64 = 1;
const INIT: u64 = 2;
const STDIN: u64 = 3;
const STDOUT: u64 = 4;
const STDERR: u64 = 5;
const FIRST_CLIENT: u64 = 6;

/// The state of one container's watch.
#[derive(Debug)]
pub(super) struct Monitor {
    epoll: OwnedFd,
    signals: SignalFd,
    door: Door,
    pidfd: OwnedFd,
    pid: u32,
    name: String,
    runtime: Runtime,
    terminal: bool,
    owns_pids: bool,
    stdin: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
    log: Log,
    clients: Vec<Option<Client>>,
    /// Input that the container has not read yet.
    input: Vec<u8>,
    /// Whether the container's stdin ends with the waiting input.
    input_ends: bool,
    /// Whether the init has ended: what it left behind is read without regard to anybody.
    draining: bool,
}

impl Monitor {
    pub(super) fn new(directory: &Directory, options: &Options, born: Newborn, starter: Client) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context(|| "make an event loop")?;
        let mut set = SigSet::empty();
        // The end of a session, or of the machine, is for the container to obey; we stay and record it.
        for signal in [NixSignal::SIGCHLD, NixSignal::SIGTERM, NixSignal::SIGINT, NixSignal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().context(|| "block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let mut monitor = Self {
            door: Door::new(born.listener, &epoll)?,
            epoll,
            signals: signals.context(|| "make a signal descriptor")?,
            pidfd: born.pidfd,
            pid: born.state.pid,
            name: directory.name.clone(),
            runtime: directory.runtime(options),
            terminal: options.terminal,
            owns_pids: options.owns_pids,
            stdin: born.streams.stdin,
            outputs: [born.streams.stdout, born.streams.stderr],
            log: born.log,
            clients: Vec::new(),
            input: Vec::new(),
            input_ends: false,
            draining: false,
        };
        let watch = |fd, token, flags| {
            let data = EventData::new_u64(token);
            epoll::add(&monitor.epoll, fd, data, flags).context(|| "watch a descriptor")
        };
        watch(monitor.signals.as_fd(), SIGNALS, EventFlags::IN)?;
        watch(monitor.pidfd.as_fd(), INIT, EventFlags::IN)?;
        for (token, output) in [(STDOUT, &monitor.outputs[0]), (STDERR, &monitor.outputs[1])] {
            if let Some(output) = output {
                watch(output.as_fd(), token, EventFlags::IN)?;
            }
        }
        if let Some(stdin) = &monitor.stdin {
            // A terminal's master is watched for output already; a duplicate has a place of its own.
            watch(stdin.as_fd(), STDIN, EventFlags::empty())?;
        }
        monitor.admit(starter)?;
        // Its greeting came before we did: it must count before the first output does.
        monitor.serve_client(0, false);
        Ok(monitor)
    }

    /// Serves until the container has ended and its output is read to the end.
    pub(super) fn serve(&mut self) -> Result<Exit> {
        let mut exit = None;
        let mut deadline = None;
        loop {
            if exit.is_some() && self.outputs.iter().all(Option::is_none) {
                break;
            }
            let Some(events) = self.wait(deadline)? else {
                break;
            };
            for (token, flags) in events {
                if token == INIT {
                    exit = reap::collect(self.pidfd.as_fd())?;
                    if exit.is_some() {
                        deadline = Some(Instant::now() + LINGER);
                        self.init_ended()?;
                    }
                } else {
                    self.handle(token, flags)?;
                }
            }
        }
        self.log.finish();
        Ok(exit.unwrap_or_else(Exit::unknown))
    }

    /// Waits for events. `None` means that the deadline has passed.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<Option<Vec<(u64, EventFlags)>>> {
        let first = deadline.into_iter().chain(self.door.retry()).min();
        let left = first.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let empty = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [empty; 16];
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(Some(Vec::new())),
            other => other.context(|| "wait for events")?,
        };
        if self.door.retry().is_some_and(|retry| retry <= Instant::now()) {
            self.door.open(&self.epoll);
        } else if count == 0 && deadline.is_some() {
            return Ok(None);
        }
        Ok(Some(events[..count].iter().map(|event| (event.data.u64(), event.flags)).collect()))
    }

    fn handle(&mut self, token: u64, flags: EventFlags) -> Result<()> {
        match token {
            SIGNALS => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                // No runtime is at work while the loop turns, so every unknown child is an orphan.
                reap::sweep(|pid| pid == self.pid);
                Ok(())
            }
            LISTENER => {
                let present = self.clients.iter().flatten().count();
                if let Some(stream) = self.door.accept(&self.epoll, present) {
                    // One that cannot be served is turned away; the container goes on.
                    let _: Result<()> = Client::new(stream, false).and_then(|client| self.admit(client));
                }
                Ok(())
            }
            STDIN => {
                self.write_input()?;
                // Requests that had to wait for room have come already: no event will tell.
                for slot in 0..self.clients.len() {
                    self.serve_client(slot, false);
                }
                Ok(())
            }
            STDOUT | STDERR => self.read_output((token - STDOUT) as usize),
            _ => {
                let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
                self.serve_client((token - FIRST_CLIENT) as usize, gone);
                Ok(())
            }
        }
    }

    fn admit(&mut self, client: Client) -> Result<()> {
        let slot = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        let data = EventData::new_u64(FIRST_CLIENT + slot as u64);
        epoll::add(&self.epoll, client.fd(), data, EventFlags::IN).context(|| "watch a client")?;
        if slot == self.clients.len() {
            self.clients.push(None);
        }
        self.clients[slot] = Some(client);
        Ok(())
    }

    /// Hears and answers one client. Trouble with a client is the client's.
    fn serve_client(&mut self, slot: usize, gone: bool) {
        let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if self.converse(&mut client, gone).unwrap_or(false) {
            self.clients[slot] = Some(client);
            self.refresh(slot);
        } else {
            self.dismiss(&client);
        }
    }

    /// Obeys what the client has asked for so far. `false` means that it has gone; its last words count.
    fn converse(&mut self, client: &mut Client, gone: bool) -> Result<bool> {
        let mut alive = true;
        if gone {
            while client.receive()? {}
            alive = false;
        } else if self.takes_input() {
            alive = client.receive()?;
        }
        while (self.takes_input() || !alive)
            && let Some(request) = client.next_request()?
        {
            self.obey(client, request)?;
        }
        Ok(alive && client.flush()?)
    }

    fn takes_input(&self) -> bool {
        self.input.len() < MAX_INPUT
    }

    fn obey(&mut self, client: &mut Client, request: Request) -> Result<()> {
        match request {
            Request::Hello => client.tell(Type::Started, &self.pid.to_le_bytes()),
            Request::Stdin(bytes) => {
                if self.stdin.is_some() && !self.input_ends {
                    self.input.extend_from_slice(&bytes);
                    self.write_input()?;
                }
            }
            // Only whoever ran the container decides that there is no more input.
            Request::EndOfInput if client.is_foreground() => self.end_input()?,
            Request::EndOfInput => {}
            Request::Resize { rows, columns } => {
                if let Some(master) = self.outputs[0].as_ref().filter(|_| self.terminal) {
                    console::resize(master, rows, columns)?;
                }
            }
            Request::Signal(number) => self.signal(number),
        }
        Ok(())
    }

    fn signal(&self, number: u8) {
        if let Some(signal) = Signal::from_named_raw(number.into()) {
            // It may have ended already.
            let _: rustix::io::Result<()> = pidfd_send_signal(&self.pidfd, signal);
        } else {
            // Real-time signals have no name, but the runtime takes numbers.
            let _: Result<_> = self.runtime.call("kill").arg(&self.name).arg(number.to_string()).run();
        }
    }

    /// Forgets a client that has gone.
    fn dismiss(&mut self, client: &Client) {
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, client.fd());
        if client.is_foreground() && !self.terminal {
            // As with a shell's pipe, a program that reads from whoever ran it ends with it.
            let _: Result<()> = self.end_input();
        }
        self.door.open(&self.epoll);
        self.adjust();
    }

    /// Watches a client for what can be done with it now.
    fn refresh(&self, slot: usize) {
        let Some(client) = self.clients.get(slot).and_then(Option::as_ref) else {
            return;
        };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.takes_input());
        flags.set(EventFlags::OUT, client.has_output());
        let data = EventData::new_u64(FIRST_CLIENT + slot as u64);
        let _: rustix::io::Result<()> = epoll::modify(&self.epoll, client.fd(), data, flags);
        if client.is_foreground() {
            self.adjust();
        }
    }

    /// Reads the outputs, or does not while the starter does not keep up.
    fn adjust(&self) {
        let held_up = !self.draining && self.clients.iter().flatten().any(Client::holds_up);
        let flags = if held_up { EventFlags::empty() } else { EventFlags::IN };
        for (token, output) in [(STDOUT, &self.outputs[0]), (STDERR, &self.outputs[1])] {
            if let Some(output) = output {
                let _: rustix::io::Result<()> = epoll::modify(&self.epoll, output, EventData::new_u64(token), flags);
            }
        }
    }

    /// Moves what the container has written to the log and the clients.
    fn read_output(&mut self, index: usize) -> Result<()> {
        let Some(output) = &self.outputs[index] else {
            return Ok(());
        };
        let mut buffer = [0_u8; CHUNK];
        let count = match read(output, &mut buffer[..]) {
            Ok(count) => count,
            // A terminal that is closed everywhere says EIO.
            Err(Errno::IO) => 0,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).context(|| "read the container's output"),
        };
        if count == 0 {
            self.close_output(index);
            return Ok(());
        }
        let bytes = &buffer[..count];
        let (stream, kind) = if index == 0 { (Stream::Stdout, Type::Stdout) } else { (Stream::Stderr, Type::Stderr) };
        self.log.write(stream, bytes);
        for slot in 0..self.clients.len() {
            let Some(client) = &mut self.clients[slot] else {
                continue;
            };
            client.output(kind, bytes);
            if client.flush().unwrap_or(false) {
                self.refresh(slot);
            } else if let Some(client) = self.clients[slot].take() {
                self.dismiss(&client);
            }
        }
        Ok(())
    }

    fn close_output(&mut self, index: usize) {
        if let Some(output) = self.outputs[index].take() {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &output);
        }
    }

    /// Gives the container as much of the waiting input as it takes.
    fn write_input(&mut self) -> Result<()> {
        let Some(stdin) = &self.stdin else {
            return Ok(());
        };
        let mut written = 0;
        let mut gone = false;
        while written < self.input.len() {
            match write(stdin, &self.input[written..]) {
                Ok(count) => written += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::IO) => {
                    gone = true;
                    break;
                }
                Err(errno) => return Err(errno).context(|| "write the container's input"),
            }
        }
        self.input.drain(..written);
        if gone || (self.input.is_empty() && self.input_ends) {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, stdin);
            self.stdin = None;
            self.input.clear();
        } else {
            let flags = if self.input.is_empty() { EventFlags::empty() } else { EventFlags::OUT };
            let modified = epoll::modify(&self.epoll, stdin, EventData::new_u64(STDIN), flags);
            modified.context(|| "watch the container's input")?;
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        for slot in 0..self.clients.len() {
            self.refresh(slot);
        }
        Ok(())
    }

    /// Ends the container's stdin after what still waits. A terminal has no end.
    fn end_input(&mut self) -> Result<()> {
        if self.terminal {
            return Ok(());
        }
        self.input_ends = true;
        self.write_input()
    }

    /// The init has been collected: nothing new comes, only what is left in the pipes.
    fn init_ended(&mut self) -> Result<()> {
        epoll::delete(&self.epoll, &self.pidfd).context(|| "forget the init")?;
        self.draining = true;
        if !self.owns_pids {
            // The others outlive their init and would hold its streams open.
            let _: Result<_> = self.runtime.call("kill").args(["--all", &self.name, "KILL"]).run();
        }
        self.adjust();
        Ok(())
    }

    /// Stops watching everything but clients: what nobody answers would keep the loop spinning.
    fn turn_away(&mut self) {
        self.door.close(&self.epoll);
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &self.signals);
        for index in 0..self.outputs.len() {
            self.close_output(index);
        }
    }

    /// Tells every client how the container ended, once it has read what came before.
    pub(super) fn take_leave(&mut self, ended: &[u8]) -> Result<()> {
        self.turn_away();
        for slot in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[slot] {
                client.tell(Type::Exited, ended);
                self.serve_client(slot, false);
            }
        }
        let deadline = Instant::now() + FAREWELL;
        while self.clients.iter().flatten().any(Client::has_output) {
            let Some(events) = self.wait(Some(deadline))? else {
                break;
            };
            for (token, flags) in events.into_iter().filter(|&(token, _)| token >= FIRST_CLIENT) {
                self.handle(token, flags)?;
            }
        }
        Ok(())
    }
}
