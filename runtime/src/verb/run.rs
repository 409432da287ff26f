//! `run`: create and start; in the foreground also wait and delete.

use super::create::create;
use crate::{
    bundle::Bundle,
    cli::{Global, Run},
    log,
    systemd::Relay,
    terminal::{Console, Picture},
    wait,
};
use libcontainer::{At, Error, Kind, Result, Signals, birth::Created, inside::descriptors, life};
use rustix::{fd::AsFd, process::Pid};

pub(crate) fn run(global: &Global, args: &Run) -> Result<u8> {
    // runc's words, as of `create`.
    run_here(global, args).at("runc run failed")
}

fn run_here(global: &Global, args: &Run) -> Result<u8> {
    let mut bundle = Bundle::read(&args.birth.bundle)?;
    descriptors::release(args.birth.inherited(), log::descriptor())?;
    let terminal = bundle.spec.process.as_ref().is_some_and(|process| process.terminal);
    let (engine, own) = Console::of_birth(&args.birth, terminal, args.detach)?.split();
    if args.detach {
        let created = create(global, &mut bundle, &args.birth, &args.id, engine)?;
        return start(&created, &args.id).map(|()| 0);
    }
    // Before there is a child, so that no signal, and no end of one, is missed.
    let signals = Signals::take_all().at("take signals")?;
    if !args.no_subreaper {
        // Any number means yes.
        rustix::process::set_child_subreaper(Some(Pid::INIT)).at("become a subreaper")?;
    }
    let created = create(global, &mut bundle, &args.birth, &args.id, engine)?;
    let waited = own.map(|socket| Picture::receive(&socket)).transpose().and_then(|picture| {
        let mut relay = None;
        let started = life::start_new(&created.slot, &created.state, |_| {
            relay = Relay::of(&created.slot)?;
            Ok(())
        });
        match started.at_with(|| format!("start {}", args.id)) {
            // The container has said why, and ends like any other; only who reads a log has not heard it.
            Err(error) if error.kind() == Kind::NotExecuted && !log::to_file() => {}
            Err(error) if error.kind() == Kind::NotExecuted => tracing::error!("{error}"),
            started => started?,
        }
        let pid = Pid::from_raw(created.state.pid).ok_or_else(|| Error::other("the container has no init"))?;
        wait::foreground(pid, created.pidfd.as_fd(), &signals, picture, relay)
    });
    if !args.keep || waited.is_err() {
        // The container's own failure comes first.
        let deleted = match life::delete(&created.slot, true) {
            // Somebody else was faster.
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            deleted => deleted.at_with(|| format!("delete {}", args.id)),
        };
        return waited.and_then(|code| deleted.map(|()| code));
    }
    waited
}

/// A container that does not start is not left behind.
fn start(created: &Created, id: &str) -> Result<()> {
    let Created { slot, state, .. } = created;
    let started = life::start_new(slot, state, |_| Relay::of(slot))
        .and_then(|relay| relay.map_or(Ok(()), |relay| relay.run(state)));
    started.at_with(|| format!("start {id}")).inspect_err(|_| {
        if let Err(error) = life::delete(slot, true) {
            tracing::warn!("delete {id}: {error}");
        }
    })
}
