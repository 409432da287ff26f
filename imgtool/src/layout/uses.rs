//! Records of the bundles that stand on the store's layers.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::together::{Together, is_blank};
use super::{Store, if_there};
use crate::digest::Digest;
use crate::error::{Result, Step};
use crate::oci;
use crate::rights::Maps;

const DIRECTORY: &str = "uses";

/// One bundle and what it needs of the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Use {
    /// The bundle's directory, absolute.
    pub(crate) bundle: PathBuf,
    /// The image as it was asked for.
    pub(crate) image: String,
    /// The image's manifest.
    pub(crate) digest: Digest,
    /// Keys of the unpacked layers, the lowest first.
    pub(crate) layers: Vec<Digest>,
    /// Names of the volumes that it mounts.
    #[serde(default)]
    pub(crate) volumes: Vec<String>,
    /// Of the container's user namespace, which no other bundle gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ids: Option<Maps>,
}

impl Store {
    /// Nobody else chooses ids before our record says which are ours.
    pub(crate) fn hold_ids(&self) -> Result<File> {
        let lock = self.lock_file("ids")?;
        lock.lock().at("lock the ids")?;
        Ok(lock)
    }

    fn use_path(bundle: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        Path::new(DIRECTORY).join(format!("{}.json", &Digest::of(bundle.as_os_str().as_bytes()).hex()[..32]))
    }

    /// Says so to others at once; it counts after a power cut as well when `together` is on the disk.
    pub(crate) fn add_use(&self, used: &Use, together: &mut Together) -> Result<()> {
        let target = self.path(Self::use_path(&used.bundle));
        let write = || -> Result<File> {
            let mut new = self.new_file()?;
            new.file().write_all(&oci::to_json(used)?)?;
            new.finish_unsynced(&target)
        };
        let file = write().with(|| format!("write {}", target.display()))?;
        together.add(target, file);
        together.add_directory(self.path(DIRECTORY));
        Ok(())
    }

    pub(crate) fn remove_use(&self, bundle: &Path) -> Result<()> {
        let path = self.path(Self::use_path(bundle));
        if_there(fs::remove_file(&path).with(|| format!("remove {}", path.display()))).map(drop)
    }

    /// The bundles that still exist. Records of those whose directory somebody removed by hand are dropped, and what a power cut
    /// left of others.
    pub(crate) fn uses(&self) -> Result<Vec<Use>> {
        let directory = self.path(DIRECTORY);
        let Some(list) = if_there(fs::read_dir(&directory).with(|| format!("read {}", directory.display())))? else {
            return Ok(Vec::new());
        };
        let mut uses = Vec::new();
        for entry in list {
            let path = entry.with(|| format!("read {}", directory.display()))?.path();
            let Some(bytes) = if_there(fs::read(&path).with(|| format!("read {}", path.display())))? else {
                continue;
            };
            if !is_blank(&bytes) {
                let used: Use = oci::json(&bytes).with(|| path.display().to_string())?;
                if used.bundle.exists() {
                    uses.push(used);
                    continue;
                }
            }
            if_there(fs::remove_file(&path).with(|| format!("remove {}", path.display())))?;
        }
        Ok(uses)
    }
}
