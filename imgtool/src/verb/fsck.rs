//! `imgtool fsck`

use super::print;
use crate::cli::FsckArgs;
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
    for fault in &faults {
        if args.repair && !matches!(fault, Fault::Lost { .. }) {
            store.mend(fault)?;
            print(format!("{fault}: mended"))?;
        } else {
            print(fault)?;
            left += 1;
        }
    }
    match left {
        0 => Ok(()),
        1 => Err(Error::damaged("1 fault")),
        n => Err(Error::damaged(format!("{n} faults"))),
    }
}
