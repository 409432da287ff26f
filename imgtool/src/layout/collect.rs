//! Takes away what nothing names any more.

use std::collections::HashSet;
use std::fs::{self, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::together::is_blank_file;
use super::{Hold, Store, if_there};
use crate::digest::Digest;
use crate::error::{Kind, Result, Step};
use crate::layer::remove_all;
use crate::oci::{CONFIG_MAX, Descriptor, Document, ImageConfig};

/// A partial download that nobody went on with for this long is given up.
const PARTIAL_KEPT: Duration = Duration::from_hours(24);

/// What [`Store::collect`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Collected {
    Removed(Removed),
    /// Another process is adding to the store; a later collection will find what was left.
    Busy,
}

/// What a collection took away.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) blobs: Vec<Digest>,
    /// Keys of unpacked layers.
    pub(crate) layers: Vec<Digest>,
    /// Bytes of the blobs and of the layers' files.
    pub(crate) bytes: u64,
}

#[derive(Default)]
struct Reachable {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

impl Store {
    /// Changes the store's names, also where the disk is full: what nothing uses, and downloads that broke off, make room.
    pub(crate) fn with_room<T>(&self, change: impl Fn() -> Result<T>) -> Result<T> {
        match change() {
            Err(e) if e.kind() == Kind::Full => match self.collect_all()? {
                Collected::Removed(_) => change(),
                Collected::Busy => Err(e),
            },
            result => result,
        }
    }

    /// Removes blobs and layers that neither an image nor a bundle uses.
    pub(crate) fn collect(&self) -> Result<Collected> {
        self.collect_partials_from(PARTIAL_KEPT)
    }

    /// The same, and downloads that broke off just now.
    pub(crate) fn collect_all(&self) -> Result<Collected> {
        self.collect_partials_from(Duration::ZERO)
    }

    /// What is in `tmp` is nobody's as long as this is held. None where another process is adding to the store.
    pub(crate) fn alone(&self) -> Result<Option<Hold>> {
        let lock = self.lock_file("collect")?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Hold { _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).at("lock the store"),
        }
    }

    fn collect_partials_from(&self, age: Duration) -> Result<Collected> {
        let Some(_alone) = self.alone()? else {
            return Ok(Collected::Busy);
        };
        let mut reachable = Reachable::default();
        for entry in &self.index()?.manifests {
            self.mark(entry, &mut reachable, 0);
        }
        for used in self.uses()? {
            reachable.layers.extend(used.layers);
        }
        for (diff_id, blob) in crate::build::cached_layers(self)? {
            reachable.layers.insert(diff_id);
            reachable.blobs.insert(blob);
        }
        let mut removed = Removed::default();
        let mut bytes = 0;
        removed.blobs = self.sweep(
            "blobs",
            |digest| reachable.blobs.contains(digest),
            |path| {
                bytes += fs::metadata(path)?.len();
                Ok(fs::remove_file(path)?)
            },
        )?;
        removed.layers = self.sweep(
            "layers",
            |digest| reachable.layers.contains(digest),
            |path| {
                bytes += super::layers::recorded_bytes(path);
                remove_all(path)
            },
        )?;
        removed.bytes = bytes + self.sweep_leavings(age)?;
        Ok(Collected::Removed(removed))
    }

    /// Follows a descriptor. What cannot be read has nothing below it; it stays itself, to be mended by a pull.
    fn mark(&self, descriptor: &Descriptor, reachable: &mut Reachable, depth: usize) {
        reachable.blobs.insert(descriptor.digest.clone());
        match self.document(descriptor) {
            Ok(Document::Index(index)) if depth < 4 => {
                for manifest in &index.manifests {
                    self.mark(manifest, reachable, depth + 1);
                }
            }
            Ok(Document::Manifest(manifest)) => {
                reachable.blobs.insert(manifest.config.digest.clone());
                reachable.blobs.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
                let config = self.read_blob(&manifest.config, CONFIG_MAX);
                let Ok(config) = config.and_then(|bytes| ImageConfig::parse(&bytes, manifest.layers.len())) else {
                    return;
                };
                let mut below = None;
                for diff_id in &config.rootfs.diff_ids {
                    let chain = Digest::chain(below.as_ref(), diff_id);
                    reachable.layers.extend([diff_id.clone(), chain.clone()]);
                    below = Some(chain);
                }
            }
            _ => {}
        }
    }

    fn sweep(
        &self,
        below: &str,
        keep: impl Fn(&Digest) -> bool,
        mut remove: impl FnMut(&Path) -> Result<()>,
    ) -> Result<Vec<Digest>> {
        let mut removed = Vec::new();
        for algorithm in crate::digest::Algorithm::ALL {
            let directory = self.path(below).join(algorithm.name());
            let Some(list) = if_there(fs::read_dir(&directory).with(|| format!("read {}", directory.display())))?
            else {
                continue;
            };
            for entry in list {
                let entry = entry?;
                let name = entry.file_name();
                // Only what has the form of our own names is ours to remove.
                let Some(Ok(digest)) = name.to_str().map(|hex| format!("{}:{hex}", algorithm.name()).parse::<Digest>())
                else {
                    continue;
                };
                if !keep(&digest) {
                    remove(&entry.path()).with(|| format!("remove {}", entry.path().display()))?;
                    removed.push(digest);
                }
            }
        }
        Ok(removed)
    }

    /// Nobody adds to the store now: whatever is in `tmp` and whatever layer has a lock file was left by a killed process
    /// or is done with. Gives the bytes of downloads that are given up.
    fn sweep_leavings(&self, partials_from: Duration) -> Result<u64> {
        let files = |below: &str| -> Result<Vec<std::path::PathBuf>> {
            let directory = self.path(below);
            let list = if_there(fs::read_dir(&directory).with(|| format!("read {}", directory.display())))?;
            list.into_iter().flatten().map(|entry| Ok(entry?.path())).collect()
        };
        for path in files("tmp")? {
            // A build has more than files.
            if !crate::build::clear_left(&path) {
                remove_all(&path)?;
            }
        }
        // A bundle says what it stands on before it has anything else.
        for path in files("bundles")? {
            let record = path.join("bundle.json");
            if path.is_dir() && (!record.exists() || is_blank_file(&record)) {
                remove_all(&path)?;
            }
        }
        for path in files("volumes")? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                remove_all(&path)?;
            }
        }
        for path in files("locks")? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("layer-")) {
                fs::remove_file(&path)?;
            }
        }
        let mut bytes = 0;
        for path in files("ingest")? {
            let meta = fs::metadata(&path)?;
            if meta.modified()?.elapsed().unwrap_or_default() >= partials_from {
                fs::remove_file(&path)?;
                bytes += meta.len();
            }
        }
        Ok(bytes)
    }
}
