//! What becomes of a container's output when nobody is attached: the log drivers.

pub(crate) mod batch;
pub(crate) mod file;
pub(crate) mod journald;
pub(crate) mod json;
pub(crate) mod k8s;
pub(crate) mod read;
pub(crate) mod room;

use std::os::fd::{AsFd, BorrowedFd};

use serde::Deserialize;

use self::journald::Journald;
use self::json::JsonLog;
use self::k8s::K8sLog;

/// The longest piece of a line in one record, in bytes.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// Which output a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A log in one of the forms.
#[derive(Debug)]
pub(crate) enum Log {
    /// Docker's json-file.
    Json(JsonLog),
    /// Podman's and CRI's k8s-file.
    K8s(K8sLog),
    /// The machine's journal.
    Journald(Journald),
    /// Output is for those who are attached, and then gone.
    None,
}

impl Log {
    /// Takes output of the container.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        match self {
            Self::Json(log) => log.write(stream, bytes),
            Self::K8s(log) => log.write(stream, bytes),
            Self::Journald(log) => log.write(stream, bytes),
            Self::None => {}
        }
    }

    /// Whether the container's output is to wait: the log takes no more until [`Log::journal`] can be written to.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Self::Journald(log) if log.is_behind())
    }

    /// What to watch for room while the log is behind.
    pub(crate) fn journal(&self) -> Option<BorrowedFd<'_>> {
        if let Self::Journald(log) = self { Some(log.as_fd()) } else { None }
    }

    /// Goes on with what waits, now that there is room.
    pub(crate) fn resume(&mut self) {
        if let Self::Journald(log) = self {
            log.resume();
        }
    }

    /// Waits for a log that is behind, but not for one that does not move.
    pub(crate) fn settle(&mut self) {
        if let Self::Journald(log) = self {
            log.settle();
        }
    }

    /// Writes out what is unfinished at the end of the container. Returns how many bytes of output are lost that the log
    /// itself could not tell.
    pub(crate) fn finish(&mut self) -> u64 {
        match self {
            Self::Json(log) => log.finish(),
            Self::K8s(log) => log.finish(),
            Self::Journald(log) => log.finish(),
            Self::None => 0,
        }
    }

    /// Gives memory back that only a flood needs.
    pub(crate) fn calm(&mut self) {
        match self {
            Self::Json(log) => log.calm(),
            Self::K8s(log) => log.calm(),
            Self::Journald(_) | Self::None => {}
        }
    }

    /// Begins a new file, as if the old one were full.
    pub(crate) fn reopen(&mut self) {
        if let Self::K8s(log) = self {
            log.reopen();
        }
    }

    /// Has the disk keep what was written.
    pub(crate) fn sync(&self) {
        if let Self::K8s(log) = self {
            log.sync();
        }
    }
}
