//! Named volumes: directories that outlive the bundles which mount them.
//!
//! A bundle's record says which it uses before they are made or found, both under `locks/volumes` held shared; who removes
//! one holds it alone.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::SystemTime;

use super::{Store, if_there, random_hex};
use crate::error::{Error, Result, Step};
use crate::layer::remove_all;

const DIRECTORY: &str = "volumes";
/// Volumes that were made without a name have one of so many random digits, as Docker's.
const UNNAMED: usize = 64;

/// A named volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Unknown where the file system does not keep it.
    pub(crate) created: Option<SystemTime>,
    /// The bundles that mount it.
    pub(crate) bundles: Vec<PathBuf>,
}

impl Volume {
    /// Whether nobody gave it a name.
    pub(crate) fn is_unnamed(&self) -> bool {
        self.name.len() == UNNAMED && self.name.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl Store {
    /// Where the volume `name` is, or is to be; with the directory of volumes made.
    pub(crate) fn volume_path(&self, name: &str) -> Result<PathBuf> {
        let directory = self.path(DIRECTORY);
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).at("volumes of the store")?;
        Ok(directory.join(name))
    }

    /// Keeps volumes from being removed while it lives.
    pub(crate) fn hold_volumes(&self) -> Result<File> {
        let lock = self.lock_file(DIRECTORY)?;
        lock.lock_shared().at("lock the volumes")?;
        Ok(lock)
    }

    /// All volumes, by name.
    pub(crate) fn volumes(&self) -> Result<Vec<Volume>> {
        let directory = self.path(DIRECTORY);
        let uses = self.uses()?;
        let mut all = Vec::new();
        let step = || format!("read {}", directory.display());
        for entry in if_there(fs::read_dir(&directory).with(step))?.into_iter().flatten() {
            let entry = entry.with(step)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // What begins with a dot is being made or removed.
            if name.starts_with('.') || !entry.file_type().with(step)?.is_dir() {
                continue;
            }
            let bundles = uses.iter().filter(|used| used.volumes.contains(&name));
            all.push(Volume {
                path: entry.path(),
                created: entry.metadata().ok().and_then(|meta| meta.created().or_else(|_| meta.modified()).ok()),
                bundles: bundles.map(|used| used.bundle.clone()).collect(),
                name,
            });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(crate) fn volume(&self, name: &str) -> Result<Volume> {
        let found = self.volumes()?.into_iter().find(|volume| volume.name == name);
        found.ok_or_else(|| Error::missing(format!("{name}: no such volume in {}", self.root().display())))
    }

    /// Makes an empty volume, unless it is there; gives its name.
    pub(crate) fn create_volume(&self, name: Option<&str>) -> Result<String> {
        let name = name.map_or_else(|| random_hex(UNNAMED), |name| Ok(name.to_owned()))?;
        let path = self.volume_path(&name)?;
        let make = || -> std::io::Result<()> {
            match DirBuilder::new().mode(0o755).create(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                made => made.and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755))),
            }
        };
        make().with(|| format!("volume {name}"))?;
        Ok(name)
    }

    /// Removes a volume that no bundle mounts. The caller holds the store.
    pub(crate) fn remove_volume(&self, name: &str) -> Result<()> {
        let gone = {
            let lock = self.lock_file(DIRECTORY)?;
            lock.lock().at("lock the volumes")?;
            let volume = self.volume(name)?;
            if let Some(bundle) = volume.bundles.first() {
                let bundle = bundle.display();
                return Err(Error::other(format!(
                    "{name}: volume is in use by the bundle {bundle}: unbundle it first"
                )));
            }
            let gone = volume.path.with_file_name(format!(".{}", random_hex(12)?));
            fs::rename(&volume.path, &gone).with(|| format!("rename {}", volume.path.display()))?;
            gone
        };
        remove_all(&gone).with(|| format!("remove {}", gone.display()))
    }
}
