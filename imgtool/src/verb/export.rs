//! `imgtool export`

use std::fs::{self, OpenOptions};
use std::io::{BufWriter, IsTerminal as _, Write};
use std::os::fd::OwnedFd;

use crate::bundle::Bundle;
use crate::cli::ExportArgs;
use crate::error::{Error, Result, Step};
use crate::layer::{TreeForm, open_root, write_tree};
use crate::layout::Store;
use crate::new_file::NewFile;

/// Writes a bundle's root file system as a tar, which `import` reads. The file appears when it is complete.
pub(crate) fn run(store: &Store, args: &ExportArgs) -> Result<()> {
    let here = store.with_rights()?;
    let write = |root: &OwnedFd, out: &mut dyn Write| {
        write_tree(root, TreeForm::Plain, true, BufWriter::with_capacity(1 << 20, out))
    };
    let export = || -> Result<()> {
        let bundle = Bundle::open(&here, &args.bundle)?;
        bundle.mount()?;
        let root = open_root(&bundle.rootfs())?;
        if args.output.as_os_str() == "-" {
            let stdout = std::io::stdout();
            if stdout.is_terminal() {
                return Err(Error::other("standard output is a terminal: give a file with --output"));
            }
            return write(&root, &mut stdout.lock());
        }
        let step = || args.output.display().to_string();
        // A device or a pipe is written to; it must not be replaced.
        if fs::metadata(&args.output).is_ok_and(|meta| !meta.is_file()) {
            return write(&root, &mut OpenOptions::new().write(true).open(&args.output).with(step)?).with(step);
        }
        let made = || -> Result<()> {
            let mut new = NewFile::at(&args.output)?;
            write(&root, new.file())?;
            new.finish()
        };
        made().with(step)
    };
    export().at(args.bundle.display())
}
