//! `imgtool import`

use super::print;
use crate::archive::{Import, import};
use crate::cli::ImportArgs;
use crate::error::{Error, Result};
use crate::layout::Store;

/// Imports a root file system's tar and prints the image's name by digest.
pub(crate) fn run(store: &Store, args: &ImportArgs) -> Result<()> {
    let store = &store.with_rights()?;
    if args.reference.digest().is_some() {
        return Err(Error::malformed(format!("{}: an image cannot be named by a digest", args.reference)));
    }
    store.create()?;
    let _hold = store.hold()?;
    let options = Import {
        input: &args.input,
        reference: &args.reference,
        platform: &args.layers.platform(),
        changes: &args.changes,
        message: args.message.as_deref(),
        compression: args.compression,
        level: args.compression_level,
        limits: args.layers.limits(),
    };
    let manifest = import(store, &options, &args.layers.progress.make())?;
    print(args.reference.with_digest(&manifest.digest))
}
