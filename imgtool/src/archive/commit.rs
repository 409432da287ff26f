//! What a container changed becomes a layer, and an image of it and those below.

use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;

use super::new_blob::{LayerCompression, NewBlob};
use crate::build::change;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Result;
use crate::layer::write_changes;
use crate::layout::{Image, Store, put_image};
use crate::oci::{self, Descriptor, History};
use crate::reference::Reference;
use crate::time;

/// What is committed, and how.
pub(crate) struct Commit<'a> {
    pub(crate) base: &'a Image,
    /// The upper directory of the container's overlay.
    pub(crate) upper: &'a OwnedFd,
    /// Paths in it that are no changes of the container's.
    pub(crate) without: &'a [Vec<u8>],
    /// The root directory itself is not as the image has it.
    pub(crate) root_changed: bool,
    pub(crate) reference: &'a Reference,
    /// Dockerfile instructions that change the config.
    pub(crate) changes: &'a [String],
    pub(crate) message: Option<&'a str>,
    pub(crate) author: Option<&'a str>,
    pub(crate) compression: LayerCompression,
    pub(crate) level: Option<i32>,
}

/// Makes the image and names it. The caller holds the store.
pub(crate) fn commit(store: &Store, commit: &Commit<'_>) -> Result<Descriptor> {
    let mut config = commit.base.config.clone();
    change(&mut config.config, commit.changes)?;
    let NewLayer { descriptor, diff_id, .. } =
        layer_of(store, commit.upper, commit.root_changed, commit.without, commit.compression, commit.level)?;
    config.rootfs.diff_ids.push(diff_id);
    let created = Some(time::now());
    config.created.clone_from(&created);
    config.author = commit.author.map(str::to_owned).or(config.author);
    config.history.push(History {
        created,
        created_by: Some("imgtool commit".to_owned()),
        author: commit.author.map(str::to_owned),
        comment: commit.message.map(str::to_owned),
        ..History::default()
    });
    let mut layers: Vec<Descriptor> = commit.base.manifest.layers.iter().map(as_oci).collect();
    layers.push(descriptor);
    let manifest = put_image(store, &config, layers)?;
    store.tag(&manifest, config.platform(), &commit.reference.to_string(), None)?;
    Ok(manifest)
}

/// The new manifest is OCI's: so are the types of the layers in it.
pub(crate) fn as_oci(layer: &Descriptor) -> Descriptor {
    let media_type = match layer.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => oci::OCI_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => oci::OCI_LAYER_ZSTD,
        "application/vnd.docker.image.rootfs.diff.tar" => oci::OCI_LAYER,
        other => other,
    };
    Descriptor { media_type: media_type.to_owned(), ..layer.clone() }
}

/// A layer that was made of a directory.
pub(crate) struct NewLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub(crate) tar_size: u64,
}

/// Writes the upper directory of an overlay as a blob of the store, which the caller holds.
pub(crate) fn new_layer(
    store: &Store,
    upper: &OwnedFd,
    root_changed: bool,
    compression: LayerCompression,
    level: Option<i32>,
) -> Result<NewLayer> {
    layer_of(store, upper, root_changed, &[], compression, level)
}

fn layer_of(
    store: &Store,
    upper: &OwnedFd,
    root_changed: bool,
    without: &[Vec<u8>],
    compression: LayerCompression,
    level: Option<i32>,
) -> Result<NewLayer> {
    let blob = NewBlob::new(store, compression, level)?;
    let inner = BufWriter::with_capacity(1 << 20, blob);
    let mut tar = Hashed { inner, hasher: Hasher::new(Algorithm::Sha256), size: 0 };
    write_changes(upper, root_changed, without, &mut tar)?;
    let blob = tar.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    let descriptor = blob.finish(store)?;
    Ok(NewLayer { descriptor, diff_id: tar.hasher.finish(), tar_size: tar.size })
}

struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        self.size += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
