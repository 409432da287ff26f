//! `imgtool mount`

use super::print;
use crate::bundle::Bundle;
use crate::cli::MountArgs;
use crate::error::{Error, Result, Step};
use crate::layout::Store;

/// Mounts the root file systems of bundles again, as after a restart of the machine, and prints where they are.
pub(crate) fn run(store: &Store, args: &MountArgs) -> Result<()> {
    let store = store.with_rights()?;
    if store.rights().own_namespace().is_some() {
        return Err(Error::other(
            "must be root: an ordinary user's bundles are mounted by the runtime, in the container",
        ));
    }
    for directory in &args.bundles {
        let mount = || {
            let bundle = Bundle::open(&store, directory)?;
            bundle.mount()?;
            Ok(bundle.rootfs())
        };
        let rootfs: Result<_> = mount();
        print(rootfs.at(directory.display())?.display())?;
    }
    Ok(())
}
