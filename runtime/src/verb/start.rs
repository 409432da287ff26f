//! `start`: a created container runs its program.

use crate::cli::{Global, Id};
use libcontainer::{At, Result, life};

pub(crate) fn run(global: &Global, args: &Id) -> Result<u8> {
    let slot = super::find(global, &args.id)?;
    life::start(&slot).at_with(|| format!("start {}", args.id))?;
    Ok(0)
}
