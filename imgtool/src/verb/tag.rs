//! `imgtool tag`

use crate::cli::TagArgs;
use crate::error::{Error, Result};
use crate::layout::Store;
use crate::platform::Platform;

/// Gives an image another name; whatever had that name loses it.
pub(crate) fn run(store: &Store, args: &TagArgs) -> Result<()> {
    let image = store.find(&args.image, &Platform::host())?;
    if args.name.digest().is_some() {
        return Err(Error::malformed(format!("{}: an image cannot be named by a digest", args.name)));
    }
    store.create()?;
    let _hold = store.hold()?;
    store.tag_too(&image, &args.name.to_string())
}
