//! The monitor's event loop.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::birth::{Born, Home};
use super::client::Client;
use super::door::Door;
use super::vitals::Vitals;
use crate::error::{Context, Result};
use crate::io::events;
use crate::io::intake::{CALM, Intake};
use crate::io::log::room::Room;
use crate::io::log::{Log, Stream};
use crate::oom::OomWatch;
use crate::reap::{self, Exit};
use crate::runtime::Runtime;
use crate::solo::directory::Directory;
use crate::solo::frames::Type;
use crate::solo::record::Options;
use crate::solo::sdnotify::Herald;

/// How long a pipe that somebody holds open keeps us after the container's end.
const LINGER: Duration = Duration::from_secs(5);
/// How often they are read after that: what was in them is read by then. Who goes on writing is not waited for.
const LAST_READS: usize = 128;
/// How long clients may take to read what is left at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Names of what the event loop watches; clients come after.
pub(super) const SIGNALS: u64 = 0;
pub(super) const LISTENER: u64 = 1;
pub(super) const INIT: u64 = 2;
pub(super) const STDIN: u64 = 3;
pub(super) const STDOUT: u64 = 4;
pub(super) const STDERR: u64 = 5;
pub(super) const HEALTH: u64 = 6;
pub(super) const NOTIFY: u64 = 7;
pub(super) const OOM: u64 = 8;
pub(super) const JOURNAL: u64 = 9;
pub(super) const FIRST_CLIENT: u64 = 10;

/// The state of one container's watch.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) epoll: OwnedFd,
    pub(super) signals: SignalFd,
    pub(super) door: Door,
    pub(super) pidfd: OwnedFd,
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) runtime: Runtime,
    pub(super) terminal: bool,
    pub(super) owns_pids: bool,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) outputs: [Option<OwnedFd>; 2],
    pub(super) log: Log,
    pub(super) room: Room,
    pub(super) intake: Intake,
    pub(super) clients: Vec<Option<Client>>,
    /// Input that the container has not read yet.
    pub(super) input: Vec<u8>,
    /// Whether the container's stdin is watched for room.
    pub(super) input_waits: bool,
    /// Whether the container's stdin ends with the waiting input.
    pub(super) input_ends: bool,
    /// Whether somebody has said that it is not to be run again.
    pub(super) stopped: bool,
    /// Whether the init has ended: what it left behind is read without regard to anybody.
    pub(super) draining: bool,
    /// When its health is checked, if it is.
    pub(super) vitals: Option<Vitals>,
    pub(super) herald: Herald,
    /// The watch over the memory of this run.
    oom: Option<OomWatch>,
    /// Whether the kernel has killed in this run for want of memory.
    oom_killed: bool,
}

impl Monitor {
    pub(super) fn new(
        directory: &Directory,
        options: &Options,
        home: Home,
        born: Born,
        starter: Client,
    ) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context(|| "make an event loop")?;
        let mut set = SigSet::empty();
        // The end of a session, or of the machine, is for the container to obey; we stay and record it.
        for signal in [NixSignal::SIGCHLD, NixSignal::SIGTERM, NixSignal::SIGINT, NixSignal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().context(|| "block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let mut monitor = Self {
            door: Door::new(home.listener, &epoll)?,
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
            log: home.log,
            room: Room::default(),
            intake: Intake::default(),
            clients: Vec::new(),
            input: Vec::new(),
            input_waits: false,
            input_ends: false,
            stopped: false,
            draining: false,
            vitals: options.health.clone().map(|health| Vitals::of(directory, health)),
            herald: home.herald,
            oom: born.oom,
            oom_killed: false,
        };
        monitor.watch(monitor.signals.as_fd(), SIGNALS, EventFlags::IN)?;
        monitor.watch_container()?;
        if let Some(socket) = monitor.herald.socket() {
            monitor.watch(socket, NOTIFY, EventFlags::IN)?;
        }
        monitor.herald.started();
        monitor.admit(starter)?;
        // Its greeting came before we did: it must count before the first output does.
        monitor.serve_client(0, false);
        Ok(monitor)
    }

    fn watch(&self, fd: impl AsFd, token: u64, flags: EventFlags) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token), flags).context(|| "watch a descriptor")
    }

    fn watch_container(&self) -> Result<()> {
        self.watch(&self.pidfd, INIT, EventFlags::IN)?;
        for (token, output) in [(STDOUT, &self.outputs[0]), (STDERR, &self.outputs[1])] {
            if let Some(output) = output {
                self.watch(output, token, EventFlags::IN)?;
            }
        }
        if let Some(stdin) = &self.stdin {
            // A terminal's master is watched for output already; a duplicate has a place of its own.
            // That nobody has it open any more is told once: it stays so, and nobody can do anything about it.
            self.watch(stdin, STDIN, EventFlags::ET)?;
        }
        if let Some(oom) = &self.oom {
            self.watch(oom, OOM, EventFlags::IN)?;
        }
        Ok(())
    }

    /// Whether somebody has said that the container is not to be run again.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Serves clients while no container runs. `false` means that none is to be run again.
    pub(super) fn rest(&mut self, pause: Duration) -> Result<bool> {
        let deadline = Instant::now() + pause;
        while !self.stopped {
            let Some(events) = self.wait(Some(deadline))? else {
                return Ok(true);
            };
            for (token, flags) in events {
                self.handle(token, flags)?;
            }
        }
        Ok(false)
    }

    /// Takes over the next run of the container.
    pub(super) fn renew(&mut self, born: Born) -> Result<()> {
        if let Some(stdin) = self.stdin.take() {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &stdin);
        }
        (0..self.outputs.len()).for_each(|index| self.close_output(index));
        (self.pidfd, self.pid) = (born.pidfd, born.state.pid);
        (self.oom, self.oom_killed) = (born.oom, false);
        (self.stdin, self.input_waits) = (born.streams.stdin, false);
        self.outputs = [born.streams.stdout, born.streams.stderr];
        self.draining = false;
        self.vitals.iter_mut().for_each(Vitals::restart);
        self.watch_container()?;
        let pid = self.pid.to_le_bytes();
        self.clients.iter_mut().flatten().for_each(|client| client.tell(Type::Started, &pid));
        // Whoever ended the input of the run before will not do so again.
        self.write_input()
    }

    /// Adds a line of our own to the log and the clients' output.
    pub(super) fn note(&mut self, line: &str) {
        self.log.write(Stream::Stderr, line.as_bytes());
        self.clients.iter_mut().flatten().for_each(|client| client.output(Type::Stderr, line.as_bytes()));
    }

    /// Serves until the container has ended and its output is read to the end. Returns how it ended, and whether the kernel
    /// killed in it for want of memory.
    pub(super) fn serve(&mut self) -> Result<(Exit, bool)> {
        let mut exit = None;
        let mut deadline: Option<Instant> = None;
        let mut late = 0;
        loop {
            // A check that is at work ends with the container.
            if exit.is_some() && self.outputs.iter().all(Option::is_none) && !self.is_checking() {
                break;
            }
            let Some(events) = self.wait(deadline)? else {
                break;
            };
            late = if deadline.is_some_and(|deadline| deadline <= Instant::now()) { late + 1 } else { 0 };
            if late > LAST_READS {
                break;
            }
            for (token, flags) in events {
                if token == INIT {
                    exit = reap::collect(self.pidfd.as_fd())?;
                    if exit.is_some() {
                        deadline = Some(Instant::now() + LINGER);
                        self.init_ended()?;
                    }
                } else {
                    if token == JOURNAL && exit.is_some() {
                        // It takes what is left, slow as it may be.
                        deadline = Some(Instant::now() + LINGER);
                    }
                    self.handle(token, flags)?;
                }
            }
        }
        self.end_check();
        self.log.finish();
        self.follow_log();
        Ok((exit.unwrap_or_else(Exit::unknown), self.oom_killed))
    }

    /// Waits for events. `None` means that the deadline has passed.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<Option<Vec<(u64, EventFlags)>>> {
        let check = self.vitals.as_ref().and_then(Vitals::due);
        let first = deadline.into_iter().chain(self.door.retry()).chain(check).min();
        let left = first.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.into_iter().chain(self.intake.is_flooded().then_some(CALM)).min();
        let Some(events) = events::wait(&self.epoll, left)? else {
            return Ok(Some(Vec::new()));
        };
        if events.is_empty() {
            self.intake.calm(self.outputs.iter().flatten());
            self.log.calm();
        }
        if self.door.retry().is_some_and(|retry| retry <= Instant::now()) {
            self.door.open(&self.epoll);
        } else if events.is_empty() && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(None);
        }
        self.check_health();
        Ok(Some(events))
    }

    fn handle(&mut self, token: u64, flags: EventFlags) -> Result<()> {
        match token {
            SIGNALS => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                // No runtime is at work while the loop turns, so every unknown child is an orphan.
                reap::sweep(|pid| pid == self.pid || self.vitals.as_ref().is_some_and(|vitals| vitals.is_probe(pid)));
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
            HEALTH => {
                self.health_checked();
                Ok(())
            }
            NOTIFY => {
                self.herald.relay();
                Ok(())
            }
            JOURNAL => {
                self.log.resume();
                self.follow_log();
                Ok(())
            }
            OOM => {
                self.check_memory();
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

    /// The init has been collected: nothing new comes, only what is left in the pipes.
    fn init_ended(&mut self) -> Result<()> {
        epoll::delete(&self.epoll, &self.pidfd).context(|| "forget the init")?;
        self.draining = true;
        self.check_no_more();
        self.check_memory();
        // From here on it would tell of the cgroup's removal.
        self.oom = None;
        if !self.owns_pids {
            // The others outlive their init and would hold its streams open.
            let _: Result<_> = self.runtime.call("kill").args(["--all", &self.name, "KILL"]).run();
        }
        self.adjust();
        Ok(())
    }

    fn check_memory(&mut self) {
        self.oom_killed |= self.oom.as_mut().is_some_and(OomWatch::check);
    }

    /// Stops watching everything but clients: what nobody answers would keep the loop spinning.
    fn turn_away(&mut self) {
        self.door.close(&self.epoll);
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &self.signals);
        if let Some(socket) = self.herald.socket() {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, socket);
        }
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
