//! When a container's health is checked. The checks themselves are programs of their own.

use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::process::{Signal, pidfd_send_signal};

use super::serve::{HEALTH, Monitor};
use crate::error::{Context, Result};
use crate::reap;
use crate::solo::directory::Directory;
use crate::solo::health::{Health, Word};
use crate::solo::probe;

/// The timetable of one container's checks.
#[derive(Debug)]
pub(super) struct Vitals {
    health: Health,
    directory: Directory,
    started: Instant,
    /// When the next check is due, if none is at work.
    due: Option<Instant>,
    /// The check that is at work.
    probe: Option<(u32, OwnedFd)>,
}

impl Vitals {
    /// The timetable of a container that has just been started.
    pub(super) fn of(directory: &Directory, health: Health) -> Self {
        let started = Instant::now();
        let due = Some(started + health.interval(Duration::ZERO, Word::Starting));
        Self { health, directory: directory.clone(), started, due, probe: None }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether `pid` is the check at work.
    pub(super) fn is_probe(&self, pid: u32) -> bool {
        self.probe.as_ref().is_some_and(|(probe, _)| *probe == pid)
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) {
        *self = Self::of(&self.directory, self.health.clone());
    }

    fn start(&mut self) -> Result<()> {
        self.due = None;
        let executable = env::current_exe().context(|| "find my own executable")?;
        let mut command = Command::new(executable);
        command.arg0("shim").arg(probe::VERB).arg(&self.directory.path).arg(&self.directory.run);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context(|| "start a health check")?;
        self.probe = Some((child.id(), reap::open(child.id())?));
        Ok(())
    }

    /// Collects the check that has ended, and lays down when the next one is due.
    fn ended(&mut self) -> Word {
        if let Some((_, pidfd)) = self.probe.take() {
            let _: Result<_> = reap::collect(pidfd.as_fd());
        }
        let word = self.directory.condition().ok().flatten().unwrap_or_default().status;
        self.due = Some(Instant::now() + self.health.interval(self.started.elapsed(), word));
        word
    }
}

impl Monitor {
    /// Starts a check if one is due.
    pub(super) fn check_health(&mut self) {
        let Some(vitals) = self.vitals.as_mut().filter(|vitals| vitals.due.is_some_and(|due| due <= Instant::now()))
        else {
            return;
        };
        if vitals.start().is_err() {
            vitals.ended();
        } else if let Some((_, pidfd)) = &vitals.probe {
            let _: rustix::io::Result<()> =
                epoll::add(&self.epoll, pidfd, epoll::EventData::new_u64(HEALTH), EventFlags::IN);
        }
    }

    /// A check has ended.
    pub(super) fn health_checked(&mut self) {
        let draining = self.draining;
        let Some(vitals) = &mut self.vitals else { return };
        if let Some((_, pidfd)) = &vitals.probe {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, pidfd);
        }
        let word = vitals.ended();
        if draining {
            vitals.due = None;
        }
        if word == Word::Healthy {
            self.herald.healthy();
        }
    }

    /// No further checks: the container has ended.
    pub(super) fn check_no_more(&mut self) {
        if let Some(vitals) = &mut self.vitals {
            vitals.due = None;
        }
    }

    /// Whether a check is at work.
    pub(super) fn is_checking(&self) -> bool {
        self.vitals.as_ref().is_some_and(|vitals| vitals.probe.is_some())
    }

    /// Ends a check that outlives the container.
    pub(super) fn end_check(&mut self) {
        if let Some((_, pidfd)) = self.vitals.as_ref().and_then(|vitals| vitals.probe.as_ref()) {
            let _: rustix::io::Result<()> = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}
