//! `shim prune`: removes all containers that have ended.

use std::io::{self, Write};

use rustix::termios::isatty;

use crate::error::{Error, Result};
use crate::solo::directory::{Layout, Status};
use crate::solo::{say, warn};

/// Removes them, after asking unless `force`. Returns the exit code.
pub(crate) fn prune(layout: &Layout, force: bool) -> Result<u8> {
    if !force && !confirmed()? {
        return Ok(0);
    }
    let mut code = 0;
    for directory in layout.all()? {
        // The lock keeps others from starting it before it is gone.
        let Ok(Some(_lock)) = directory.lock() else { continue };
        if !matches!(directory.status(), Ok(Status::Exited(_))) {
            continue;
        }
        match directory.remove() {
            Ok(()) => say(&directory.name),
            Err(error) => {
                warn(error.text());
                code = 1;
            }
        }
    }
    Ok(code)
}

fn confirmed() -> Result<bool> {
    if !isatty(io::stdin()) {
        return Err(Error::invalid("nobody is there to ask: use --force"));
    }
    let _: io::Result<()> = write!(io::stdout(), "Remove all containers that have ended? [y/N] ");
    let _: io::Result<()> = io::stdout().flush();
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
