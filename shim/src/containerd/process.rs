//! One process of a container, be it the init or an exec'd one: what is known of it from creation to deletion.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::streams::{Streams, Wanted};
use super::watch::Claim;
use crate::error::{Error, Kind, Result};
use crate::reap::Exit;

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Pausing,
    Paused,
    Stopped,
    Deleted,
}

impl Status {
    /// The word in error texts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

/// What changes in a process's life.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) status: Status,
    /// Present from the moment that the process exists until it is collected.
    pub(crate) claim: Option<Arc<Claim>>,
    pub(crate) pid: u32,
    /// Present while the streams are served.
    pub(crate) streams: Option<Streams>,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    /// The exec's id, or the container's for its init.
    pub(crate) id: String,
    pub(crate) wanted: Wanted,
    life: Mutex<Life>,
    exit: watch::Sender<Option<Exit>>,
    /// Held from before the process is started until its start has been announced: its end is announced after that,
    /// however soon it comes.
    pub(crate) gate: tokio::sync::Mutex<()>,
}

impl Process {
    pub(crate) fn new(id: &str, wanted: Wanted) -> Self {
        Self {
            id: id.to_owned(),
            wanted,
            life: Mutex::new(Life { status: Status::Created, claim: None, pid: 0, streams: None }),
            exit: watch::Sender::new(None),
            gate: tokio::sync::Mutex::new(()),
        }
    }

    /// The changing part. Never hold it over an await: the compiler sees to that.
    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> Status {
        self.life().status
    }

    pub(crate) fn pid(&self) -> u32 {
        self.life().pid
    }

    /// How the process ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Takes over a process that has just been made, with its streams.
    pub(crate) fn born(&self, claim: Claim, streams: Streams) -> Arc<Claim> {
        let claim = Arc::new(claim);
        let mut life = self.life();
        life.pid = claim.pid();
        life.claim = Some(Arc::clone(&claim));
        life.streams = Some(streams);
        claim
    }

    /// Records the end and wakes everybody who waits for it.
    pub(crate) fn ended(&self, exit: Exit) {
        let mut life = self.life();
        life.claim = None;
        if life.status != Status::Deleted {
            life.status = Status::Stopped;
        }
        if let Some(streams) = &life.streams {
            streams.ended();
        }
        drop(life);
        self.exit.send_replace(Some(exit));
    }

    /// Wakes everybody who waits for a process that could not be started. It stays as it was created.
    pub(crate) fn failed(&self) {
        self.exit.send_replace(Some(Exit::unknown()));
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        // The sender is part of `self`, so it cannot go away.
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or_else(Exit::unknown)
    }

    /// Refuses `operation` unless the process is in one of `allowed`.
    pub(crate) fn require(&self, operation: &str, allowed: &[Status]) -> Result<()> {
        let status = self.status();
        if operation == "start" && status == Status::Created && self.exit.borrow().is_some() {
            return Err(Error::new(Kind::FailedPrecondition, "cannot start a process that failed to start"));
        }
        if allowed.contains(&status) {
            return Ok(());
        }
        let text = match (operation, status) {
            ("start" | "delete", Status::Running) => {
                format!("cannot {operation} a running process")
            }
            ("start" | "delete", _) => format!("cannot {operation} a {} process", status.name()),
            ("exec", _) => format!("cannot exec in a {} state", status.name()),
            _ => format!("cannot {operation} a {} container", status.name()),
        };
        Err(Error::new(Kind::FailedPrecondition, text))
    }
}
