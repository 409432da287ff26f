//! `imgtool prune`

use serde_json::json;

use super::confirm::confirmed;
use super::images::human;
use super::{print, print_json};
use crate::cli::{ListFormat, PruneArgs};
use crate::error::{Error, Result};
use crate::layout::{Collected, NAME, Removed, Store};
use crate::platform::Platform;

/// Removes images without a name (with `--all`: all that no bundle stands on), and whatever nothing uses.
pub(crate) fn run(store: &Store, args: &PruneArgs) -> Result<()> {
    if !store.root().join("index.json").exists() {
        return show(args.format, &[], &Removed::default());
    }
    let images = if args.all { "all images that no bundle stands on" } else { "all images without a name" };
    let mut warning = vec![images, "all layers and blobs that nothing uses", "downloads that broke off"];
    warning.extend(args.build_cache.then_some("all that builds kept"));
    if !args.force && !confirmed(&warning)? {
        return show(args.format, &[], &Removed::default());
    }
    let store = &store.with_rights()?;
    store.create()?;
    store.settle()?;
    let gone = store.with_room(|| {
        let _hold = store.hold()?;
        if args.build_cache {
            crate::build::clear_cache(store)?;
        }
        let used: Vec<_> = store.uses()?.into_iter().map(|used| used.digest).collect();
        let platform = Platform::host();
        store.update_index(|index| {
            let (gone, kept) = index.manifests.drain(..).partition(|entry| {
                let in_use = used.contains(&entry.digest)
                    || store.load(entry, &platform).is_ok_and(|image| used.contains(&image.descriptor.digest));
                !in_use && (args.all || entry.annotation(NAME).is_none())
            });
            index.manifests = kept;
            Ok::<Vec<_>, Error>(gone)
        })
    })?;
    let names: Vec<String> = gone.iter().filter_map(|entry| entry.annotation(NAME)).map(str::to_owned).collect();
    match store.collect_all()? {
        Collected::Removed(removed) => show(args.format, &names, &removed),
        Collected::Busy => {
            names.iter().try_for_each(|name| print(format!("Untagged: {name}")))?;
            Err(Error::other("another imgtool is adding to the store: try again when it is done"))
        }
    }
}

fn show(format: ListFormat, names: &[String], removed: &Removed) -> Result<()> {
    if format == ListFormat::Json {
        return print_json(&json!({
            "untagged": names, "deleted": removed.blobs, "layers": removed.layers, "reclaimed": removed.bytes,
        }));
    }
    names.iter().try_for_each(|name| print(format!("Untagged: {name}")))?;
    removed.blobs.iter().try_for_each(|digest| print(format!("Deleted: {digest}")))?;
    print(format!("Total reclaimed space: {}", human(removed.bytes)))
}
