//! `imgtool save`

use crate::archive::save;
use crate::cli::SaveArgs;
use crate::error::Result;
use crate::layout::{Image, Store};
use crate::new_file::write_to;
use crate::platform::Platform;

/// Writes images to an archive. The file appears when it is complete.
pub(crate) fn run(store: &Store, args: &SaveArgs) -> Result<()> {
    let progress = args.progress.make();
    let images: Vec<Image> =
        args.images.iter().map(|name| store.find(name, &Platform::host())).collect::<Result<_>>()?;
    for image in images.iter().filter(|image| image.entry.digest != image.descriptor.digest) {
        let (name, platform) = (image.display(), image.config.platform());
        progress.say(&format!(
            "{name}: of its index only the image for {platform} is saved (all of it: imgtool copy --all store:{name} oci:DIR)"
        ));
    }
    write_to(&args.output, "give a file with --output", |out| save(store, &images, args.format, out, &progress))
}
