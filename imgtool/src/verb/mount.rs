//! `imgtool mount`

use super::print;
use crate::bundle::Bundle;
use crate::cli::MountArgs;
use crate::error::{Result, Step};

/// Mounts the root file systems of bundles again, as after a restart of the machine, and prints where they are.
pub(crate) fn run(args: &MountArgs) -> Result<()> {
    for directory in &args.bundles {
        let mount = || {
            let bundle = Bundle::open(directory)?;
            bundle.mount()?;
            Ok(bundle.rootfs())
        };
        let rootfs: Result<_> = mount();
        print(rootfs.at(directory.display())?.display())?;
    }
    Ok(())
}
