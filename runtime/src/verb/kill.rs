//! `kill`: a signal to a container.

use crate::{
    cli::{Global, Kill},
    signal,
};
use libcontainer::{At, Result, life};

pub(crate) fn run(global: &Global, args: &Kill) -> Result<u8> {
    let signal = signal::number(&args.signal)?;
    let slot = super::find(global, &args.id)?;
    let kill = || life::kill(&slot, &life::load(&slot)?, signal, args.all);
    kill().at_with(|| format!("kill {}", args.id))?;
    Ok(0)
}
