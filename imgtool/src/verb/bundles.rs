//! `imgtool bundles`

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use super::du::room;
use super::images::human;
use super::{print, print_json, print_table};
use crate::bundle::{Bundle, user_of};
use crate::cli::{BundlesArgs, ListFormat};
use crate::error::Result;
use crate::layout::{Store, Use};
use crate::time;

/// What is known of a bundle.
struct Row {
    used: Use,
    /// Seconds since 1970.
    made: u64,
    /// Bytes on disk, without the layers that it shares.
    size: u64,
    /// `None` where the runtime mounts it, in the container.
    mounted: Option<bool>,
    user: Option<String>,
}

/// Lists the bundles that stand on the store's layers, wherever they are, the newest first.
pub(crate) fn run(store: &Store, args: &BundlesArgs) -> Result<()> {
    let uses = store.uses()?;
    // Before there is a user namespace: from inside of it the user's containers are not seen.
    let users: Vec<Option<String>> = uses.iter().map(|used| user_of(&used.bundle).ok().flatten()).collect();
    let store = &if uses.is_empty() { store.clone() } else { store.with_rights()? };
    let mut rows: Vec<Row> = uses.into_iter().zip(users).map(|(used, user)| row(store, used, user)).collect();
    rows.sort_by(|a, b| b.made.cmp(&a.made).then_with(|| a.used.bundle.cmp(&b.used.bundle)));
    if args.quiet {
        return rows.iter().try_for_each(|row| print(row.used.bundle.display()));
    }
    match args.format {
        ListFormat::Json => print_json(&rows.iter().map(as_json).collect::<Vec<_>>()),
        ListFormat::Table => table(&rows),
    }
}

fn row(store: &Store, used: Use, user: Option<String>) -> Row {
    // A bundle of which something is damaged is listed with what is known.
    let made = fs::metadata(used.bundle.join("config.json")).map_or(0, |meta| u64::try_from(meta.mtime()).unwrap_or(0));
    let mounted = match store.rights().own_namespace() {
        Some(_) => None,
        None => Some(Bundle::open(store, &used.bundle).and_then(|bundle| bundle.is_mounted()).unwrap_or(false)),
    };
    Row { made, size: room(&used.bundle), mounted, user, used }
}

fn as_json(row: &Row) -> serde_json::Value {
    let Use { bundle, image, digest, volumes, .. } = &row.used;
    json!({
        "bundle": bundle, "image": image, "digest": digest, "volumes": volumes, "created": time::rfc3339(row.made),
        "size": row.size, "mounted": row.mounted, "usedBy": row.user,
    })
}

fn table(rows: &[Row]) -> Result<()> {
    let mut lines = vec![["BUNDLE", "IMAGE", "CREATED", "SIZE", "MOUNTED", "USED BY"].map(str::to_owned).to_vec()];
    for row in rows {
        let mounted = match row.mounted {
            Some(true) => "yes",
            Some(false) => "no",
            None => "by runtime",
        };
        lines.push(vec![
            row.used.bundle.display().to_string(),
            row.used.image.clone(),
            time::ago(&time::rfc3339(row.made)).unwrap_or_else(|| "N/A".to_owned()),
            human(row.size),
            mounted.to_owned(),
            row.user.clone().unwrap_or_default(),
        ]);
    }
    print_table(&lines)
}
