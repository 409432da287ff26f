//! Images of the store into one OCI or Docker archive.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use clap::ValueEnum;
use serde_json::json;
use tar::{EntryType, Header};

use crate::digest::Digest;
use crate::error::{Error, Result, Step};
use crate::layer::Inflated;
use crate::layout::{Image, NAME, Store};
use crate::oci::{self, Descriptor, Index};
use crate::progress::Progress;

/// The form of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// An OCI image layout in a tar.
    #[default]
    OciArchive,
    /// What `docker save` writes and `docker load` reads.
    DockerArchive,
}

/// Writes `images` to `output`.
pub(crate) fn save(
    store: &Store,
    images: &[Image],
    format: Format,
    output: impl Write,
    progress: &Progress,
) -> Result<()> {
    let mut archive = Archive { tar: tar::Builder::new(output), written: HashSet::new(), store, progress };
    match format {
        Format::OciArchive => archive.oci(images)?,
        Format::DockerArchive => archive.docker(images)?,
    }
    let mut output = archive.tar.into_inner()?;
    output.flush().at("write the archive")
}

struct Archive<'a, W: Write> {
    tar: tar::Builder<W>,
    written: HashSet<String>,
    store: &'a Store,
    progress: &'a Progress,
}

impl<W: Write> Archive<'_, W> {
    fn oci(&mut self, images: &[Image]) -> Result<()> {
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut index = Index::empty();
        for image in images {
            let mut entry = image.descriptor.clone();
            entry.platform = Some(image.config.platform());
            entry.annotations.clone_from(&image.entry.annotations);
            index.manifests.push(entry);
            for blob in image.manifest.layers.iter().chain([&image.manifest.config, &image.descriptor]) {
                self.blob(blob).with(|| image.display())?;
            }
        }
        self.file("index.json", &oci::to_json(&index)?)
    }

    fn docker(&mut self, images: &[Image]) -> Result<()> {
        let mut list: Vec<(Digest, serde_json::Value)> = Vec::new();
        for image in images {
            let tag = image.entry.annotation(NAME).filter(|name| !name.contains('@'));
            if let Some((_, have)) = list.iter_mut().find(|(id, _)| id == image.id()) {
                // One image by two names is one entry with two tags.
                if let (Some(tags), Some(tag)) = (have["RepoTags"].as_array_mut(), tag) {
                    tags.push(json!(tag));
                }
                continue;
            }
            let config = format!("{}.json", image.id().hex());
            let bytes = self.store.read_blob(&image.manifest.config, oci::CONFIG_MAX).with(|| image.display())?;
            self.file(&config, &bytes)?;
            let mut names = Vec::new();
            for (layer, diff_id) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
                let name = format!("{}.tar", diff_id.hex());
                self.uncompressed(layer, &name).with(|| format!("{}: layer {}", image.display(), layer.digest))?;
                names.push(name);
            }
            let tags: Vec<&str> = tag.into_iter().collect();
            list.push((image.id().clone(), json!({"Config": config, "RepoTags": tags, "Layers": names})));
        }
        let list: Vec<serde_json::Value> = list.into_iter().map(|(_, entry)| entry).collect();
        self.file("manifest.json", &oci::to_json(&list)?)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.stream(name, bytes.len() as u64, bytes)
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<()> {
        let digest = &descriptor.digest;
        let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        if self.written.contains(&name) {
            return Ok(());
        }
        let task = self.progress.task(&format!("blob {}", digest.short()), descriptor.size, 0);
        let reader = self.store.open_blob(descriptor)?;
        self.stream(&name, descriptor.size, reader).with(|| format!("blob {digest}"))?;
        task.finish("saved");
        Ok(())
    }

    /// Docker's layers are plain tars. The size must stand before the data: read twice rather than keep the whole.
    fn uncompressed(&mut self, layer: &Descriptor, name: &str) -> Result<()> {
        if self.written.contains(name) {
            return Ok(());
        }
        let task = self.progress.task(&format!("layer {}", layer.digest.short()), layer.size, 0);
        let size = io::copy(&mut Inflated::new(self.store.open_blob(layer)?)?, &mut io::sink())?;
        let inflated = Inflated::new(self.store.open_blob(layer)?)?;
        self.stream(name, size, inflated)?;
        task.finish("saved");
        Ok(())
    }

    fn stream(&mut self, name: &str, size: u64, reader: impl Read) -> Result<()> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0); // the same images give the same archive
        header.set_path(name)?;
        header.set_cksum();
        let mut counted = Exactly { inner: reader, left: size };
        self.tar.append(&header, &mut counted).map_err(Error::from)
    }
}

/// Fails rather than write an entry shorter or longer than its header says, and reads its input to the end, where blobs
/// prove themselves.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        match self.left.checked_sub(len as u64) {
            Some(left) if len > 0 || left == 0 => self.left = left,
            _ => {
                return Err(Error::damaged("the content changed its size while it was read").into());
            }
        }
        Ok(len)
    }
}
