//! `imgtool umount`

use crate::bundle::Bundle;
use crate::cli::MountArgs;
use crate::error::{Result, Step};
use crate::layout::Store;

/// Unmounts the root file systems of bundles; what their containers changed stays.
pub(crate) fn run(store: &Store, args: &MountArgs) -> Result<()> {
    args.bundles.iter().try_for_each(|directory| {
        Bundle::open(store, directory).and_then(|bundle| bundle.unmount()).at(directory.display())
    })
}
