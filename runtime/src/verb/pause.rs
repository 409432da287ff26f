//! `pause`: all processes of a container stand still.

use crate::cli::{Global, Id};
use libcontainer::{At, Result, life};

pub(crate) fn run(global: &Global, args: &Id) -> Result<u8> {
    let slot = super::find(global, &args.id)?;
    life::pause(&slot).at_with(|| format!("pause {}", args.id))?;
    Ok(0)
}
