//! index.json: the names of the store.

use std::path::Path;

use super::{Store, if_there};
use crate::error::{Result, Step};
use crate::oci::{self, Descriptor, Index, MANIFEST_MAX};
use crate::regular;

use super::image::{NAME, forget_name};

/// An index.json is read up to this size.
pub(crate) const INDEX_MAX: u64 = 16 * MANIFEST_MAX;

impl Store {
    /// The index, empty when there is none yet.
    pub(crate) fn index(&self) -> Result<Index> {
        self.check_version()?;
        let path = self.path("index.json");
        let step = || format!("read {}", path.display());
        let Some(bytes) = if_there(regular::read(&path, INDEX_MAX).with(step))? else {
            return Ok(Index::empty());
        };
        oci::json(&bytes).with(|| path.display().to_string())
    }

    /// Changes the index, under its lock, by one rename.
    pub(crate) fn update_index<T>(&self, change: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let lock = self.lock_file("index")?;
        lock.lock().at("lock index.json")?;
        let mut index = self.index()?;
        let value = change(&mut index)?;
        self.write_file(Path::new("index.json"), &oci::to_json(&index)?)?;
        Ok(value)
    }

    /// Gives `descriptor` the name that it carries, taking the name from whatever had it: another image stays in the store
    /// without a name. An unnamed image of the same digest goes: it has a name now.
    pub(crate) fn set_entry(&self, descriptor: Descriptor) -> Result<()> {
        self.update_index(|index| {
            let name = descriptor.annotation(NAME).map(str::to_owned);
            let (replaced, mut kept): (Vec<_>, Vec<_>) = index.manifests.drain(..).partition(|have| {
                let other = have.annotation(NAME);
                if other.is_some() { other == name.as_deref() } else { have.digest == descriptor.digest }
            });
            kept.push(descriptor);
            for mut have in replaced {
                if !kept.iter().any(|other| other.digest == have.digest) {
                    forget_name(&mut have);
                    kept.push(have);
                }
            }
            index.manifests = kept;
            Ok(())
        })
    }
}
