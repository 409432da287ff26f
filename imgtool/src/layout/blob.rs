//! Blobs: content by digest. Written once, proved while they are read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Store, random_hex, sync_parent};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result, Step};
use crate::new_file::NewFile;
use crate::oci::Descriptor;

/// What [`Store::acquire`] found.
pub(crate) enum Acquired {
    /// The blob is in the store.
    Complete,
    /// It is not, and nobody else is fetching it.
    Partial(Partial),
}

/// A blob under way: what was written so far, under a lock.
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    have: u64,
}

impl Store {
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Whether a blob of the right size is there. Its content is proved when it is read.
    pub(crate) fn has_blob(&self, descriptor: &Descriptor) -> bool {
        fs::metadata(self.blob_path(&descriptor.digest))
            .is_ok_and(|meta| meta.is_file() && meta.len() == descriptor.size)
    }

    /// Opens a blob for reading; the reader fails at the end if the content is not what the digest says.
    pub(crate) fn open_blob(&self, descriptor: &Descriptor) -> Result<VerifiedReader<File>> {
        let path = self.blob_path(&descriptor.digest);
        let file = crate::regular::open(&path).with(|| format!("blob {}", descriptor.digest))?;
        Ok(VerifiedReader::new(file, descriptor))
    }

    /// Reads a whole small blob.
    pub(crate) fn read_blob(&self, descriptor: &Descriptor, most: u64) -> Result<Vec<u8>> {
        check_size(descriptor, most)?;
        let mut bytes = Vec::new();
        self.open_blob(descriptor)?.read_to_end(&mut bytes).with(|| format!("blob {}", descriptor.digest))?;
        Ok(bytes)
    }

    /// Writes a small blob, unless it is there.
    pub(crate) fn put_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        self.put_blob_as(Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64), bytes)
    }

    /// Writes a small blob whose digest was proved already.
    pub(crate) fn put_blob_as(&self, descriptor: Descriptor, bytes: &[u8]) -> Result<Descriptor> {
        if !self.has_blob(&descriptor) {
            self.make_blob_directory(&descriptor.digest)?;
            let target = self.blob_path(&descriptor.digest);
            let below = target.strip_prefix(self.root()).map_err(|e| Error::other(e.to_string()))?;
            self.write_file(below, bytes)?;
        }
        Ok(descriptor)
    }

    /// Gives a file whose content was proved its name as a blob.
    pub(crate) fn adopt_blob(&self, digest: &Digest, new: NewFile) -> Result<()> {
        self.place_blob(digest, |target| new.finish(target))
    }

    /// The same of a file in `tmp/`, which is on the disk already.
    pub(crate) fn adopt_spooled(&self, digest: &Digest, file: &Path) -> Result<()> {
        self.place_blob(digest, |target| Ok(fs::rename(file, target)?))
    }

    fn place_blob(&self, digest: &Digest, place: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.make_blob_directory(digest)?;
        let target = self.blob_path(digest);
        place(&target).with(|| format!("blob {digest}"))?;
        sync_parent(&target)
    }

    fn make_blob_directory(&self, digest: &Digest) -> Result<()> {
        let dir = self.path("blobs").join(digest.algorithm().name());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).with(|| format!("mkdir {}", dir.display()))
    }

    /// Begins to write a blob, or waits for whoever does.
    pub(crate) fn acquire(&self, descriptor: &Descriptor) -> Result<Acquired> {
        let path = self.path("ingest").join(format!("{}.partial", descriptor.digest.file_name()));
        loop {
            if self.has_blob(descriptor) {
                return Ok(Acquired::Complete);
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o644);
            let file = options.open(&path).with(|| format!("open {}", path.display()))?;
            file.lock().with(|| format!("lock {}", path.display()))?;
            // The one before us may have finished it, or thrown it away: then this is a file without a name.
            let meta = file.metadata()?;
            if meta.nlink() == 0 || self.has_blob(descriptor) {
                continue;
            }
            self.make_blob_directory(&descriptor.digest)?;
            let have = if meta.len() > descriptor.size { 0 } else { meta.len() };
            let target = self.blob_path(&descriptor.digest);
            return Ok(Acquired::Partial(Partial { file, path, target, have }));
        }
    }

    /// A file in `tmp/` for a blob whose digest is not known yet.
    pub(crate) fn spool(&self) -> Result<(PathBuf, File)> {
        let path = self.path("tmp").join(format!("spool.{}", random_hex(16)?));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&path);
        Ok((path.clone(), file.with(|| format!("create {}", path.display()))?))
    }
}

impl Partial {
    /// Bytes that an earlier download left.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// What is there, as a reader from the start.
    pub(crate) fn existing(&self) -> Result<impl Read + Send + use<>> {
        let mut file =
            OpenOptions::new().read(true).open(&self.path).with(|| format!("open {}", self.path.display()))?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file.take(self.have))
    }

    /// Where the download is appended.
    pub(crate) fn writer(&self) -> Result<File> {
        let mut file = self.file.try_clone()?;
        file.set_len(self.have)?;
        file.seek(SeekFrom::Start(self.have))?;
        Ok(file)
    }

    /// Gives the finished blob its name.
    pub(crate) fn commit(self) -> Result<()> {
        self.file.sync_data().with(|| format!("sync {}", self.path.display()))?;
        fs::rename(&self.path, &self.target).with(|| format!("rename to {}", self.target.display()))?;
        sync_parent(&self.target)
    }

    /// Leaves what came so far to a later download; nothing at all is not worth a file.
    pub(crate) fn keep(self) {
        if self.file.metadata().is_ok_and(|meta| meta.len() == 0) {
            self.discard();
        }
    }

    /// Throws away what turned out to be wrong.
    pub(crate) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Refuses a document that says of itself that it is too large, before any of it is read.
pub(crate) fn check_size(descriptor: &Descriptor, most: u64) -> Result<()> {
    if descriptor.size > most {
        let Descriptor { digest, size, .. } = descriptor;
        return Err(Error::malformed(format!("{digest} has {size} bytes (at most {most} are read)")));
    }
    Ok(())
}

/// Reads a blob and fails, with its last bytes at the latest, if it is not what its descriptor says.
pub(crate) struct VerifiedReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    want: Digest,
    size: u64,
    seen: u64,
    copy: Option<File>,
    /// Bytes at the start that the copy has already.
    copied: u64,
}

impl<R: Read> VerifiedReader<R> {
    pub(crate) fn new(inner: R, descriptor: &Descriptor) -> Self {
        Self {
            inner,
            hasher: Some(Hasher::new(descriptor.digest.algorithm())),
            want: descriptor.digest.clone(),
            size: descriptor.size,
            seen: 0,
            copy: None,
            copied: 0,
        }
    }

    /// Also writes what is read to `copy`, except for the first `copied` bytes.
    pub(crate) fn with_copy(mut self, copy: File, copied: u64) -> Self {
        (self.copy, self.copied) = (Some(copy), copied);
        self
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let before = self.seen;
        self.seen += bytes.len() as u64;
        if self.seen > self.size {
            return Err(Error::damaged(format!("size mismatch: more than the {} bytes that were promised", self.size)));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        if let Some(copy) = &mut self.copy {
            let skip = usize::try_from(self.copied.saturating_sub(before)).unwrap_or(usize::MAX).min(bytes.len());
            copy.write_all(&bytes[skip..]).at("write blob")?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        if self.seen < self.size {
            return Err(Error::damaged(format!("size mismatch: got {} of {} bytes", self.seen, self.size)));
        }
        let got = hasher.finish();
        if got != self.want {
            return Err(Error::damaged(format!("digest mismatch: got {got}")));
        }
        Ok(())
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let len = self.inner.read(buffer)?;
        if len > 0 {
            self.take(&buffer[..len])?;
        }
        // With the last bytes and not after them: who knows the size may not read on to the end.
        if len == 0 || self.seen == self.size {
            self.end()?;
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_was_damaged_is_replaced_by_one_that_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path()).unwrap();
        store.create().unwrap();
        let digest = Digest::of(b"whole");
        let whole = Descriptor::new("", digest.clone(), 5);
        fs::create_dir_all(store.blob_path(&digest).parent().unwrap()).unwrap();
        for damaged in ["wh", "hole!"] {
            fs::write(store.blob_path(&digest), damaged).unwrap();
            let mut new = store.new_file().unwrap();
            new.file().write_all(b"whole").unwrap();
            store.adopt_blob(&digest, new).unwrap();
            assert_eq!(store.read_blob(&whole, 5).unwrap(), b"whole");
            assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
        }
    }
}
