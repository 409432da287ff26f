//! `start`: a created container runs its program.

use crate::{
    cli::{Global, Id},
    systemd::Relay,
};
use libcontainer::{At, Result, life, store::Slot};

pub(crate) fn run(global: &Global, args: &Id) -> Result<u8> {
    let slot = super::find(global, &args.id)?;
    start(&slot).at_with(|| format!("start {}", args.id))?;
    Ok(0)
}

/// Where systemd waits for the container to be ready, so does this.
fn start(slot: &Slot) -> Result<()> {
    let relay = life::start(slot, |_| Relay::of(slot))?;
    relay.map_or(Ok(()), |relay| relay.run(&life::load(slot)?))
}
