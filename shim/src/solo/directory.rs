//! The container directory: what is on disk of a container, for us and for other programs. README.md documents it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::health::Condition;
use super::record::{Ended, Options, Restarted, State, is_alive, write_bytes, write_file};
use crate::error::{Context, Error, Kind, Result};
use crate::io::log::json::JsonLog;
use crate::runtime::Runtime;

/// The longest name: one component of paths, and of a socket's path.
const MAX_NAME: usize = 64;
/// Directories that are being made or taken apart begin so; no name can.
const UNFINISHED: &str = ".";
/// Within a container's directory.
const CONFIG: &str = "bundle/config.json";

/// More than any record of a container's end takes, in bytes.
const RESERVED: usize = 512;

/// Where containers and their sockets are.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// One directory for each container.
    pub(crate) root: PathBuf,
    /// One directory for each running container, for its sockets.
    pub(crate) run_root: PathBuf,
}

/// Where a container is in its life.
#[derive(Debug)]
pub(crate) enum Status {
    /// Its monitor is at work, but the container does not run yet.
    Starting,
    /// It runs, and somebody watches unless the monitor was killed.
    Running {
        state: State,
        watched: bool,
    },
    /// It has ended and will be run again.
    Restarting(Restarted),
    Exited(Ended),
    /// Its monitor was killed, and the container has ended since: nobody knows how.
    Lost,
}

/// One container's directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Of its sockets.
    pub(crate) run: PathBuf,
}

/// Refuses what cannot be a container's name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let good = name.bytes().all(plain) && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if good && name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid container name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* is allowed, at most {MAX_NAME} characters"
    )))
}

impl Layout {
    fn directory(&self, name: &str) -> Directory {
        Directory { name: name.to_owned(), path: self.root.join(name), run: self.run_root.join(name) }
    }

    /// The directory of the existing container `name`.
    pub(crate) fn find(&self, name: &str) -> Result<Directory> {
        check_name(name)?;
        let found = self.directory(name);
        if found.path.is_dir() {
            return Ok(found);
        }
        let text = format!("no such container: {name} (shim ps -a lists all)");
        Err(Error::new(Kind::NotFound, text))
    }

    /// All containers, by name.
    pub(crate) fn all(&self) -> Result<Vec<Directory>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(|| format!("list {}", self.root.display()))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| check_name(name).is_ok()).collect();
        names.sort();
        Ok(names.iter().map(|name| self.directory(name)).collect())
    }

    /// Gives a container that has ended another name.
    pub(crate) fn rename(&self, directory: &Directory, name: &str) -> Result<()> {
        check_name(name)?;
        let options = Options { name: name.to_owned(), ..directory.options()? };
        let renamed = self.directory(name);
        // The name first: it may be taken. Until the options follow, only they show the old one.
        Self::claim(&directory.path, &renamed)?;
        renamed.record("options.json", &options)
    }

    /// Puts a directory under a name that only one can have.
    fn claim(from: &Path, to: &Directory) -> Result<()> {
        match renameat_with(CWD, from, CWD, &to.path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(Error::new(
                Kind::AlreadyExists,
                format!("the name {} is in use: choose another, or remove it with shim rm", to.name),
            )),
            other => other.context(|| format!("make {}", to.path.display())),
        }
    }

    /// Makes the directory of a new container, with its options and derived configuration. It appears whole or not at
    /// all, and only one of those who want the same name gets it.
    pub(crate) fn create(&self, options: &Options, config: &serde_json::Value) -> Result<Directory> {
        private_dir(&self.root)?;
        let unfinished = self.root.join(format!("{UNFINISHED}{}-{}", options.name, std::process::id()));
        let directory = self.directory(&options.name);
        let made = fill(&unfinished, options, config).and_then(|()| Self::claim(&unfinished, &directory));
        if made.is_err() {
            let _: io::Result<()> = fs::remove_dir_all(&unfinished);
        }
        made.map(|()| directory)
    }
}

fn fill(path: &Path, options: &Options, config: &serde_json::Value) -> Result<()> {
    private_dir(path)?;
    private_dir(&path.join("bundle"))?;
    write_file(&path.join(CONFIG), config)?;
    write_file(&path.join("options.json"), options)?;
    JsonLog::open(&path.join("log"), None).map(drop).context(|| "make the log")
}

/// Makes a directory that only its owner may enter, and those above it.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).context(|| format!("make {}", path.display()))
}

impl Directory {
    pub(crate) fn options(&self) -> Result<Options> {
        self.read("options.json")?.ok_or_else(|| {
            let text = format!("container {} has no options.json: remove it with shim rm -f", self.name);
            Error::new(Kind::NotFound, text)
        })
    }

    /// The configuration that the runtime gets.
    pub(crate) fn config(&self) -> Result<serde_json::Value> {
        self.read(CONFIG)?.ok_or_else(|| {
            let text = format!("container {} has no {CONFIG}: remove it with shim rm -f", self.name);
            Error::new(Kind::NotFound, text)
        })
    }

    /// Where that stands.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    pub(crate) fn state(&self) -> Result<Option<State>> {
        self.read("state.json")
    }

    pub(crate) fn ended(&self) -> Result<Option<Ended>> {
        self.read("exit.json")
    }

    /// Whether and how often the container was run again.
    pub(crate) fn restarted(&self) -> Result<Option<Restarted>> {
        self.read("restart.json")
    }

    /// What the container's health checks have come to.
    pub(crate) fn condition(&self) -> Result<Option<Condition>> {
        self.read("health.json")
    }

    /// Whether the container was frozen by us.
    pub(crate) fn is_paused(&self) -> bool {
        self.path.join("paused").exists()
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).context(|| format!("read {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("read {}", path.display())),
        }
    }

    /// Where `name` is written before it counts.
    fn fresh(&self, name: &str) -> PathBuf {
        self.path.join(format!("{UNFINISHED}{name}"))
    }

    /// Takes the space that [`Directory::record`] will need for `name`: when the container ends, its log may have filled
    /// the disk.
    pub(crate) fn reserve(&self, name: &str) -> Result<()> {
        write_bytes(&self.fresh(name), &[b' '; RESERVED])
    }

    /// Writes `name` so that a reader, or a machine that comes up again, sees all of it or nothing.
    pub(crate) fn record<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let (path, fresh) = (self.path.join(name), self.fresh(name));
        write_file(&fresh, value)?;
        fs::rename(&fresh, &path).context(|| format!("write {}", path.display()))?;
        let dir = File::open(&self.path).and_then(|dir| dir.sync_all());
        dir.context(|| format!("write {}", self.path.display()))
    }

    /// Writes `name` so that a reader sees all of it or nothing. A machine that goes down may lose it.
    pub(crate) fn publish<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let (path, fresh) = (self.path.join(name), self.fresh(name));
        let text = serde_json::to_vec(value)?;
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)).context(|| format!("write {}", path.display()))
    }

    /// Forgets a former run.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(|| format!("remove {}", self.path.join(name).display()))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The socket on which a monitor serves clients.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("attach")
    }

    /// The runtime that this container was made with.
    pub(crate) fn runtime(&self, options: &Options) -> Runtime {
        Runtime {
            binary: options.runtime.clone(),
            root: options.runtime_root.clone(),
            systemd_cgroup: options.systemd_cgroup,
            log_dir: self.path.clone(),
        }
    }

    fn open_lock(&self) -> Result<File> {
        let path = self.path.join("lock");
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
        file.context(|| format!("open {}", path.display()))
    }

    /// Takes the lock that a monitor holds as long as it lives. `None` means that one is at work.
    pub(crate) fn lock(&self) -> Result<Option<OwnedFd>> {
        let file = self.open_lock()?;
        let step = || format!("lock container {}", self.name);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(file.into())),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(errno).context(step),
            }
            // Somebody who only looks (see `is_watched`) shares the lock for a moment; a monitor does not share.
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => std::thread::yield_now(),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno).context(step),
            }
        }
    }

    /// Waits until the monitor of a container that has ended has cleaned up after it.
    pub(crate) fn await_monitor(&self) {
        // A directory that is gone has none.
        if let Ok(file) = self.open_lock() {
            let _: rustix::io::Result<()> = rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockShared));
        }
    }

    /// Whether a monitor is at work.
    fn is_watched(&self) -> Result<bool> {
        match flock(&self.open_lock()?, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno).context(|| format!("look at the lock of container {}", self.name)),
        }
    }

    /// Where the container is in its life, whatever became of its monitor.
    pub(crate) fn status(&self) -> Result<Status> {
        let watched = self.is_watched()?;
        if let Some(ended) = self.ended()? {
            return Ok(Status::Exited(ended));
        }
        Ok(match self.state()? {
            Some(state) if watched || is_alive(&state) => Status::Running { state, watched },
            None if watched => self.restarted()?.map_or(Status::Starting, Status::Restarting),
            _ => Status::Lost,
        })
    }

    /// Removes the container's record and sockets.
    pub(crate) fn remove(&self) -> Result<()> {
        let _: io::Result<()> = fs::remove_dir_all(&self.run);
        // Renamed first, so that the name is free and nobody sees half of it.
        let gone = self.path.with_file_name(format!("{UNFINISHED}{}-{}-gone", self.name, std::process::id()));
        match fs::rename(&self.path, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.context(|| format!("remove {}", self.path.display()))?,
        }
        fs::remove_dir_all(&gone).context(|| format!("remove {}", gone.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reap::Exit;
    use crate::solo::policy::{LogOptions, RestartPolicy};
    use crate::solo::record::{now, start_ticks};
    use crate::solo::sdnotify::Mode;

    fn options(name: &str) -> Options {
        Options {
            name: name.into(),
            bundle: "/b".into(),
            shares_bundle: false,
            image: None,
            ports: None,
            created: now(),
            command: vec!["sh".into()],
            terminal: false,
            stdin: false,
            remove: false,
            stop_signal: "TERM".into(),
            owns_pids: true,
            runtime: "/r".into(),
            runtime_root: None,
            systemd_cgroup: false,
            restart: RestartPolicy::No,
            log: LogOptions::default(),
            detach_keys: None,
            stop_timeout: 10,
            pidfile: None,
            health: None,
            sdnotify: Mode::default(),
        }
    }

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { root: dir.path().join("c"), run_root: dir.path().join("r") };
        (dir, layout)
    }

    #[test]
    fn names() {
        for name in ["a", "web-1", "A.b_c", &"x".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "-x", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let (_dir, layout) = layout();
        let made = layout.create(&options("web"), &serde_json::json!({})).unwrap();
        assert_eq!(made.options().unwrap().command, ["sh"]);
        let again = layout.create(&options("web"), &serde_json::json!({})).unwrap_err();
        assert_eq!(again.kind, Kind::AlreadyExists);
        let names: Vec<_> = fs::read_dir(&layout.root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["web"], "the loser leaves nothing");
        made.remove().unwrap();
        assert!(layout.find("web").is_err());
        assert!(layout.all().unwrap().is_empty());
    }

    #[test]
    fn status_follows_the_files_and_the_lock() {
        let (_dir, layout) = layout();
        let made = layout.create(&options("web"), &serde_json::json!({})).unwrap();
        assert!(matches!(made.status().unwrap(), Status::Lost), "no monitor, no record");
        let lock = made.lock().unwrap().unwrap();
        assert!(matches!(made.status().unwrap(), Status::Starting));
        let own = std::process::id();
        let state = State { pid: own, start_ticks: start_ticks(own).unwrap(), started: now() };
        made.record("state.json", &state).unwrap();
        assert!(matches!(made.status().unwrap(), Status::Running { watched: true, .. }));
        drop(lock);
        assert!(matches!(made.status().unwrap(), Status::Running { watched: false, .. }), "the monitor was killed");
        made.record("state.json", &State { start_ticks: 1, ..state.clone() }).unwrap();
        assert!(matches!(made.status().unwrap(), Status::Lost), "the pid belongs to somebody else");
        made.record("exit.json", &Ended::new(Exit::by_signal(9), true, "s")).unwrap();
        assert!(matches!(made.status().unwrap(), Status::Exited(Ended { code: 137, .. })));
    }
}
