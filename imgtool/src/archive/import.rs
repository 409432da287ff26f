//! A root file system's tar becomes an image of one layer: in one pass it is unpacked, hashed, and compressed into a blob.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use clap::ValueEnum;
use flate2::write::GzEncoder;

use super::{apply_change, input_name, open_input};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result, Step};
use crate::layer::{self, Job, Limits, LowerStack, OverlayForm, TarSink};
use crate::layout::{Store, put_image, random_hex};
use crate::oci::{self, Descriptor, Execution, History, ImageConfig, RootFs};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::time;

/// gzip's level: twice as fast as the usual 6, for a few per cent in size.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 3;

/// How the layer of an imported image is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayerCompression {
    /// Read by every tool.
    #[default]
    Gzip,
    /// Faster and smaller; old tools do not read it.
    Zstd,
    /// As it is.
    None,
}

/// What is imported, and how.
pub(crate) struct Import<'a> {
    pub(crate) input: &'a Path,
    pub(crate) reference: &'a Reference,
    pub(crate) platform: &'a Platform,
    /// Dockerfile instructions that change the config.
    pub(crate) changes: &'a [String],
    pub(crate) message: Option<&'a str>,
    pub(crate) compression: LayerCompression,
    pub(crate) limits: Limits,
}

/// Imports a tar and gives the manifest's descriptor. The caller holds the store.
pub(crate) fn import(store: &Store, import: &Import<'_>, progress: &Progress) -> Result<Descriptor> {
    let mut execution = Execution::default();
    for change in import.changes {
        apply_change(&mut execution, change).with(|| format!("--change {change:?}"))?;
    }
    let name = input_name(import.input);
    let (layer, diff_id) = layer(store, import, progress).with(|| name.clone())?;
    let created = Some(time::now());
    let Platform { architecture, os, variant, .. } = import.platform.clone();
    let config = ImageConfig {
        created: created.clone(),
        architecture,
        os,
        variant,
        config: execution,
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
        history: vec![History {
            created,
            created_by: Some("imgtool import".to_owned()),
            comment: Some(import.message.map_or_else(|| format!("Imported from {name}"), str::to_owned)),
            ..History::default()
        }],
        ..ImageConfig::default()
    };
    let manifest = put_image(store, &config, vec![layer])?;
    store.tag(&manifest, config.platform(), &import.reference.to_string(), None)?;
    Ok(manifest)
}

fn layer(store: &Store, import: &Import<'_>, progress: &Progress) -> Result<(Descriptor, Digest)> {
    let input = open_input(import.input)?;
    let size = std::fs::metadata(import.input).map_or(0, |meta| meta.len());
    let task = progress.task("import", size, 0);
    let (path, file) = store.spool()?;
    let spool = Spool { path };
    let mut blob = BlobSink::new(Output { file, hasher: Hasher::new(Algorithm::Sha256), size: 0 }, import.compression)?;
    let (draft, root) = store.begin_layer(&format!("import-{}", random_hex(16)?))?;
    // At the bottom nothing can be missing below.
    let nothing = LowerStack::default();
    let job = Job {
        diff_id: None,
        root,
        form: OverlayForm::Trusted,
        limits: import.limits,
        compressed: None,
        lower: Some(&nothing),
    };
    let unpacked = layer::unpack(Watched { inner: input, task: &task }, job, Some(&mut blob))?;
    let diff_id = unpacked.diff_id.clone().ok_or_else(|| Error::other("no digest"))?;
    if unpacked.entries == 0 {
        return Err(Error::malformed("no tar archive (it has no entries)"));
    }
    let (digest, size) = blob.finish()?;
    let lock = store.lock_layer(&diff_id)?;
    if store.layer(&diff_id, None)?.is_none() {
        store.commit_layer(&draft, &lock, &unpacked)?;
    }
    store.adopt_blob(&digest, &spool.path)?;
    task.finish("imported");
    let media_type = match import.compression {
        LayerCompression::Gzip => oci::OCI_LAYER_GZIP,
        LayerCompression::Zstd => oci::OCI_LAYER_ZSTD,
        LayerCompression::None => oci::OCI_LAYER,
    };
    Ok((Descriptor::new(media_type, digest, size), diff_id))
}

/// A file in `tmp/` that goes away unless it was adopted.
struct Spool {
    path: std::path::PathBuf,
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Watched<'a, R> {
    inner: R,
    task: &'a crate::progress::Task<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.task.advance(len as u64);
        Ok(len)
    }
}

/// The blob's file, hashed as it is written.
struct Output {
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        self.size += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum BlobSink {
    Plain(Output),
    Gzip(GzEncoder<Output>),
    Zstd(zstd::stream::write::Encoder<'static, Output>),
}

impl BlobSink {
    fn new(output: Output, compression: LayerCompression) -> Result<Self> {
        Ok(match compression {
            LayerCompression::None => Self::Plain(output),
            LayerCompression::Gzip => Self::Gzip(GzEncoder::new(output, flate2::Compression::new(GZIP_LEVEL))),
            LayerCompression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(output, ZSTD_LEVEL)?),
        })
    }

    fn finish(self) -> Result<(Digest, u64)> {
        let output = match self {
            Self::Plain(output) => output,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        output.file.sync_data().at("sync the layer")?;
        Ok((output.hasher.finish(), output.size))
    }
}

impl TarSink for BlobSink {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }
}
