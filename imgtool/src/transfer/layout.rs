//! OCI image layouts as ends of a transfer: the store's images, and plain directories (`oci:DIR[:NAME]`).

use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Name, Source, Target};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::layout::{INDEX_MAX, NAME, Store, VerifiedReader, sync_parent};
use crate::new_file::NewFile;
use crate::oci::{self, Descriptor, Document, Index, MANIFEST_MAX};
use crate::reference::Reference;
use crate::registry::{Delivered, Sent, Told};
use crate::regular;

/// A manifest of a store, or of a layout that is read like one.
pub(crate) struct StoreImage {
    store: Store,
    top: Descriptor,
    repository: Option<Reference>,
}

impl StoreImage {
    pub(crate) fn new(store: &Store, top: &Descriptor, repository: Option<Reference>) -> Self {
        Self { store: store.clone(), top: top.clone(), repository }
    }
}

impl Source for StoreImage {
    fn manifest(&self, descriptor: Option<&Descriptor>) -> Result<Delivered> {
        let descriptor = descriptor.unwrap_or(&self.top);
        let bytes = self.store.read_blob(descriptor, MANIFEST_MAX)?;
        Ok(Delivered { bytes, digest: descriptor.digest.clone(), media_type: descriptor.media_type.clone() })
    }

    fn open<'a>(&'a self, blob: &'a Descriptor, offset: u64) -> Result<Box<dyn Read + Send + 'a>> {
        let path = self.store.blob_path(&blob.digest);
        let mut file = regular::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::missing("is not in the store: pull the image again"),
            _ => e.into(),
        })?;
        if offset == 0 {
            return Ok(Box::new(VerifiedReader::new(file, blob)));
        }
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for entry in self.store.index()?.manifests {
            let Ok(bytes) = self.store.read_blob(&entry, MANIFEST_MAX) else { continue };
            if let Ok(Document::Manifest(manifest)) = Document::parse_any(&bytes, &entry.media_type)
                && manifest.subject.is_some_and(|of| of.digest == *subject)
            {
                found.push(entry);
            }
        }
        Ok(found)
    }

    fn tagged(&self, tag: &str) -> Result<Option<Delivered>> {
        let index = self.store.index()?;
        let named = |entry: &&Descriptor| {
            entry.annotation(NAME).is_some_and(|name| name == tag || name.ends_with(&format!(":{tag}")))
        };
        index.manifests.iter().find(named).map(|entry| self.manifest(Some(entry))).transpose()
    }

    fn repository(&self) -> Option<&Reference> {
        self.repository.as_ref()
    }
}

/// A directory that is an OCI image layout and nothing else.
pub(crate) struct LayoutDir {
    directory: PathBuf,
    name: Option<String>,
    new: Mutex<Vec<Descriptor>>,
}

impl LayoutDir {
    /// `oci:DIR[:NAME]` without its first word. The name may have colons, the directory has none (containers-transports(5)).
    pub(crate) fn parse(text: &str) -> (PathBuf, Option<String>) {
        let (directory, name) = text.split_once(':').unwrap_or((text, ""));
        (PathBuf::from(directory), Some(name.to_owned()).filter(|name| !name.is_empty()))
    }

    /// Makes the layout where it is not there yet.
    pub(crate) fn create(directory: &Path, name: Option<String>) -> Result<Self> {
        let layout = Self { directory: directory.to_owned(), name, new: Mutex::default() };
        let step = || format!("layout {}", directory.display());
        fs::create_dir_all(directory.join("blobs/sha256")).with(step)?;
        if !directory.join("oci-layout").exists() {
            layout.write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).with(step)?;
        }
        Ok(layout)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    fn has(&self, blob: &Descriptor) -> bool {
        fs::metadata(self.blob_path(&blob.digest)).is_ok_and(|meta| meta.is_file() && meta.len() == blob.size)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.place(&self.directory.join(name), |file| Ok(file.write_all(bytes)?))
    }

    /// Makes a file that appears when it is complete and on disk.
    fn place(&self, target: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        let parent = target.parent().unwrap_or(&self.directory);
        fs::create_dir_all(parent)?;
        let write = || -> Result<()> {
            let mut new = NewFile::beside(target)?;
            fill(new.file())?;
            new.finish(target)
        };
        write().with(|| format!("write {}", target.display()))
    }

    fn index(&self) -> Result<Index> {
        let path = self.directory.join("index.json");
        match regular::read(&path, INDEX_MAX) {
            Ok(bytes) => oci::json(&bytes).with(|| path.display().to_string()),
            Err(e) if e.kind() == Kind::Missing => Ok(Index::empty()),
            Err(e) => Err(e).with(|| format!("read {}", path.display())),
        }
    }
}

impl Target for LayoutDir {
    fn name(&self) -> String {
        self.directory.display().to_string()
    }

    fn has_named(&self, _: &Digest) -> Result<bool> {
        Ok(false) // looking for each blob costs little here
    }

    fn put_blob(&self, blob: &Descriptor, source: &dyn Source, told: &(dyn Fn(u64) + Sync)) -> Result<Sent> {
        if self.has(blob) {
            return Ok(Sent::Exists);
        }
        self.place(&self.blob_path(&blob.digest), |file| {
            let mut from = Told { inner: source.open(blob, 0)?, tell: told };
            std::io::copy(&mut from, file)?;
            Ok(())
        })?;
        Ok(Sent::Uploaded)
    }

    fn put_manifest(
        &self,
        manifest: &Descriptor,
        bytes: &[u8],
        name: Name<'_>,
        subject: Option<&Descriptor>,
    ) -> Result<()> {
        self.place(&self.blob_path(&manifest.digest), |file| Ok(file.write_all(bytes)?))?;
        let name = match name {
            Name::Asked => self.name.clone(),
            Name::Tag(tag) => Some(tag.to_owned()),
            // Reached from an index, or by what it says of another.
            Name::Digest if subject.is_none() => return Ok(()),
            Name::Digest => None,
        };
        let mut entry = manifest.clone();
        entry.annotations = name.map(|name| [(NAME.to_owned(), name)].into());
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let mut index = self.index()?;
        // The blobs' names reach the disk before the index does that says them.
        for algorithm in crate::digest::Algorithm::ALL {
            let directory = self.directory.join("blobs").join(algorithm.name());
            if directory.exists() {
                sync_parent(&directory.join("any"))?;
            }
        }
        for entry in self.new.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let name = entry.annotation(NAME).map(str::to_owned);
            index.manifests.retain(|have| match have.annotation(NAME) {
                Some(other) => Some(other) != name.as_deref(),
                None => have.digest != entry.digest,
            });
            index.manifests.push(entry);
        }
        self.write("index.json", &oci::to_json(&index)?)?;
        sync_parent(&self.directory.join("index.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_ends_the_directory() {
        for (text, directory, name) in [
            ("dir", "dir", None),
            ("dir:", "dir", None),
            ("/a/b:name", "/a/b", Some("name")),
            ("dir:debian:12", "dir", Some("debian:12")),
            ("dir:reg.example:5000/a/b:1", "dir", Some("reg.example:5000/a/b:1")),
        ] {
            assert_eq!(LayoutDir::parse(text), (PathBuf::from(directory), name.map(str::to_owned)), "{text}");
        }
    }
}
