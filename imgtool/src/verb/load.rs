//! `imgtool load`

use super::print;
use crate::archive::load;
use crate::cli::LoadArgs;
use crate::error::{Error, Result};
use crate::layer::Limits;
use crate::layout::Store;
use crate::platform::Platform;

/// Loads the images of an archive and prints their names.
pub(crate) fn run(store: &Store, args: &LoadArgs) -> Result<()> {
    if args.input.as_os_str() == "-" && std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(Error::other("standard input is a terminal: give an archive with --input"));
    }
    if args.name.as_ref().is_some_and(|name| name.digest().is_some()) {
        return Err(Error::malformed("--name: an image cannot be named by a digest"));
    }
    store.create()?;
    let _hold = store.hold()?;
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let limits = args.max_size.map_or_else(Limits::default, Limits::of_size);
    for name in load(store, &args.input, &platform, limits, args.name.as_ref(), &args.progress.make())? {
        print(name)?;
    }
    Ok(())
}
