//! `start`: a created container runs its program.

use crate::{
    cli::{Global, Id},
    systemd::Relay,
};
use libcontainer::{At, Result, life, store::Slot};

pub(crate) fn run(global: &Global, args: &Id) -> Result<u8> {
    let slot = super::find(global, &args.id)?;
    start(&slot, &args.id)?;
    Ok(0)
}

/// Starts a container that nobody is going to wait for. Where systemd waits for it to be ready, so does this.
pub(crate) fn start(slot: &Slot, id: &str) -> Result<()> {
    let relay = Relay::of(slot).at_with(|| format!("start {id}"))?;
    life::start(slot).at_with(|| format!("start {id}"))?;
    match relay {
        Some(relay) => relay.run(&life::load(slot)?),
        None => Ok(()),
    }
}
