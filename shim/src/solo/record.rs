//! The records of a container: what stands in its files. README.md documents them.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::health::Health;
use super::policy::{LogOptions, RestartPolicy};
use super::sdnotify::Mode;
use super::terminal::DetachKeys;
use crate::error::{Context, Result};
use crate::io::time;
use crate::reap::{self, Exit};
use crate::stat::Stat;

/// The options a container was made with: `options.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) name: String,
    /// The user's bundle.
    pub(crate) bundle: PathBuf,
    /// Whether others may run from the bundle beside it: it writes nothing to its root, and has no hooks.
    #[serde(default)]
    pub(crate) shares_bundle: bool,
    /// What the bundle was made of, if it says so.
    #[serde(default)]
    pub(crate) image: Option<String>,
    /// Its published ports, as `docker ps` lists them.
    #[serde(default)]
    pub(crate) ports: Option<String>,
    /// RFC 3339.
    pub(crate) created: String,
    /// `process.args`.
    pub(crate) command: Vec<String>,
    pub(crate) terminal: bool,
    /// Whether the container has a stdin that clients can write to.
    pub(crate) stdin: bool,
    /// Whether the whole directory goes when the container ends.
    pub(crate) remove: bool,
    /// A name or number.
    pub(crate) stop_signal: String,
    /// Whether the kernel kills the container's processes together with its init.
    pub(crate) owns_pids: bool,
    /// The runtime's binary.
    pub(crate) runtime: PathBuf,
    /// The runtime's state root, if not its default.
    pub(crate) runtime_root: Option<PathBuf>,
    pub(crate) systemd_cgroup: bool,
    #[serde(default)]
    pub(crate) restart: RestartPolicy,
    #[serde(default)]
    pub(crate) log: LogOptions,
    /// What `--detach-keys` said.
    #[serde(default)]
    pub(crate) detach_keys: Option<DetachKeys>,
    /// Seconds between asking and force.
    #[serde(default = "ten")]
    pub(crate) stop_timeout: u32,
    /// Where else the init's pid is written.
    #[serde(default)]
    pub(crate) pidfile: Option<PathBuf>,
    #[serde(default)]
    pub(crate) health: Option<Health>,
    #[serde(default)]
    pub(crate) sdnotify: Mode,
}

fn ten() -> u32 {
    10
}

/// A container that has ended and is run again: `restart.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Restarted {
    /// How often since it was started by hand.
    pub(crate) count: u32,
    /// How the run before ended.
    pub(crate) last: Ended,
}

/// The running container: `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// Of the container's init.
    pub(crate) pid: u32,
    /// When the kernel started that process, in its own ticks: a pid alone can be reused.
    pub(crate) start_ticks: u64,
    /// RFC 3339.
    pub(crate) started: String,
}

/// How the container ended: `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// The exit code, or 128 plus the signal's number.
    pub(crate) code: u32,
    /// The number of the signal that ended it.
    pub(crate) signal: Option<u32>,
    /// Whether the kernel killed in it for want of memory, be it another process than the init.
    #[serde(default)]
    pub(crate) oom_killed: bool,
    /// RFC 3339.
    pub(crate) started: String,
    /// RFC 3339.
    pub(crate) finished: String,
}

impl Ended {
    pub(crate) fn new(exit: Exit, oom_killed: bool, started: &str) -> Self {
        let finished = time::Rfc3339(exit.at).to_string();
        Self { code: exit.status, signal: exit.signal, oom_killed, started: started.to_owned(), finished }
    }
}

/// Writes a record, and to the disk.
pub(super) fn write_file<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    write_bytes(path, &text)
}

/// Writes a file, and to the disk.
pub(super) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    // Not truncated before it is written: what was reserved stays ours.
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()
    });
    written.context(|| format!("write {}", path.display()))
}

/// Whether the process of a state still is that process.
pub(crate) fn is_alive(state: &State) -> bool {
    start_ticks(state.pid) == Some(state.start_ticks)
}

/// A pidfd of the process of a state, if it lives.
pub(crate) fn open_alive(state: &State) -> Option<OwnedFd> {
    let pidfd = reap::open(state.pid).ok()?;
    // Checked after opening: the descriptor is of the process that was checked, or of nobody.
    is_alive(state).then_some(pidfd)
}

/// When process `pid` was started, unless it is dead or a zombie.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    Stat::of(pid).ok().filter(|stat| !stat.dead).map(|stat| stat.start)
}

/// The time now, as records have it.
pub(crate) fn now() -> String {
    time::Rfc3339(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_process_is_alive() {
        let pid = std::process::id();
        let state = State { pid, start_ticks: start_ticks(pid).unwrap(), started: now() };
        assert!(open_alive(&state).is_some());
        let other = State { start_ticks: 1, ..state };
        assert!(open_alive(&other).is_none());
    }
}
