//! `imgtool prune`

use super::images::human;
use super::print;
use crate::cli::PruneArgs;
use crate::error::{Error, Result};
use crate::layout::{Collected, NAME, Store};
use crate::platform::Platform;

/// Removes images without a name (with `--all`: all that no bundle stands on), and whatever nothing uses.
pub(crate) fn run(store: &Store, args: &PruneArgs) -> Result<()> {
    if !store.root().join("index.json").exists() {
        return print("Total reclaimed space: 0B");
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
    for name in gone.iter().filter_map(|entry| entry.annotation(NAME)) {
        print(format!("Untagged: {name}"))?;
    }
    match store.collect_all()? {
        Collected::Removed(removed) => {
            for digest in &removed.blobs {
                print(format!("Deleted: {digest}"))?;
            }
            print(format!("Total reclaimed space: {}", human(removed.bytes)))
        }
        Collected::Busy => Err(Error::other("another imgtool is adding to the store: try again when it is done")),
    }
}
