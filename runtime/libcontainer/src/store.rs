//! Contract 2: the state of containers, `<root>/<id>/state.json`.
//!
//! A container's directory holds
//! - `state.json`: [`State`], written to a temporary file and renamed, so that a reader sees all of it or nothing; before
//!   that, while the container is being made, records of what to undo, one a line, of which the last counts;
//! - `config.json`: the configuration that the container was made from, byte for byte, for `exec` and late hooks, so that
//!   a bundle that is changed later changes nothing;
//! - `notify`: where somebody wants to hear when the program is ready, a directory that the container sees as well, for a
//!   socket of whoever starts it;
//! - `start.fifo`, `started.fifo`: there while the container waits for `start`; init reads the one, and answers by the other.
//!
//! `mkdir` of the directory decides who creates an id. A `state.json` that says it is not `made` tells what to undo if the
//! creator died; other verbs do not show such a container, and `delete --force` removes it.

use crate::{
    error::{At, Error, Kind, Result},
    outside::{cgroup::Placement, rdt},
    rubbish,
    spec::{NamespaceKind, Resources},
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FlockOperation, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::{Path, PathBuf},
};

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
/// The pipe from which the init of a created container hears that it is to start.
pub(crate) const START_FIFO: &str = "start.fifo";
/// The pipe to which it then says why its program does not run.
pub(crate) const STARTED_FIFO: &str = "started.fifo";
/// The directory that a container shares with who hears its notifications.
pub const NOTIFY: &str = "notify";
/// As [`NOTIFY`], in the container.
pub const NOTIFY_PLACE: &str = "/run/notify";
/// No file that we write is larger; what is, is not ours.
const MAX_FILE: u64 = 64 << 20;

/// What is kept of a container. The first six fields are the OCI state's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Of the configuration.
    pub oci_version: String,
    /// The container's name, unique below the root.
    pub id: String,
    /// Whether the creator got to the end: the present status is derived from it, the process and the start pipe.
    pub made: bool,
    /// Whether the cgroup was found to be the container's alone, so that what lives in it may be killed.
    pub owns_cgroup: bool,
    /// Of init, as the host numbers it; 0 until it is born.
    pub pid: i32,
    /// Absolute.
    pub bundle: PathBuf,
    /// Of the configuration.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Of init, in clock ticks since boot: with the pid it tells the process from a later one of the same number.
    pub start_time: u64,
    /// Absolute.
    pub rootfs: PathBuf,
    /// Nanoseconds since 1970.
    pub created: u64,
    /// The user who created it.
    pub owner: u32,
    /// Where its cgroup is.
    pub cgroup: Placement,
    /// The namespaces that are not the creator's own.
    pub namespaces: Vec<NamespaceKind>,
    /// Whether init's pid namespace is the container's own, so that it all dies with init.
    pub own_pid_namespace: bool,
    /// Whether `poststart` or `poststop` hooks are in the kept configuration.
    pub late_hooks: bool,
    /// The resources in force since the last `update`; before the first they are the kept configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Box<Resources>>,
    /// Its groups of Intel RDT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<rdt::Group>,
}

/// The directory of all containers.
pub struct Store {
    dir: OwnedFd,
    path: PathBuf,
}

impl Store {
    /// Opens `root`; makes it if `create` is set.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where it is missing and not to be made.
    pub fn open(root: &Path, create: bool) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(root, flags, Mode::empty()) {
            Err(Errno::NOENT) if create => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .make_private()
                    .create(root)
                    .at_with(|| format!("make {}", root.display()))?;
                rustix::fs::open(root, flags, Mode::empty())
            }
            other => other,
        };
        match dir {
            Ok(dir) => Ok(Self { dir, path: root.to_owned() }),
            Err(Errno::NOENT) => {
                Err(Error::new(Kind::NotFound, format!("no containers: {} is missing", root.display())))
            }
            Err(error) => Err(error).at_with(|| format!("open {}", root.display())),
        }
    }

    /// Claims `id`: the returned slot is empty, locked, and vanishes when dropped unless kept.
    ///
    /// # Errors
    /// [`Kind::Exists`] where another has it.
    pub fn claim(&self, id: &str) -> Result<Slot> {
        check_id(id)?;
        let exists = || Error::new(Kind::Exists, "container with given ID already exists").at(id);
        loop {
            match rustix::fs::mkdirat(&self.dir, id, Mode::from_raw_mode(0o711)) {
                Err(Errno::EXIST) => return Err(exists()),
                made => made.at_with(|| format!("make {}", self.path.join(id).display()))?,
            }
            // An error leaves nothing: what is another creator's is not empty, and stays.
            let undo = |_: &Error| {
                let _ = rustix::fs::unlinkat(&self.dir, id, AtFlags::REMOVEDIR);
            };
            // Between these calls a `delete --force` may remove the directory, and another creator make it anew. Whose it is
            // is settled by the lock: it belongs to who holds it first and finds it empty.
            let slot = match self.slot(id) {
                Err(error) if error.errno() == Some(libc::ENOENT) => continue,
                slot => slot.inspect_err(undo)?,
            };
            match slot.lock() {
                Err(error) if error.kind() == Kind::NotFound => {}
                locked => {
                    locked.inspect_err(undo)?;
                    return if slot.load_any().inspect_err(undo)?.is_none() { Ok(slot) } else { Err(exists()) };
                }
            }
        }
    }

    /// The slot of an existing container.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is none.
    pub fn find(&self, id: &str) -> Result<Slot> {
        check_id(id)?;
        self.slot(id).map_err(|error| match error.errno() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Error::new(Kind::NotFound, "container does not exist"),
            _ => error,
        })
    }

    /// Every claimed id, sorted.
    pub fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        // A PATH descriptor cannot be read.
        let dir =
            rustix::fs::openat(&self.dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .at("list containers")?;
        for entry in rustix::fs::Dir::new(dir).at("list containers")? {
            let entry = entry.at("list containers")?;
            if let Ok(name) = entry.file_name().to_str()
                && check_id(name).is_ok()
            {
                ids.push(name.to_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }

    fn slot(&self, id: &str) -> Result<Slot> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock =
            rustix::fs::openat(&self.dir, id, flags, Mode::empty()).at_with(|| format!("open container {id}"))?;
        check_owner(lock.as_fd())?;
        let store = self.dir.try_clone().at("open the store")?;
        Ok(Slot { store, lock, id: id.to_owned() })
    }
}

/// One container's directory.
pub struct Slot {
    store: OwnedFd,
    // The directory itself, which carries the lock.
    lock: OwnedFd,
    id: String,
}

impl Slot {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// The directory's path, for those who cannot be given its descriptor.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.lock.as_raw_fd())).at("find the container's directory")
    }

    /// Waits for other changers of this container, and keeps them out until this slot is dropped.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where it was deleted meanwhile.
    pub fn lock(&self) -> Result<()> {
        rustix::fs::flock(&self.lock, FlockOperation::LockExclusive).at("lock the container")?;
        match rustix::fs::fstat(&self.lock) {
            Ok(stat) if stat.st_nlink > 0 => Ok(()),
            _ => Err(Error::new(Kind::NotFound, "container does not exist")),
        }
    }

    /// Lets others change this container.
    pub(crate) fn unlock(&self) -> Result<()> {
        rustix::fs::flock(&self.lock, FlockOperation::Unlock).at("unlock the container")
    }

    /// Reads the state; `None` while there is none, or while the container is being made.
    pub fn load(&self) -> Result<Option<State>> {
        Ok(self.load_any()?.filter(|state| state.made))
    }

    /// Reads the state, also of a container that is half made.
    pub fn load_any(&self) -> Result<Option<State>> {
        // Of an empty one its maker died before it made anything else.
        let Some(bytes) = self.read(STATE)?.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        let step = || format!("{}/{STATE}", self.id);
        let state: State = crate::spec::parse(last_record(&bytes)).at_with(step)?;
        if state.id != self.id {
            return Err(Error::other(format!("is of a container {:?}", state.id))).at_with(step);
        }
        Ok(Some(state))
    }

    /// Replaces the state. Of a container that is not made yet nothing is shown: its state is only noted, which takes no new
    /// file (making one is the slowest step of a birth on a disk).
    pub fn save(&self, state: &State) -> Result<()> {
        let mut bytes =
            serde_json::to_vec(state).map_err(|error| Error::other(error.to_string())).at("encode the state")?;
        if state.made {
            return self.write(STATE, &bytes);
        }
        bytes.push(b'\n');
        self.append(STATE, &bytes)
    }

    /// The kept configuration.
    pub fn config(&self) -> Result<Vec<u8>> {
        self.read(CONFIG)?.ok_or_else(|| Error::other(format!("{}/{CONFIG} is missing", self.id)))
    }

    /// Keeps the configuration. Nobody looks for it before there is a state.
    pub(crate) fn keep_config(&self, json: &[u8]) -> Result<()> {
        self.append(CONFIG, json)
    }

    /// Makes a directory for notifications. Others than root are to find a socket in it.
    pub(crate) fn make_notify_directory(&self) -> Result<()> {
        rustix::fs::mkdirat(&self.lock, NOTIFY, Mode::from_raw_mode(0o755)).at_with(|| format!("make {NOTIFY}"))
    }

    /// The directory for notifications, if one was made.
    pub fn notify_directory(&self) -> Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.lock, NOTIFY, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            opened => opened.at_with(|| format!("open {NOTIFY}")).map(Some),
        }
    }

    /// Whether init still waits for `start`.
    pub fn waits_for_start(&self) -> bool {
        rustix::fs::statat(&self.lock, START_FIFO, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Says that init no longer waits.
    pub(crate) fn forget_start(&self) -> Result<()> {
        for name in [START_FIFO, STARTED_FIFO] {
            match rustix::fs::unlinkat(&self.lock, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error).at_with(|| format!("unlink {name}")),
            }
        }
        Ok(())
    }

    /// Removes the directory with what it holds.
    pub fn remove(&self) -> Result<()> {
        // The container may have come to write there. If that cannot be removed the record of it stays as well.
        if rustix::fs::statat(&self.lock, NOTIFY, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            rubbish::remove(self.dir(), NOTIFY)?;
        }
        // What is written here first: that takes no descriptor, of which there may be none left.
        for name in [START_FIFO, STARTED_FIFO, CONFIG, STATE] {
            let _ = rustix::fs::unlinkat(&self.lock, name, AtFlags::empty());
        }
        match rustix::fs::unlinkat(&self.store, self.id.as_str(), AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.remove_all(),
            removed => removed.at("remove the container's directory"),
        }
    }

    fn remove_all(&self) -> Result<()> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.lock).at("read the container's directory")? {
            names.push(entry.at("read the container's directory")?.file_name().to_owned());
        }
        for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            // criu's, of a checkpoint or a restore that was killed.
            rubbish::remove(self.dir(), name.as_c_str())?;
        }
        rustix::fs::unlinkat(&self.store, self.id.as_str(), AtFlags::REMOVEDIR).at("remove the container's directory")
    }

    /// Waits for nobody, whatever lies there.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let step = || format!("read {}/{name}", self.id);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.lock, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => std::fs::File::from(file.at_with(|| format!("open {}/{name}", self.id))?),
        };
        let found = file.metadata().at_with(step)?;
        if !found.is_file() || found.len() > MAX_FILE {
            return Err(Error::other("is not a file of ours")).at_with(step);
        }
        let mut bytes = Vec::with_capacity(4096);
        file.take(MAX_FILE).read_to_end(&mut bytes).at_with(step)?;
        Ok(Some(bytes))
    }

    /// Readers see the old file or the new one. No fsync: this is below /run, which does not survive the kernel.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = format!(".{name}.new");
        self.put(&temporary, OFlags::TRUNC, bytes)
            .and_then(|()| Ok(rustix::fs::renameat(&self.lock, &*temporary, &self.lock, name)?))
            .at_with(|| format!("write {}/{name}", self.id))
    }

    fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put(name, OFlags::APPEND, bytes).at_with(|| format!("write {}/{name}", self.id))
    }

    fn put(&self, name: &str, how: OFlags, bytes: &[u8]) -> Result<()> {
        // What could not be read back could never be deleted; there are a few records at most.
        if bytes.len() as u64 >= MAX_FILE / 4 {
            let text = format!("larger than {} MiB: make config.json smaller", MAX_FILE >> 22);
            return Err(Error::new(Kind::Invalid, text));
        }
        let flags = how | OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.lock, name, flags, Mode::from_raw_mode(0o600))?;
        Ok(std::fs::File::from(file).write_all(bytes)?)
    }
}

/// What is on record in a container's directory is believed: it says whom to kill, what to enter, remove and run. So its writer has
/// to be the caller, or root. The root directory may be another user's, or be open to all.
fn check_owner(dir: BorrowedFd<'_>) -> Result<()> {
    let owner = rustix::fs::fstat(dir).at("stat the container's directory")?.st_uid;
    if owner == 0 || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::other(format!("the container belongs to the user with the id {owner}: act as that user")))
}

/// The last record that was written whole: its writer may have been killed while it wrote. A state that was put in its place
/// by a rename has no end of line.
fn last_record(bytes: &[u8]) -> &[u8] {
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else { return bytes };
    let start = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
    &bytes[start..end]
}

/// Private directories: state names paths and processes.
trait Private {
    fn make_private(&mut self) -> &mut Self;
}

impl Private for std::fs::DirBuilder {
    fn make_private(&mut self) -> &mut Self {
        std::os::unix::fs::DirBuilderExt::mode(self, 0o700)
    }
}

/// runc's rule for ids: letters, digits and `_+-.`, but neither `.` nor `..`.
pub fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() {
        return Err(Error::new(Kind::Invalid, "container id cannot be empty"));
    }
    if !id.chars().all(allowed) || matches!(id, "." | "..") || id.len() > 1024 {
        return Err(Error::new(
            Kind::Invalid,
            format!("invalid container ID format: {id:?}: use letters, digits and _+-."),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_the_root() {
        for id in ["web", "a.b", "0", "x_y+z-1", "..."] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "/", "a b", "a\n", "ü"] {
            assert_eq!(check_id(id).unwrap_err().kind(), Kind::Invalid, "{id}");
        }
    }

    #[test]
    fn the_last_whole_record_counts() {
        let cases: [(&[u8], &[u8]); 5] =
            [(b"{}", b"{}"), (b"", b""), (b"{1}\n", b"{1}"), (b"{1}\n{2}\n", b"{2}"), (b"{1}\n{2}\n{3", b"{2}")];
        for (bytes, record) in cases {
            assert_eq!(last_record(bytes), record, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn one_claim_wins_and_a_removed_id_is_free_again() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true).unwrap();
        let slot = store.claim("a").unwrap();
        assert_eq!(store.claim("a").err().unwrap().kind(), Kind::Exists);
        assert!(store.find("a").unwrap().load().unwrap().is_none());
        slot.keep_config(b"{}").unwrap();
        slot.remove().unwrap();
        assert_eq!(store.find("a").err().unwrap().kind(), Kind::NotFound);
        assert!(store.claim("a").is_ok());
    }
}
