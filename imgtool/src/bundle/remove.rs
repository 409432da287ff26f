//! Takes a bundle away: mounts, files, the store's record of it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{RECORD, Record, containers, link, namespaces, overlay, read_record, userns};
use crate::error::{Error, Result, Step, tell};
use crate::layer::remove_all;
use crate::layout::{Store, check_ours, is_blank_file};

/// All that `bundle` makes in a bundle's directory.
const OURS: [&str; 18] = [
    "config.json",
    ".config.json",
    ".bundle.json",
    "rootfs",
    "overlay",
    "volumes",
    namespaces::KEPT,
    namespaces::SHM,
    userns::MAPPED,
    "etc",
    "network.json",
    ".network.json",
    "network-state.json",
    ".network-state.json",
    link::NAMESPACE,
    "pasta.log",
    "pasta.pid",
    RECORD,
];

/// Unmounts and removes the bundle at `directory`, unless a container still uses it. Gives the files that somebody else
/// put there; they stay, and so does their directory.
pub(crate) fn remove(here: &Store, directory: &Path) -> Result<Vec<PathBuf>> {
    let directory = std::path::absolute(directory)?;
    let store = store_of(here, &directory)?;
    check_unused(&directory)?;
    let left = undo(&store, &directory, true)?;
    store.settle()?;
    Ok(left)
}

/// Refuses while a container uses the bundle.
pub(crate) fn check_unused(directory: &Path) -> Result<()> {
    match user_of(&std::path::absolute(directory)?)? {
        Some(user) => Err(Error::other(format!("{user} still uses it: stop and delete that first"))),
        None => Ok(()),
    }
}

/// The store that a bundle stands on. Where bundle.json was lost, the record in the store `here` will do. A power cut while it
/// was made may have left neither: then it stands on none.
fn store_of(here: &Store, directory: &Path) -> Result<Store> {
    if let Ok(meta) = fs::metadata(directory) {
        check_ours(&meta)?;
    }
    match read_record(directory) {
        Ok(record) => here.other(&record.store),
        Err(_) if is_blank_file(&directory.join(RECORD)) => Ok(here.clone()),
        Err(_) if here.uses()?.iter().any(|used| used.bundle == *directory) => Ok(here.clone()),
        Err(e) => Err(e),
    }
}

/// Undoes what was made so far. A directory that was there before (`made` false) stays, empty.
pub(super) fn undo(store: &Store, directory: &Path, made: bool) -> Result<Vec<PathBuf>> {
    // What a killed runtime left of a container's network. What a bundle that was not made here says of one is not acted on.
    if store.uses()?.iter().any(|used| used.bundle == *directory)
        && let Err(e) = link::down(directory)
    {
        tell(format_args!("imgtool: {}: network: {e}", directory.display()));
    }
    overlay::unmount_rootfs(&directory.join("rootfs"))?;
    namespaces::forget(directory)?;
    userns::forget(directory);
    // First what may be refused, and leaves the rest whole then: something is mounted there. A copy goes after config.json, which
    // is there as long as the files are. What was mounted has none there but those that somebody made while it was not.
    if !read_record(directory).is_ok_and(|record: Record| record.copied) {
        remove_all(&directory.join("rootfs"))?;
    }
    // The record goes last: until then an interrupted removal can be taken up again.
    for name in OURS {
        let path = directory.join(name);
        let result = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => remove_all(&path).map_err(Into::into),
            Ok(_) if name == RECORD => {
                store.remove_use(directory)?;
                fs::remove_file(&path)
            }
            Ok(_) => fs::remove_file(&path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        result.with(|| format!("remove {}", path.display()))?;
    }
    store.remove_use(directory)?;
    if !made {
        return Ok(Vec::new());
    }
    match fs::remove_dir(directory) {
        Ok(()) => Ok(Vec::new()),
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            let list = fs::read_dir(directory).with(|| format!("read {}", directory.display()))?;
            Ok(list.filter_map(|entry| Some(entry.ok()?.path())).collect())
        }
        Err(e) => Err(e).with(|| format!("remove {}", directory.display())),
    }
}

/// Who uses the bundle: a process whose root directory it is, or a container that somebody has a record of.
pub(crate) fn user_of(directory: &Path) -> Result<Option<String>> {
    if let Some(container) = container_of(directory) {
        return Ok(Some(container));
    }
    process_in(directory)
}

/// A process whose root is the bundle's.
fn process_in(directory: &Path) -> Result<Option<String>> {
    let Ok(meta) = fs::metadata(directory.join("rootfs")) else { return Ok(None) };
    let is_mounted = fs::metadata(directory).is_ok_and(|above| above.dev() != meta.dev());
    Ok(containers::process_in(&meta, is_mounted)?.map(|pid| format!("process {pid}")))
}

/// Refuses while something runs in the bundle: it would keep the mount, and another one over the same directories is none that
/// the kernel vouches for.
pub(crate) fn check_idle(directory: &Path) -> Result<()> {
    match process_in(&std::path::absolute(directory)?)? {
        Some(user) => Err(Error::other(format!("{user} runs in it: stop its container first"))),
        None => Ok(()),
    }
}

/// A container, perhaps a stopped one, that a runtime or the standalone shim has a record of.
fn container_of(directory: &Path) -> Option<String> {
    let mut records = containers::records().into_iter();
    records
        .find(|record| containers::same(&record.bundle, directory))
        .map(|record| format!("container {}", record.name))
}
