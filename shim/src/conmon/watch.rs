//! conmon's event loop: from the container's birth to its end.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{Errno, read, write};
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Pid, Signal, getpgid, kill_process_group, pidfd_send_signal};

use super::birth::Born;
use super::client::{Client, Heard};
use super::control::{Fifo, Order};
use super::notify::Notify;
use super::say::Say;
use crate::cgroup::Cgroup;
use crate::error::{Context, Result};
use crate::io::console;
use crate::io::log::{Log, Stream};
use crate::oom::OomWatch;
use crate::reap::{self, Exit};

/// How much is read of a stream at once.
const CHUNK: usize = 16 * 1024;
/// How much input may wait for the container before clients have to wait.
const MAX_INPUT: usize = 64 * 1024;
/// The most clients at a time; others wait in the socket's queue.
const MOST_CLIENTS: usize = 256;

/// Names of what the event loop watches; clients come after.
const SIGNALS: u64 = 0;
const LISTENER: u64 = 1;
const INIT: u64 = 2;
const STDIN: u64 = 3;
const STDOUT: u64 = 4;
const STDERR: u64 = 5;
const CONTROL: u64 = 6;
const WINDOW_SIZE: u64 = 7;
const NOTIFY: u64 = 8;
const OOM: u64 = 9;
const FIRST_CLIENT: u64 = 10;

/// What the caller reaches the container by, if it wants to.
#[derive(Debug, Default)]
pub(super) struct Doors {
    pub(super) attach: Option<OwnedFd>,
    pub(super) fifos: Vec<Fifo>,
    pub(super) notify: Option<Notify>,
}

/// How the container behaves towards those at its doors.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) terminal: bool,
    pub(super) leave_stdin_open: bool,
    /// How long the container may live.
    pub(super) timeout: Option<Duration>,
    /// Where `oom` is made when the kernel killed for want of memory.
    pub(super) oom_dirs: Vec<PathBuf>,
}

/// How a watch ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Exited(Exit),
    /// Its time was up, and it was killed.
    TimedOut,
}

/// The state of a watch.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    epoll: OwnedFd,
    signals: &'a SignalFd,
    say: &'a Say,
    manner: Manner,
    born: Born,
    /// Whether the terminal's other side is closed for now: then only changes are waited for.
    hung: bool,
    logs: Vec<Log>,
    doors: Doors,
    oom: Option<OomWatch>,
    clients: Vec<Option<Client>>,
    /// Input that the container has not read yet.
    input: Vec<u8>,
    /// Whether the container's stdin ends with the waiting input.
    input_ends: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        born: Born,
        doors: Doors,
        logs: Vec<Log>,
        manner: Manner,
        signals: &'a SignalFd,
        say: &'a Say,
    ) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context(|| "make an event loop")?;
        let oom = Cgroup::of(born.pid).ok().and_then(|cgroup| OomWatch::open(&cgroup));
        let (input, clients) = (Vec::new(), Vec::new());
        let mut watch = Self {
            epoll,
            signals,
            say,
            manner,
            born,
            hung: false,
            logs,
            doors,
            oom,
            clients,
            input,
            input_ends: false,
        };
        watch.add(signals, SIGNALS, EventFlags::IN)?;
        watch.add(&watch.born.pidfd, INIT, EventFlags::IN)?;
        for (token, output) in [(STDOUT, &watch.born.stdout), (STDERR, &watch.born.stderr)] {
            if let Some(output) = output {
                watch.add(output, token, EventFlags::IN)?;
            }
        }
        if let Some(stdin) = &watch.born.stdin {
            watch.add(stdin, STDIN, EventFlags::empty())?;
        }
        if let Some(listener) = &watch.doors.attach {
            watch.add(listener, LISTENER, EventFlags::IN)?;
        }
        for (token, fifo) in (CONTROL..).zip(&watch.doors.fifos) {
            watch.add(fifo, token, EventFlags::IN)?;
        }
        if let Some(notify) = &watch.doors.notify {
            watch.add(notify, NOTIFY, EventFlags::IN)?;
        }
        if let Some(oom) = &watch.oom {
            watch.add(oom, OOM, EventFlags::IN)?;
        }
        // Who has come already must not miss the first output.
        while watch.admit()? {}
        Ok(watch)
    }

    fn add(&self, fd: impl AsFd, token: u64, flags: EventFlags) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token), flags).context(|| "watch a descriptor")
    }

    fn modify(&self, fd: impl AsFd, token: u64, flags: EventFlags) {
        let _: rustix::io::Result<()> = epoll::modify(&self.epoll, fd, EventData::new_u64(token), flags);
    }

    /// Serves until the container has ended and what it wrote is in the logs.
    pub(super) fn serve(&mut self) -> Result<End> {
        let deadline = self.manner.timeout.map(|timeout| Instant::now() + timeout);
        let end = loop {
            let Some(events) = self.wait(deadline)? else {
                self.kill();
                break End::TimedOut;
            };
            let mut exit = None;
            for (token, flags) in events {
                // In the order of their names: who comes gets what is written at the same time.
                if token == INIT {
                    exit = reap::collect(self.born.pidfd.as_fd())?;
                } else {
                    self.handle(token, flags)?;
                }
            }
            if let Some(exit) = exit {
                break End::Exited(exit);
            }
        };
        while self.admit()? {}
        // What is there is all there is: others may hold a pipe open for ever.
        for index in [0, 1] {
            while self.read_output(index)? {}
        }
        self.check_oom();
        for log in &mut self.logs {
            log.finish();
        }
        Ok(end)
    }

    /// Waits for events. `None` means that the deadline has passed.
    fn wait(&self, deadline: Option<Instant>) -> Result<Option<Vec<(u64, EventFlags)>>> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let empty = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [empty; 16];
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(Some(Vec::new())),
            other => other.context(|| "wait for events")?,
        };
        if count == 0 && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(None);
        }
        let mut events: Vec<_> = events[..count].iter().map(|event| (event.data.u64(), event.flags)).collect();
        events.sort_unstable_by_key(|&(token, _)| token);
        Ok(Some(events))
    }

    fn handle(&mut self, token: u64, flags: EventFlags) -> Result<()> {
        match token {
            SIGNALS => self.obey_signals(),
            LISTENER => {
                self.admit()?;
            }
            STDIN => {
                self.write_input();
                self.refresh_all();
            }
            STDOUT | STDERR => {
                self.read_output((token - STDOUT) as usize)?;
            }
            CONTROL | WINDOW_SIZE => {
                for order in self.doors.fifos[(token - CONTROL) as usize].read() {
                    self.obey(order);
                }
            }
            NOTIFY => {
                if let Some(notify) = &self.doors.notify {
                    notify.relay();
                }
            }
            OOM => self.check_oom(),
            _ => self.serve_client((token - FIRST_CLIENT) as usize, flags),
        }
        Ok(())
    }

    /// Whoever asks conmon to go means the container.
    fn obey_signals(&self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::from_named_raw(signal.ssi_signo as i32) {
                Some(Signal::CHILD) | None => {}
                Some(signal) => {
                    let _: rustix::io::Result<()> = pidfd_send_signal(&self.born.pidfd, signal);
                }
            }
        }
        // No runtime is at work while the loop turns, so every unknown child is an orphan.
        reap::sweep(|pid| pid == self.born.pid);
    }

    fn obey(&mut self, order: std::result::Result<Order, String>) {
        match order {
            Ok(Order::Resize { rows, columns }) => {
                if let Some(master) = self.born.stdout.as_ref().filter(|_| self.manner.terminal)
                    && let Err(error) = console::resize(master, rows, columns)
                {
                    self.say.warn(error.text());
                }
            }
            Ok(Order::ReopenLogs) => self.logs.iter_mut().for_each(Log::reopen),
            Err(line) => self.say.warn(&format!("Invalid control message: {line:?}")),
        }
    }

    fn check_oom(&mut self) {
        if !self.oom.as_mut().is_some_and(OomWatch::check) {
            return;
        }
        for dir in &self.manner.oom_dirs {
            if let Err(error) = std::fs::File::create(dir.join("oom")) {
                self.say.warn(&format!("Failed to write oom file to the {} path: {error}", dir.display()));
            }
        }
    }

    /// Kills the container's process group: the init of an exec leads none that others are in.
    fn kill(&self) {
        let pid = i32::try_from(self.born.pid).ok().and_then(Pid::from_raw);
        let group = pid.and_then(|pid| getpgid(Some(pid)).ok()).filter(|group| group.as_raw_nonzero().get() > 1);
        // Somebody else's group would be ours if the container shares it.
        let own = getpgid(None).ok();
        let _: rustix::io::Result<()> = match group.filter(|group| Some(*group) != own) {
            Some(group) => kill_process_group(group, Signal::KILL),
            None => pidfd_send_signal(&self.born.pidfd, Signal::KILL),
        };
    }

    /// Lets one client in. `false` means that nobody waits, or that there is no room.
    fn admit(&mut self) -> Result<bool> {
        let Some(listener) = &self.doors.attach else { return Ok(false) };
        if self.clients.iter().flatten().count() >= MOST_CLIENTS {
            // The door is open again when one leaves.
            self.modify(listener, LISTENER, EventFlags::empty());
            return Ok(false);
        }
        // Whoever has gone again, or cannot be served for want of descriptors, is no reason to end.
        let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return Ok(false);
        };
        let slot = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        if slot == self.clients.len() {
            self.clients.push(None);
        }
        let client = Client::new(socket);
        self.add(client.fd(), FIRST_CLIENT + slot as u64, EventFlags::empty())?;
        self.clients[slot] = Some(client);
        self.refresh(slot);
        Ok(true)
    }

    fn takes_input(&self) -> bool {
        self.input.len() < MAX_INPUT
    }

    fn serve_client(&mut self, slot: usize, flags: EventFlags) {
        let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take) else {
            return;
        };
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        // The last words of one that has gone count, however much waits already.
        while client.speaks && (gone || self.takes_input()) {
            match client.hear() {
                Heard::Nothing => break,
                Heard::Input(bytes) => self.put_input(&bytes),
                Heard::End => self.end_input(),
            }
        }
        client.flush();
        if gone {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, client.fd());
            drop(client);
            if let Some(listener) = &self.doors.attach {
                self.modify(listener, LISTENER, EventFlags::IN);
            }
            self.adjust();
        } else {
            self.clients[slot] = Some(client);
            self.refresh(slot);
        }
    }

    /// Watches a client for what can be done with it now.
    fn refresh(&self, slot: usize) {
        if let Some(client) = self.clients.get(slot).and_then(Option::as_ref) {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, client.speaks && self.takes_input());
            flags.set(EventFlags::OUT, client.has_output());
            self.modify(client.fd(), FIRST_CLIENT + slot as u64, flags);
            self.adjust();
        }
    }

    fn refresh_all(&self) {
        (0..self.clients.len()).for_each(|slot| self.refresh(slot));
    }

    /// Reads the outputs, or does not while a client does not keep up: what a caller pipes elsewhere must be whole.
    fn adjust(&self) {
        let held_up = self.clients.iter().flatten().any(Client::holds_up);
        for (token, output) in [(STDOUT, &self.born.stdout), (STDERR, &self.born.stderr)] {
            let flags = match held_up {
                true => EventFlags::empty(),
                false if self.hung && token == STDOUT => EventFlags::IN | EventFlags::ET,
                false => EventFlags::IN,
            };
            if let Some(output) = output {
                self.modify(output, token, flags);
            }
        }
    }

    /// Moves what the container has written to the logs and the clients. `false` means that there is no more for now.
    fn read_output(&mut self, index: usize) -> Result<bool> {
        let output = if index == 0 { &self.born.stdout } else { &self.born.stderr };
        let Some(output) = output else { return Ok(false) };
        let mut buffer = [0_u8; CHUNK];
        let count = match read(output, &mut buffer[..]) {
            Ok(count) => count,
            // A terminal that is closed everywhere says EIO. Somebody may open it again.
            Err(Errno::IO) if self.manner.terminal => {
                if !self.hung {
                    self.hung = true;
                    self.adjust();
                }
                return Ok(false);
            }
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno).context(|| "read the container's output"),
        };
        if count == 0 {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, output);
            if index == 0 {
                self.born.stdout = None;
            } else {
                self.born.stderr = None;
            }
            return Ok(false);
        }
        let stream = if index == 0 { Stream::Stdout } else { Stream::Stderr };
        for log in &mut self.logs {
            log.write(stream, &buffer[..count]);
        }
        for slot in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[slot] {
                client.output(stream, &buffer[..count]);
                client.flush();
                if client.has_output() {
                    self.refresh(slot);
                }
            }
        }
        if self.hung {
            self.hung = false;
            self.adjust();
        }
        Ok(true)
    }

    fn put_input(&mut self, bytes: &[u8]) {
        if self.born.stdin.is_some() && !self.input_ends {
            self.input.extend_from_slice(bytes);
            self.write_input();
        }
    }

    /// Ends the container's stdin after what still waits, unless others may come with more. A terminal has no end.
    fn end_input(&mut self) {
        if !self.manner.leave_stdin_open && !self.manner.terminal {
            self.input_ends = true;
            self.write_input();
        }
    }

    /// Gives the container as much of the waiting input as it takes.
    fn write_input(&mut self) {
        let Some(stdin) = &self.born.stdin else { return };
        let mut written = 0;
        let mut gone = false;
        while written < self.input.len() && !gone {
            match write(stdin, &self.input[written..]) {
                Ok(count) => written += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => gone = true,
            }
        }
        self.input.drain(..written);
        if gone && self.manner.terminal {
            // Nobody has the terminal open: what was typed is for nobody.
            self.input.clear();
        } else if gone || (self.input.is_empty() && self.input_ends) {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, stdin);
            self.born.stdin = None;
            self.input.clear();
        }
        if let Some(stdin) = &self.born.stdin {
            let flags = if self.input.is_empty() { EventFlags::empty() } else { EventFlags::OUT };
            self.modify(stdin, STDIN, flags);
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }

    /// Has the disk keep the logs.
    pub(super) fn sync_logs(&self) {
        self.logs.iter().for_each(Log::sync);
    }

    /// Gives clients what they have not read yet, for so long or for ever.
    pub(super) fn take_leave(&mut self, patience: Option<Duration>) -> Result<()> {
        let watched =
            [self.doors.attach.take(), self.born.stdout.take(), self.born.stderr.take(), self.born.stdin.take()];
        for fd in watched.into_iter().flatten() {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &fd);
        }
        self.doors = Doors::default();
        self.oom = None;
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, self.signals);
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &self.born.pidfd);
        let deadline = patience.map(|patience| Instant::now() + patience);
        for slot in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[slot] {
                client.speaks = false;
                client.flush();
                self.refresh(slot);
            }
        }
        self.dismiss_served();
        while !self.clients.iter().all(Option::is_none) {
            let Some(events) = self.wait(deadline)? else { break };
            for (token, flags) in events.into_iter().filter(|&(token, _)| token >= FIRST_CLIENT) {
                self.serve_client((token - FIRST_CLIENT) as usize, flags);
            }
            self.dismiss_served();
        }
        Ok(())
    }

    /// Hangs up on clients that have all output: they wait for that.
    fn dismiss_served(&mut self) {
        for client in &mut self.clients {
            if client.as_ref().is_some_and(|client| !client.has_output()) {
                *client = None;
            }
        }
    }
}
