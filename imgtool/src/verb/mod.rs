//! One verb a file.

pub(crate) mod bundle;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod save;
pub(crate) mod unbundle;

use std::fmt::Display;
use std::io::{self, Write as _};

use crate::error::{Error, Result, Step};

/// Prints a line on stdout.
fn print(line: impl Display) -> Result<()> {
    match writeln!(io::stdout(), "{line}") {
        // `imgtool images | head -1` is no failure.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.at("write to stdout"),
    }
}

/// Prints a value as indented JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(serde_json::to_string_pretty(value).map_err(|e| Error::other(e.to_string()))?)
}

/// Unpacking gives files to other users, which only root may do.
fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::other("must be root: layers hold files of many owners"))
}
