//! `imgtool fsck`

use serde_json::json;

use super::{print, print_json};
use crate::cli::{FsckArgs, ListFormat};
use crate::error::{Error, Result};
use crate::layout::{Fault, Store};

/// Reads all of the store and tells what is damaged; with `--repair`, takes that away, so that a pull or load mends it.
pub(crate) fn run(store: &Store, args: &FsckArgs) -> Result<()> {
    if !store.root().exists() {
        return Err(Error::missing(format!("there is no store at {}", store.root().display())));
    }
    let store = &store.with_rights()?;
    store.create()?;
    let _hold = store.hold()?;
    let faults = store.check()?;
    let mut left = 0;
    let mut listed = Vec::new();
    for fault in &faults {
        let mended = args.repair && !matches!(fault, Fault::Lost { .. });
        if mended {
            store.mend(fault)?;
        } else {
            left += 1;
        }
        match args.format {
            ListFormat::Json => {
                let (kind, what, why) = fault.parts();
                listed.push(json!({"kind": kind, "what": what, "why": why, "mended": mended}));
            }
            ListFormat::Table => print(if mended { format!("{fault}: mended") } else { fault.to_string() })?,
        }
    }
    if args.format == ListFormat::Json {
        print_json(&listed)?;
    }
    match left {
        0 => Ok(()),
        1 => Err(Error::damaged("1 fault")),
        n => Err(Error::damaged(format!("{n} faults"))),
    }
}
