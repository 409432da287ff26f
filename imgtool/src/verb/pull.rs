//! `imgtool pull`

use super::print;
use crate::cli::PullArgs;
use crate::error::{Result, Step};
use crate::layout::Store;
use crate::pull::Pull;
use crate::registry::Registries;

/// Pulls an image and prints its name by digest.
pub(crate) fn run(store: &Store, args: &PullArgs) -> Result<()> {
    let store = &store.with_rights()?;
    store.create()?;
    let _hold = store.hold()?;
    let progress = args.layers.progress.make();
    let access = args.trust.over(args.registry.access())?;
    let registries = Registries::load()?;
    let pull = Pull {
        store,
        access: &access,
        registries: &registries,
        platform: args.layers.platform(),
        limits: args.layers.limits(),
        parallel: args.layers.parallel.into(),
        progress: &progress,
    };
    let (image, _) = pull.run(&args.reference).at(&args.reference)?;
    // The name that a short one turned out to mean.
    let name = image.reference().unwrap_or_else(|| args.reference.clone());
    print(name.with_digest(&image.descriptor.digest))
}
