//! `resume`: a paused container goes on.

use crate::cli::{Global, Id};
use libcontainer::{At, Result, life};

pub(crate) fn run(global: &Global, args: &Id) -> Result<u8> {
    let slot = super::find(global, &args.id)?;
    life::resume(&slot).at_with(|| format!("resume {}", args.id))?;
    Ok(0)
}
