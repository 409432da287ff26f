//! `imgtool commit`

use super::print;
use crate::archive::{Commit, commit};
use crate::bundle::Bundle;
use crate::cli::CommitArgs;
use crate::error::{Error, Result, Step};
use crate::layout::Store;

/// Makes an image of what a bundle's container changed, and prints its name by digest.
pub(crate) fn run(store: &Store, args: &CommitArgs) -> Result<()> {
    let here = store.with_rights()?;
    if args.reference.digest().is_some() {
        return Err(Error::malformed(format!("{}: an image cannot be named by a digest", args.reference)));
    }
    let make = || {
        let bundle = Bundle::open(&here, &args.bundle)?;
        let store = bundle.store();
        let _hold = store.hold()?;
        let base = bundle.image()?;
        let upper = bundle.upper()?;
        let what = Commit {
            base: &base,
            upper: &upper,
            without: &bundle.mount_points()?,
            root_changed: bundle.root_changed()?,
            reference: &args.reference,
            changes: &args.changes,
            message: args.message.as_deref(),
            author: args.author.as_deref(),
            compression: args.compression,
            level: args.compression_level,
        };
        commit(store, &what)
    };
    let manifest = make().at(args.bundle.display())?;
    print(args.reference.with_digest(&manifest.digest))
}
