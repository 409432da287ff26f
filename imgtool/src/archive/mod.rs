//! Images as single files: root file system tars come in (`import`), OCI and Docker archives come in and go out.

mod commit;
mod import;
mod load;
mod new_blob;
mod save;

pub(crate) use commit::{Commit, as_oci, commit, new_layer};
pub(crate) use import::{Import, import};
pub(crate) use load::{load, read_images};
pub(crate) use new_blob::LayerCompression;
pub(crate) use save::{Format, save};

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// Opens an archive; `-` is standard input. Callers name it in errors.
fn open_input(path: &Path) -> Result<Box<dyn Read + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(Error::other("is a directory, not an archive"));
    }
    Ok(Box::new(file))
}

/// What is said of an input in messages.
fn input_name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}
