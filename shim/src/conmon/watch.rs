//! conmon's event loop: from the container's birth to its end.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{Pid, Signal, getpgid, kill_process_group, pidfd_send_signal};

use super::birth::Born;
use super::client::Client;
use super::control::{Fifo, Order};
use super::notify::Notify;
use super::say::Say;
use crate::cgroup::Cgroup;
use crate::error::{Context, Result};
use crate::io::intake::{CALM, Intake};
use crate::io::log::Log;
use crate::io::log::room::Room;
use crate::io::{console, events};
use crate::oom::OomWatch;
use crate::reap::{self, Exit};

/// Names of what the event loop watches; clients come after.
const SIGNALS: u64 = 0;
pub(super) const LISTENER: u64 = 1;
const INIT: u64 = 2;
pub(super) const STDIN: u64 = 3;
pub(super) const STDOUT: u64 = 4;
pub(super) const STDERR: u64 = 5;
const CONTROL: u64 = 6;
const WINDOW_SIZE: u64 = 7;
const NOTIFY: u64 = 8;
const OOM: u64 = 9;
pub(super) const JOURNAL: u64 = 10;
pub(super) const FIRST_CLIENT: u64 = 11;

/// How often an output is read once the container has ended: what was in it is read by then.
const LAST_READS: usize = 128;

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
    pub(super) epoll: OwnedFd,
    pub(super) signals: &'a SignalFd,
    pub(super) say: &'a Say,
    pub(super) manner: Manner,
    pub(super) born: Born,
    /// Whether the terminal's other side is closed for now: then only changes are waited for.
    pub(super) hung: bool,
    pub(super) logs: Vec<Log>,
    pub(super) room: Room,
    pub(super) intake: Intake,
    pub(super) doors: Doors,
    pub(super) oom: Option<OomWatch>,
    pub(super) clients: Vec<Option<Client>>,
    /// Input that the container has not read yet.
    pub(super) input: Vec<u8>,
    /// Whether the container's stdin is watched for room.
    pub(super) input_waits: bool,
    /// Whether the container's stdin ends with the waiting input.
    pub(super) input_ends: bool,
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
            room: Room::default(),
            intake: Intake::default(),
            doors,
            oom,
            clients,
            input,
            input_waits: false,
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
            // That nobody has it open any more is told once: it stays so, and nobody can do anything about it.
            watch.add(stdin, STDIN, EventFlags::ET)?;
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

    pub(super) fn add(&self, fd: impl AsFd, token: u64, flags: EventFlags) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token), flags).context(|| "watch a descriptor")
    }

    pub(super) fn modify(&self, fd: impl AsFd, token: u64, flags: EventFlags) {
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
        // What is there is all there is: others may hold a pipe open for ever, and go on writing.
        for index in [0, 1] {
            for _ in 0..LAST_READS {
                if !self.read_output(index)? {
                    break;
                }
                self.logs.iter_mut().for_each(Log::settle);
            }
        }
        self.check_oom();
        self.logs.iter_mut().for_each(Log::settle);
        self.follow_logs();
        let lost: u64 = self.logs.iter_mut().map(Log::finish).sum();
        if lost > 0 {
            self.say.warn(&format!("{lost} bytes of output are lost: the log could not be written"));
        }
        Ok(end)
    }

    /// Waits for events. `None` means that the deadline has passed.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> Result<Option<Vec<(u64, EventFlags)>>> {
        let calm = self.intake.is_flooded().then_some(CALM);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let Some(mut events) = events::wait(&self.epoll, left.into_iter().chain(calm).min())? else {
            return Ok(Some(Vec::new()));
        };
        if events.is_empty() {
            self.intake.calm([&self.born.stdout, &self.born.stderr].into_iter().flatten());
            self.logs.iter_mut().for_each(Log::calm);
        }
        // However much there is to do: a container that never falls silent has no more time than others.
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(None);
        }
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
            JOURNAL => {
                self.logs.iter_mut().for_each(Log::resume);
                self.follow_logs();
            }
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

    /// Has the disk keep the logs.
    pub(super) fn sync_logs(&self) {
        self.logs.iter().for_each(Log::sync);
    }
}
