//! `imgtool export`

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write};
use std::os::fd::OwnedFd;

use crate::bundle::Bundle;
use crate::cli::ExportArgs;
use crate::error::{Error, Result, Step};
use crate::layer::{TreeForm, open_root, write_tree};
use crate::layout::{Store, random_hex};

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
        let name = args.output.file_name().ok_or_else(|| Error::other("not a file name")).with(step)?;
        let temporary = args.output.with_file_name(format!(".{}.{}", name.to_string_lossy(), random_hex(8)?));
        let made = || -> Result<()> {
            let mut file = File::create_new(&temporary)?;
            write(&root, &mut file)?;
            file.sync_data()?;
            Ok(std::fs::rename(&temporary, &args.output)?)
        };
        made().with(step).inspect_err(|_| drop(std::fs::remove_file(&temporary)))
    };
    export().at(args.bundle.display())
}
