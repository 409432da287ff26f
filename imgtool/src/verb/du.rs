//! `imgtool du`

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::json;

use super::images::human;
use super::{print_json, print_table};
use crate::cli::{DuArgs, ListFormat};
use crate::error::Result;
use crate::layout::Store;
use crate::platform::Platform;

/// Tells what takes the room in the store, and how much of it `prune --all` would give back.
pub(crate) fn run(store: &Store, args: &DuArgs) -> Result<()> {
    let used: HashSet<_> = store.uses()?.into_iter().flat_map(|used| used.layers).collect();
    let mut images: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut holders: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for (_, image) in store.images(&Platform::host())? {
        let Ok(image) = image else { continue };
        images.insert(image.display(), (image.size(), 0));
        for layer in &image.manifest.layers {
            holders.entry(layer.digest.to_string()).or_default().push((image.display(), layer.size));
        }
    }
    // What only one image has is what its removal would give back.
    for of in holders.values() {
        if let [(only, size)] = of.as_slice()
            && let Some(sizes) = images.get_mut(only)
        {
            sizes.1 += size;
        }
    }
    let layers = store.all_layers()?;
    let layer_bytes = |which: &dyn Fn(&crate::layout::Layer) -> bool| -> u64 {
        layers.iter().filter(|layer| which(layer)).map(|layer| layer.record.bytes).sum()
    };
    let total = |below: &str| room(&store.path(below));
    let unused =
        store.volumes()?.iter().filter(|volume| volume.bundles.is_empty()).map(|volume| room(&volume.path)).sum();
    let rows = [
        ("blobs", total("blobs"), total("blobs")),
        ("layers", layer_bytes(&|_| true), layer_bytes(&|layer| !used.contains(&layer.key))),
        ("bundles", total("bundles"), 0),
        ("volumes", total("volumes"), unused),
        ("downloads", total("ingest"), total("ingest")),
    ];
    if args.format == ListFormat::Json {
        let images: Vec<_> =
            images.iter().map(|(name, (size, unique))| json!({"name": name, "size": size, "unique": unique})).collect();
        let parts: BTreeMap<_, _> =
            rows.iter().map(|(name, size, free)| (*name, json!({"size": size, "reclaimable": free}))).collect();
        return print_json(&json!({"images": images, "store": parts}));
    }
    let mut table = vec![["IMAGE", "SIZE", "UNIQUE"].map(str::to_owned).to_vec()];
    table.extend(images.iter().map(|(name, (size, unique))| vec![name.clone(), human(*size), human(*unique)]));
    print_table(&table)?;
    super::print("")?;
    let mut table = vec![["STORE", "SIZE", "RECLAIMABLE"].map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(|(name, size, free)| vec![(*name).to_owned(), human(*size), human(*free)]));
    print_table(&table)
}

/// Bytes on disk below a directory, without what is mounted there. What vanishes meanwhile does not count.
pub(super) fn room(directory: &Path) -> u64 {
    let Ok(top) = fs::symlink_metadata(directory) else { return 0 };
    let (mut bytes, mut pending) = (0, vec![directory.to_owned()]);
    let mut seen = HashSet::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
            if meta.dev() != top.dev() || (meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    bytes
}
