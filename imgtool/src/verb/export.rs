//! `imgtool export`

use crate::bundle::Bundle;
use crate::cli::ExportArgs;
use crate::error::{Result, Step};
use crate::layer::{TreeForm, write_tree};
use crate::layout::Store;
use crate::new_file::write_to;

/// Writes a bundle's root file system as a tar, which `import` reads. The file appears when it is complete.
pub(crate) fn run(store: &Store, args: &ExportArgs) -> Result<()> {
    let here = store.with_rights()?;
    let export = || -> Result<()> {
        let bundle = Bundle::open(&here, &args.bundle)?;
        bundle.mount()?;
        let root = bundle.read()?;
        write_to(&args.output, "give a file with --output", |out| write_tree(&root, TreeForm::Plain, true, out))
    };
    export().at(args.bundle.display())
}
