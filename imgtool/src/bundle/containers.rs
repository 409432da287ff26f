//! Containers of bundles: who has a record of them, and which process they are.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result, Step};
use crate::layout::check_ours;
use crate::{oci, regular};

/// What a runtime or the standalone shim keeps of a container, perhaps of a stopped one.
pub(super) struct Record {
    pub(super) name: String,
    /// The bundle that it was made of, as its user named it.
    pub(super) bundle: PathBuf,
    /// Its process and when that began, in the kernel's ticks.
    process: Option<(u32, u64)>,
}

/// All records, where these programs keep them.
pub(super) fn records() -> Vec<Record> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let run = absolute("XDG_RUNTIME_DIR").map(|dir| dir.join("tare"));
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data.map(|dir| dir.join("tare/containers"));
    let shims = [Some(PathBuf::from("/var/lib/tare/containers")), data].into_iter().map(|root| (root, shims));
    let runtimes = [Some(PathBuf::from("/run/tare")), run].into_iter().map(|root| (root, runtimes));
    let mut all = Vec::new();
    for (root, read) in shims
        .map(|(root, read)| (root, read as fn(&Path) -> Option<Record>))
        .chain(runtimes.map(|(root, read)| (root, read as _)))
    {
        let list = root.map(fs::read_dir).and_then(std::io::Result::ok);
        all.extend(list.into_iter().flatten().flatten().filter_map(|entry| read(&entry.path())));
    }
    all
}

fn runtimes(directory: &Path) -> Option<Record> {
    record(directory, &json(&directory.join("state.json"))?, "startTime", None)
}

fn shims(directory: &Path) -> Option<Record> {
    let state = json(&directory.join("state.json"));
    record(directory, &json(&directory.join("options.json"))?, "start_ticks", state.as_ref())
}

fn record(directory: &Path, record: &Value, began: &str, state: Option<&Value>) -> Option<Record> {
    let state = state.unwrap_or(record);
    let pid = state["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid != 0);
    Some(Record {
        name: directory.file_name()?.to_str()?.to_owned(),
        bundle: record["bundle"].as_str()?.into(),
        process: pid.zip(state[began].as_u64()),
    })
}

/// What a program of ours wrote there for this user or for root: it is acted on.
fn json(path: &Path) -> Option<Value> {
    const MOST: u64 = 16 << 20;
    let directory = fs::File::open(path.parent()?).ok()?;
    let file = regular::open_at(&directory, path.file_name()?.as_encoded_bytes()).ok()?;
    for found in [&directory, &file] {
        check_ours(&found.metadata().ok()?).ok()?;
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    oci::json(&bytes).ok()
}

/// Whether two paths are one directory.
pub(super) fn same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    one == other || (id(one).is_some() && id(one) == id(other))
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) pid: u32,
    began: u64,
    pub(super) bundle: PathBuf,
}

impl Container {
    /// The container that the user means: by its name at the standalone shim, its id at the runtime, or its bundle's directory.
    pub(super) fn find(text: &str) -> Result<Self> {
        let of = |record: &Record| {
            let (pid, began) = record.process?;
            let container = Self { pid, began, bundle: record.bundle.clone() };
            container.lives().then_some(container)
        };
        let mut known: Vec<Record> = records();
        if text.contains('/') {
            let directory = std::path::absolute(text)?;
            known.retain(|record| same(&record.bundle, &directory));
            if let Some(container) = known.iter().find_map(of) {
                return Ok(container);
            }
            // Of a runtime that keeps its records elsewhere.
            let rootfs = directory.join("rootfs");
            let mounted = fs::metadata(&rootfs).with(|| rootfs.display())?;
            let is_mounted = fs::metadata(&directory).is_ok_and(|above| above.dev() != mounted.dev());
            let inside = process_in(&mounted, is_mounted)?.and_then(|pid| Some((pid, began(pid)?)));
            let (pid, began) = inside.ok_or_else(|| Error::missing("no container of this bundle runs"))?;
            return Ok(Self { pid, began, bundle: directory });
        }
        known.retain(|record| record.name == text);
        match known.iter().find_map(of) {
            Some(container) => Ok(container),
            None if known.is_empty() => Err(Error::missing("no such container of shim or runtime")),
            None => Err(Error::other("the container does not run")),
        }
    }

    /// Whether its process is still the one that was found.
    pub(super) fn lives(&self) -> bool {
        began(self.pid) == Some(self.began)
    }
}

/// A process that has this root file system as its root. Each overlay (`mounted`) has a device number of its own, which shows
/// through /proc/PID/root in whatever mount namespace the process is.
pub(super) fn process_in(rootfs: &fs::Metadata, mounted: bool) -> Result<Option<u32>> {
    for entry in fs::read_dir("/proc").at("read /proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that ended meanwhile, or that we may not look at, does not count.
        let is_it = |meta: fs::Metadata| meta.dev() == rootfs.dev() && (mounted || meta.ino() == rootfs.ino());
        if fs::metadata(format!("/proc/{pid}/root")).is_ok_and(is_it) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// The field `starttime` of /proc/PID/stat, of a process that has not ended.
pub(super) fn began(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // After the name, which may have anything in it: state is the first field, starttime the twentieth.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_is_no_text_is_known_too() {
        let renamed = std::thread::spawn(|| {
            fs::write("/proc/thread-self/comm", b"\xff\xfe").unwrap();
            let own = fs::read_link("/proc/thread-self").unwrap();
            began(own.file_name().unwrap().to_str().unwrap().parse().unwrap())
        });
        assert!(renamed.join().unwrap().is_some());
    }

    #[test]
    fn records_are_read_of_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(json(&path), None);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "{}").unwrap();
        assert!(json(&path).is_some());
        if std::os::unix::fs::chown(&path, Some(65534), None).is_ok() {
            assert_eq!(json(&path), None, "another user's");
        }
    }

    #[test]
    fn a_process_is_known_by_when_it_began() {
        let own = began(std::process::id()).unwrap();
        assert!(own > 0);
        assert_eq!(began(std::process::id()), Some(own));
        assert_eq!(began(u32::MAX), None);
        let container = Container { pid: std::process::id(), began: own, bundle: "/b".into() };
        assert!(container.lives());
        assert!(!Container { began: own + 1, ..container }.lives(), "a later one of this number");
    }

    #[test]
    fn records_of_runtime_and_shim_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let web = dir.path().join("web");
        fs::create_dir(&web).unwrap();
        assert!(shims(&web).is_none() && runtimes(&web).is_none());
        fs::write(web.join("state.json"), r#"{"pid":7,"startTime":9,"bundle":"/b"}"#).unwrap();
        let record = runtimes(&web).unwrap();
        assert_eq!((record.name.as_str(), record.bundle, record.process), ("web", "/b".into(), Some((7, 9))));
        fs::write(web.join("options.json"), r#"{"bundle":"/c"}"#).unwrap();
        fs::write(web.join("state.json"), r#"{"pid":7,"start_ticks":8}"#).unwrap();
        let record = shims(&web).unwrap();
        assert_eq!((record.bundle, record.process), ("/c".into(), Some((7, 8))));
        fs::write(web.join("state.json"), r#"{"pid":-1}"#).unwrap();
        assert_eq!(shims(&web).unwrap().process, None);
    }
}
