//! Unpacked layers.
//!
//! A layer that stands alone is kept by its diff ID, and serves every image that has it. One that leans on the layers
//! below (files in directories it has no entry for, hardlinks to files below) unpacks differently over other layers, and
//! is kept by its chain ID.
//!
//! Thousands of files cannot be synced one by one, and waiting for the disk would double the time of a pull. So the record
//! of a layer names the boot in which it was unpacked: within one boot the kernel shows what was written, whether or not
//! it has reached the disk. A record of an earlier boot counts only if the file system was synced since.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Store, if_there};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::layer::{Powers, Unpacked, open_root, remove_all};
use crate::oci;

/// After this time the kernel has written out most of what a pull made, and syncing the rest is cheap.
const SETTLED: Duration = Duration::from_mins(1);

/// layer.json: what is known of an unpacked layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub(crate) tar_size: u64,
    pub(crate) entries: u64,
    /// Bytes of the files.
    pub(crate) bytes: u64,
    pub(crate) self_contained: bool,
    /// The archive said what the root directory is like.
    pub(crate) has_root: bool,
    /// Nothing of the layers below shows.
    pub(crate) opaque_root: bool,
    /// How it was unpacked: a layer of an ordinary user's is not one of root's.
    #[serde(default)]
    powers: Powers,
    /// The boot in which the layer was unpacked.
    boot: String,
    /// All of it has reached the disk.
    synced: bool,
}

/// An unpacked layer of the store.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Diff ID or chain ID: the name it is kept by.
    pub(crate) key: Digest,
    pub(crate) record: LayerRecord,
    pub(crate) directory: PathBuf,
}

/// A layer that is being unpacked by this process alone.
pub(crate) struct LayerLock {
    key: Digest,
    _lock: File,
}

/// A layer that is being unpacked. Without [`Store::commit_layer`] it goes away.
pub(crate) struct Draft {
    path: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the commit nothing has this name any more.
        let _ = remove_all(&self.path);
    }
}

impl Layer {
    /// The directory that overlayfs stacks.
    pub(crate) fn diff(&self) -> PathBuf {
        self.directory.join("diff")
    }
}

impl Store {
    fn layer_path(&self, key: &Digest) -> PathBuf {
        self.path("layers").join(key.algorithm().name()).join(key.hex())
    }

    /// The unpacked layer `diff_id` that stands on `below` (`None`: at the bottom), if the store has it.
    pub(crate) fn layer(&self, diff_id: &Digest, below: Option<&Digest>) -> Result<Option<Layer>> {
        if let Some(layer) = self.layer_by_key(diff_id)?
            && layer.record.diff_id == *diff_id
            && (below.is_none() || layer.record.self_contained)
        {
            return Ok(Some(layer));
        }
        if below.is_none() {
            return Ok(None);
        }
        self.layer_by_key(&Digest::chain(below, diff_id))
    }

    /// Unpacked layers by the names that they are kept by.
    pub(crate) fn layers_by_keys(&self, keys: &[Digest]) -> Result<Vec<Layer>> {
        let missing = |key: &Digest| Error::damaged(format!("layer {key} is not in the store (any more)"));
        keys.iter().map(|key| self.layer_by_key(key)?.ok_or_else(|| missing(key))).collect()
    }

    fn layer_by_key(&self, key: &Digest) -> Result<Option<Layer>> {
        let directory = self.layer_path(key);
        let record = self.layer_in(&directory)?;
        Ok(record.map(|record| Layer { key: key.clone(), record, directory }))
    }

    /// The record of the layer in this directory, if it counts.
    pub(super) fn layer_in(&self, directory: &Path) -> Result<Option<LayerRecord>> {
        let path = directory.join("layer.json");
        let Some(bytes) = if_there(fs::read(&path).with(|| format!("read {}", path.display())))? else {
            return Ok(None);
        };
        // A record that cannot be read was cut short by a crash: the layer is unpacked again.
        let Ok(record) = oci::json::<LayerRecord>(&bytes) else {
            return Ok(None);
        };
        let counts = record.powers == self.rights().powers() && (record.synced || record.boot == boot_id()?);
        Ok(counts.then_some(record))
    }

    /// Waits until no other process unpacks the layer `key`.
    pub(crate) fn lock_layer(&self, key: &Digest) -> Result<LayerLock> {
        let lock = self.lock_file(&format!("layer-{}", key.file_name()))?;
        lock.lock().with(|| format!("lock layer {key}"))?;
        Ok(LayerLock { key: key.clone(), _lock: lock })
    }

    /// An empty directory to unpack into. `name` is the layer's key, whose lock the caller has, or something unique.
    pub(crate) fn begin_layer(&self, name: &str) -> Result<(Draft, OwnedFd)> {
        let draft = Draft { path: self.path("tmp").join(format!("layer-{name}")) };
        remove_all(&draft.path)?;
        let diff = draft.path.join("diff");
        let make = || -> Result<OwnedFd> {
            fs::DirBuilder::new().mode(0o700).create(&draft.path)?;
            fs::DirBuilder::new().mode(0o755).create(&diff)?;
            open_root(&diff)
        };
        let root = make().with(|| format!("make {}", diff.display()))?;
        Ok((draft, root))
    }

    /// Gives the unpacked layer its name, the lock's key.
    pub(crate) fn commit_layer(&self, draft: &Draft, lock: &LayerLock, unpacked: &Unpacked) -> Result<Layer> {
        let diff_id = unpacked.diff_id.clone().ok_or_else(|| Error::other("a layer without a digest"))?;
        let record = LayerRecord {
            diff_id,
            tar_size: unpacked.tar_size,
            entries: unpacked.entries,
            bytes: unpacked.bytes,
            self_contained: unpacked.self_contained,
            has_root: unpacked.has_root,
            opaque_root: unpacked.opaque_root,
            powers: self.rights().powers(),
            boot: boot_id()?,
            synced: false,
        };
        let directory = self.layer_path(&lock.key);
        let commit = || -> Result<()> {
            fs::write(draft.path.join("layer.json"), oci::to_json(&record)?)?;
            if let Some(parent) = directory.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            if directory.exists() {
                // Of an earlier boot, or damaged, and ours alone by the lock.
                let old = Draft { path: draft.path.with_extension("old") };
                remove_all(&old.path)?;
                fs::rename(&directory, &old.path)?;
            }
            Ok(fs::rename(&draft.path, &directory)?)
        };
        commit().with(|| format!("keep layer {}", lock.key))?;
        Ok(Layer { key: lock.key.clone(), record, directory })
    }

    /// All unpacked layers that count.
    pub(crate) fn all_layers(&self) -> Result<Vec<Layer>> {
        let mut all = Vec::new();
        for algorithm in crate::digest::Algorithm::ALL {
            let directory = self.path("layers").join(algorithm.name());
            let Some(list) = if_there(fs::read_dir(&directory).map_err(Error::from))? else {
                continue;
            };
            for entry in list {
                let key = format!("{}:{}", algorithm.name(), entry?.file_name().to_string_lossy());
                if let Ok(key) = key.parse::<Digest>() {
                    all.extend(self.layer_by_key(&key)?);
                }
            }
        }
        Ok(all)
    }

    /// Marks the layers that have been there for a while as durable. Called where nobody waits for the answer: syncing
    /// may take a second when the machine is busy writing.
    pub(crate) fn settle(&self) -> Result<()> {
        if !self.path("locks").exists() {
            return Ok(()); // the store is gone, and its layers with it
        }
        let _hold = self.hold()?;
        let mut unsynced = self.all_layers()?;
        unsynced.retain(|layer| {
            let written = fs::metadata(layer.directory.join("layer.json")).and_then(|m| m.modified());
            let age = written.ok().and_then(|time| time.elapsed().ok());
            !layer.record.synced && age.is_some_and(|age| age > SETTLED)
        });
        if unsynced.is_empty() {
            return Ok(());
        }
        let root = File::open(self.root())?;
        rustix::fs::syncfs(&root).at("sync the store's file system")?;
        for layer in unsynced {
            let record = LayerRecord { synced: true, ..layer.record.clone() };
            let path = layer.directory.join("layer.json");
            let below = path.strip_prefix(self.root()).map_err(|e| Error::other(e.to_string()))?;
            match self.write_file(below, &oci::to_json(&record)?) {
                // Another time will do.
                Err(e) if e.kind() == Kind::Full => return Ok(()),
                result => result?,
            }
        }
        Ok(())
    }
}

/// Bytes of the files of the layer kept in `directory`, as its record has it.
pub(super) fn recorded_bytes(directory: &Path) -> u64 {
    let record = fs::read(directory.join("layer.json")).ok().map(|bytes| oci::json::<LayerRecord>(&bytes));
    record.and_then(Result::ok).map_or(0, |record| record.bytes)
}

/// Which start of the machine this is.
pub(crate) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).with(|| format!("read {path}"))?.trim().to_owned())
}
