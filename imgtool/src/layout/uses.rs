//! Records of the bundles that stand on the store's layers.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Store, if_there};
use crate::digest::Digest;
use crate::error::{Result, Step};
use crate::oci;

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
}

impl Store {
    fn use_path(bundle: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        Path::new("uses").join(format!("{}.json", &Digest::of(bundle.as_os_str().as_bytes()).hex()[..32]))
    }

    pub(crate) fn add_use(&self, used: &Use) -> Result<()> {
        self.write_file(&Self::use_path(&used.bundle), &oci::to_json(used)?)
    }

    pub(crate) fn remove_use(&self, bundle: &Path) -> Result<()> {
        let path = self.path(Self::use_path(bundle));
        if_there(fs::remove_file(&path).with(|| format!("remove {}", path.display()))).map(drop)
    }

    /// The bundles that still exist. Records of those whose directory somebody removed by hand are dropped.
    pub(crate) fn uses(&self) -> Result<Vec<Use>> {
        let directory = self.path("uses");
        let Some(list) = if_there(fs::read_dir(&directory).with(|| format!("read {}", directory.display())))? else {
            return Ok(Vec::new());
        };
        let mut uses = Vec::new();
        for entry in list {
            let path = entry.with(|| format!("read {}", directory.display()))?.path();
            let Some(bytes) = if_there(fs::read(&path).with(|| format!("read {}", path.display())))? else {
                continue;
            };
            let used: Use = oci::json(&bytes).with(|| path.display().to_string())?;
            if used.bundle.exists() {
                uses.push(used);
            } else {
                if_there(fs::remove_file(&path).with(|| format!("remove {}", path.display())))?;
            }
        }
        Ok(uses)
    }
}
