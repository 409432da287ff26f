//! `imgtool save`

use std::fs::{self, OpenOptions};
use std::io::{BufWriter, IsTerminal as _};

use crate::archive::save;
use crate::cli::SaveArgs;
use crate::error::{Error, Result, Step};
use crate::layout::{Image, Store};
use crate::new_file::NewFile;
use crate::platform::Platform;

/// Writes images to an archive. The file appears when it is complete.
pub(crate) fn run(store: &Store, args: &SaveArgs) -> Result<()> {
    let progress = args.progress.make();
    let images: Vec<Image> =
        args.images.iter().map(|name| store.find(name, &Platform::host())).collect::<Result<_>>()?;
    if args.output.as_os_str() == "-" {
        let stdout = std::io::stdout();
        if stdout.is_terminal() {
            return Err(Error::other("standard output is a terminal: give a file with --output"));
        }
        return save(store, &images, args.format, BufWriter::with_capacity(1 << 20, stdout.lock()), &progress);
    }
    let output = &args.output;
    let step = || output.display().to_string();
    // A device or a pipe is written to; it must not be replaced.
    if fs::metadata(output).is_ok_and(|meta| !meta.is_file()) {
        let file = OpenOptions::new().write(true).open(output).with(step)?;
        return save(store, &images, args.format, BufWriter::with_capacity(1 << 20, file), &progress).with(step);
    }
    let write = || -> Result<()> {
        let mut new = NewFile::at(output)?;
        save(store, &images, args.format, BufWriter::with_capacity(1 << 20, new.file()), &progress)?;
        new.finish()
    };
    write().with(step)
}
