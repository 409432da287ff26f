//! `imgtool push`

use super::print;
use crate::cli::PushArgs;
use crate::error::{Error, Result, Step};
use crate::layout::Store;
use crate::platform::Platform;
use crate::transfer::{Remote, StoreImage, Transfer};

/// Sends an image and prints its name by digest.
pub(crate) fn run(store: &Store, args: &PushArgs) -> Result<()> {
    let image = store.find(&args.image, &Platform::host())?;
    let own = image.reference();
    let target = args.target.clone().or_else(|| own.clone());
    let target = target.ok_or_else(|| Error::other(format!("{}: has no name: say where to push it", args.image)))?;
    // All that has the name: several platforms, and what was attached to them.
    let top = if store.has_all(&image.entry) { &image.entry } else { &image.descriptor };
    if target.digest().is_some_and(|digest| *digest != top.digest) {
        return Err(Error::other(format!("{target}: the image has the digest {}", top.digest)));
    }
    store.create()?;
    let _hold = store.hold()?;
    let progress = args.progress.make();
    let source = StoreImage::new(store, top, own.clone());
    let remote = Remote::target(&target, &args.registry.access(), own.as_ref(), args.chunk_size);
    let transfer = Transfer {
        source: &source,
        target: &remote,
        progress: &progress,
        platform: None,
        referrers: false,
        parallel: args.parallel.into(),
    };
    let digest = transfer.run().at(&target)?;
    if let Some(file) = &args.digestfile {
        std::fs::write(file, digest.to_string()).with(|| format!("write {}", file.display()))?;
    }
    print(target.with_digest(&digest))
}
