//! A root file system's tar becomes an image of one layer: in one pass it is unpacked, hashed, and compressed into a blob.

use std::io::{self, Read};
use std::path::Path;

use super::new_blob::{LayerCompression, NewBlob};
use super::{input_name, open_input};
use crate::build::change;
use crate::digest::Digest;
use crate::error::{Error, Result, Step};
use crate::layer::{self, Job, Limits, LowerStack};
use crate::layout::{Store, put_image, random_hex};
use crate::oci::{Descriptor, Execution, History, ImageConfig, RootFs};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::time;

/// What is imported, and how.
pub(crate) struct Import<'a> {
    pub(crate) input: &'a Path,
    pub(crate) reference: &'a Reference,
    pub(crate) platform: &'a Platform,
    /// Dockerfile instructions that change the config.
    pub(crate) changes: &'a [String],
    pub(crate) message: Option<&'a str>,
    pub(crate) compression: LayerCompression,
    /// Of the compression; `None`: a fast one.
    pub(crate) level: Option<i32>,
    pub(crate) limits: Limits,
}

/// Imports a tar and gives the manifest's descriptor. The caller holds the store.
pub(crate) fn import(store: &Store, import: &Import<'_>, progress: &Progress) -> Result<Descriptor> {
    let mut execution = Execution::default();
    change(&mut execution, import.changes)?;
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
    let size = std::fs::metadata(import.input).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
    let task = progress.task("import", size.unwrap_or(0), 0);
    let mut blob = NewBlob::new(store, import.compression, import.level)?;
    let (draft, root) = store.begin_layer(&format!("import-{}", random_hex(16)?))?;
    // At the bottom nothing can be missing below.
    let nothing = LowerStack::default();
    let job = Job {
        diff_id: None,
        root,
        powers: store.rights().powers(),
        limits: import.limits,
        compressed: size,
        lower: Some(&nothing),
    };
    let unpacked = layer::unpack(Watched { inner: input, task: &task }, job, Some(&mut blob))?;
    let diff_id = unpacked.diff_id.clone().ok_or_else(|| Error::other("no digest"))?;
    if unpacked.entries == 0 {
        return Err(Error::malformed("no tar archive (it has no entries)"));
    }
    let lock = store.lock_layer(&diff_id)?;
    if store.layer(&diff_id, None)?.is_none() {
        store.commit_layer(&draft, &lock, &unpacked)?;
    }
    let descriptor = blob.finish(store)?;
    task.finish("imported");
    Ok((descriptor, diff_id))
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
