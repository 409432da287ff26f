//! `imgtool umount`

use crate::bundle::{Bundle, check_idle};
use crate::cli::MountArgs;
use crate::error::{Result, Step};
use crate::layout::Store;

/// Unmounts the root file systems of bundles; what their containers changed stays.
pub(crate) fn run(store: &Store, args: &MountArgs) -> Result<()> {
    args.bundles.iter().try_for_each(|directory| {
        let unmount = || {
            let bundle = Bundle::open(store, directory)?;
            check_idle(directory)?;
            bundle.unmount()
        };
        unmount().at(directory.display())
    })
}
