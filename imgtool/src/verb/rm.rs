//! `imgtool rm`

use serde_json::json;

use super::{print, print_json};
use crate::cli::{ListFormat, RmArgs};
use crate::error::{Error, Result, tell};
use crate::layout::{Collected, Image, NAME, Store};
use crate::oci::Descriptor;
use crate::platform::Platform;

/// Removes images and what only they used. Of several that are named, those that can be removed are.
pub(crate) fn run(store: &Store, args: &RmArgs) -> Result<()> {
    if !store.root().join("index.json").exists() {
        let name = args.images.first().map_or("", String::as_str);
        return Err(Error::missing(format!("{name}: no such image: there is no store at {}", store.root().display())));
    }
    let store = &store.with_rights()?;
    store.create()?;
    store.settle()?;
    let (mut failed, mut removed, mut untagged) = (None, false, Vec::new());
    for name in &args.images {
        match store.with_room(|| remove(store, name, args.force)) {
            Ok(names) => {
                removed = true;
                untagged.extend(names);
            }
            // All but the last failure are told here, the last one by main.
            Err(e) => {
                if let Some(earlier) = failed.replace(e) {
                    tell(format_args!("imgtool: rm: {earlier}"));
                }
            }
        }
    }
    if !removed {
        return failed.map_or(Ok(()), Err);
    }
    if args.format == ListFormat::Table {
        untagged.iter().try_for_each(|name| print(format!("Untagged: {name}")))?;
    }
    let mut deleted = Vec::new();
    match store.collect()? {
        Collected::Removed(removed) => deleted = removed.blobs,
        Collected::Busy => tell(format_args!(
            "imgtool: rm: another imgtool is adding to the store: what nothing uses any more goes with the next rm"
        )),
    }
    match args.format {
        ListFormat::Json => print_json(&json!({"untagged": untagged, "deleted": deleted}))?,
        ListFormat::Table => deleted.iter().try_for_each(|digest| print(format!("Deleted: {digest}")))?,
    }
    failed.map_or(Ok(()), Err)
}

/// Gives the names that are gone.
fn remove(store: &Store, name: &str, force: bool) -> Result<Vec<String>> {
    let _hold = store.hold()?;
    let platform = Platform::host();
    if let Some(entry) = store.find_name(name)? {
        // A damaged image can be removed as well: its entry is enough.
        check_uses(store, &entry, store.load(&entry, &platform).ok().as_ref(), force)?;
        return untag(store, |have| *have == entry);
    }
    let image = store.find(name, &platform)?;
    let of_image = |entry: &Descriptor| store.load(entry, &platform).is_ok_and(|other| other.id() == image.id());
    let entries: Vec<Descriptor> = store.index()?.manifests.into_iter().filter(of_image).collect();
    if entries.len() > 1 && !force {
        let names: Vec<String> = entries.iter().filter_map(|e| e.annotation(NAME)).map(str::to_owned).collect();
        return Err(Error::other(format!(
            "{name}: has {} names ({}): remove them by name, or use --force",
            entries.len(),
            names.join(", ")
        )));
    }
    for entry in &entries {
        check_uses(store, entry, Some(&image), force)?;
    }
    untag(store, |have| entries.contains(have))
}

/// An image stays while a bundle stands on it, unless another name keeps it.
fn check_uses(store: &Store, entry: &Descriptor, image: Option<&Image>, force: bool) -> Result<()> {
    if force || store.index()?.manifests.iter().filter(|have| have.digest == entry.digest).count() > 1 {
        return Ok(());
    }
    let digest = image.map_or(&entry.digest, |image| &image.descriptor.digest);
    match store.uses()?.into_iter().find(|used| used.digest == *digest) {
        Some(used) => {
            let name = entry.annotation(NAME).unwrap_or("image");
            let bundle = used.bundle.display();
            Err(Error::other(format!("{name}: in use by the bundle {bundle}: unbundle it first, or use --force")))
        }
        None => Ok(()),
    }
}

fn untag(store: &Store, matches: impl Fn(&Descriptor) -> bool) -> Result<Vec<String>> {
    let removed = store.update_index(|index| {
        let (gone, kept) = index.manifests.drain(..).partition(|entry| matches(entry));
        index.manifests = kept;
        Ok::<Vec<Descriptor>, Error>(gone)
    })?;
    Ok(removed.iter().filter_map(|entry| entry.annotation(NAME)).map(str::to_owned).collect())
}
