//! `imgtool inspect`

use serde_json::{Value, json};

use super::print_json;
use crate::cli::InspectArgs;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout::{Image, SOURCE, Store};
use crate::oci::{self, CONFIG_MAX, MANIFEST_MAX};
use crate::platform::Platform;

/// Prints a list with one object for each image.
pub(crate) fn run(store: &Store, args: &InspectArgs) -> Result<()> {
    let mut shown = Vec::new();
    for name in &args.images {
        shown.push(describe(store, &store.find(name, &Platform::host())?)?);
    }
    print_json(&shown)
}

fn describe(store: &Store, image: &Image) -> Result<Value> {
    // Manifest and config as they are, with all that we do not know of.
    let manifest: Value = oci::json(&store.read_blob(&image.descriptor, MANIFEST_MAX)?)?;
    let config: Value = oci::json(&store.read_blob(&image.manifest.config, CONFIG_MAX)?)?;
    let mut layers = Vec::new();
    let mut below: Option<Digest> = None;
    for (layer, diff_id) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
        let unpacked = store.layer(diff_id, below.as_ref())?;
        layers.push(json!({
            "digest": layer.digest,
            "mediaType": layer.media_type,
            "size": layer.size,
            "diffId": diff_id,
            "blob": store.has_blob(layer),
            "unpacked": unpacked.as_ref().map(crate::layout::Layer::diff),
            "unpackedSize": unpacked.as_ref().map(|l| l.record.bytes),
            "entries": unpacked.as_ref().map(|l| l.record.entries),
        }));
        below = Some(Digest::chain(below.as_ref(), diff_id));
    }
    let uses = store.uses()?.into_iter().filter(|used| used.digest == image.descriptor.digest);
    Ok(json!({
        "name": image.name(),
        "id": image.id(),
        "digest": image.descriptor.digest,
        "sourceDigest": image.entry.annotation(SOURCE),
        "mediaType": image.descriptor.media_type,
        "platform": image.config.platform().to_string(),
        "created": image.config.created,
        "size": image.size(),
        "layers": layers,
        "bundles": uses.map(|used| used.bundle).collect::<Vec<_>>(),
        "manifest": manifest,
        "config": config,
    }))
}
