//! `imgtool volume`

use serde_json::{Value, json};

use super::confirm::confirmed;
use super::du::room;
use super::images::human;
use super::{print, print_json, print_table};
use crate::bundle::is_volume_name;
use crate::cli::{ListFormat, VolumeArgs, VolumeFilter, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs, VolumeVerb};
use crate::error::{Error, Kind, Result, tell};
use crate::layout::{Store, Volume};
use crate::time;

/// Lists, makes, shows and removes volumes, as Docker does.
pub(crate) fn run(store: &Store, args: &VolumeArgs) -> Result<()> {
    match &args.verb {
        VolumeVerb::Ls(args) => list(store, args),
        VolumeVerb::Create(args) => {
            if let Some(name) = args.name.as_deref().filter(|name| !is_volume_name(name)) {
                let want = "want letters, digits, _ . and -, beginning with a letter or digit";
                return Err(Error::malformed(format!("{name:?}: no name of a volume ({want})")));
            }
            let store = &store.with_rights()?;
            store.create()?;
            let _hold = store.hold()?;
            print(store.create_volume(args.name.as_deref())?)
        }
        VolumeVerb::Inspect(args) => {
            let volumes = args.names.iter().map(|name| store.volume(name)).collect::<Result<Vec<_>>>()?;
            print_json(&volumes.iter().map(as_json).collect::<Vec<_>>())
        }
        VolumeVerb::Rm(args) => remove(store, args),
        VolumeVerb::Prune(args) => prune(store, args),
    }
}

fn list(store: &Store, args: &VolumeLsArgs) -> Result<()> {
    let mut volumes = store.volumes()?;
    volumes.retain(|volume| {
        args.filter.iter().all(|filter| match filter {
            VolumeFilter::Dangling(wanted) => volume.bundles.is_empty() == *wanted,
            VolumeFilter::Name(part) => volume.name.contains(part.as_str()),
        })
    });
    if args.quiet {
        return volumes.iter().try_for_each(|volume| print(&volume.name));
    }
    if args.format == ListFormat::Json {
        return print_json(&volumes.iter().map(as_json).collect::<Vec<_>>());
    }
    let mut rows = vec![["DRIVER", "VOLUME NAME"].map(str::to_owned).to_vec()];
    rows.extend(volumes.into_iter().map(|volume| vec!["local".to_owned(), volume.name]));
    print_table(&rows)
}

/// Docker's fields, and the bundles.
fn as_json(volume: &Volume) -> Value {
    let created = volume.created.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    json!({
        "CreatedAt": created.map(|since| time::rfc3339(since.as_secs())),
        "Driver": "local",
        "Labels": null,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": null,
        "Scope": "local",
        "Bundles": volume.bundles,
    })
}

fn remove(store: &Store, args: &VolumeRmArgs) -> Result<()> {
    let mut failed = None;
    let here = store.root().join("index.json").exists();
    let store = &if here { store.with_rights()? } else { store.clone() };
    let _hold = if here { Some(store.hold()?) } else { None };
    for name in &args.names {
        let removed = if here { store.remove_volume(name) } else { store.volume(name).map(drop) };
        match removed {
            Ok(()) => print(name)?,
            Err(e) if args.force && e.kind() == Kind::Missing => print(name)?,
            // All but the last failure are told here, the last one by main.
            Err(e) => {
                if let Some(earlier) = failed.replace(e) {
                    tell(format_args!("imgtool: volume: {earlier}"));
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn prune(store: &Store, args: &VolumePruneArgs) -> Result<()> {
    let all = args.all;
    let which =
        if all { "all volumes that no bundle mounts" } else { "all volumes without a name that no bundle mounts" };
    if !args.force && !confirmed(&[which])? {
        return Ok(());
    }
    let mut bytes = 0;
    if store.root().join("index.json").exists() {
        let store = &store.with_rights()?;
        let _hold = store.hold()?;
        let mut gone = Vec::new();
        for volume in store.volumes()? {
            if !volume.bundles.is_empty() || !(all || volume.is_unnamed()) {
                continue;
            }
            let size = room(&volume.path);
            // A bundle may have begun to use it meanwhile, or somebody else removed it.
            if store.remove_volume(&volume.name).is_ok() {
                bytes += size;
                gone.push(volume.name);
            }
        }
        if !gone.is_empty() {
            print("Deleted Volumes:")?;
            gone.iter().try_for_each(print)?;
            print("")?;
        }
    }
    print(format!("Total reclaimed space: {}", human(bytes)))
}
