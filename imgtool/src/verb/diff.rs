//! `imgtool diff`

use serde_json::json;

use super::{print, print_json};
use crate::bundle::Bundle;
use crate::cli::{DiffArgs, ListFormat};
use crate::error::{Result, Step};
use crate::layer::{Change, changes};
use crate::layout::Store;

/// Lists what a bundle's container changed: A added, C changed, D deleted.
pub(crate) fn run(store: &Store, args: &DiffArgs) -> Result<()> {
    let here = store.with_rights()?;
    let list = || {
        let bundle = Bundle::open(&here, &args.bundle)?;
        changes(&bundle.upper()?, &bundle.lower()?, &bundle.mount_points()?)
    };
    let all = list().at(args.bundle.display())?;
    let letter = |change| match change {
        Change::Added => "A",
        Change::Changed => "C",
        Change::Deleted => "D",
    };
    if args.format == ListFormat::Json {
        let entry = |(path, change): &(Vec<u8>, Change)| json!({"path": String::from_utf8_lossy(path), "change": letter(*change)});
        return print_json(&all.iter().map(entry).collect::<Vec<_>>());
    }
    all.iter().try_for_each(|(path, change)| print(format!("{} {}", letter(*change), String::from_utf8_lossy(path))))
}
