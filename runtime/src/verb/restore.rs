//! `restore`: a container from files; in the foreground also wait and delete.

use super::checkpoint::options;
use crate::{
    bundle::Bundle,
    cli::{Global, Restore},
    terminal::{Console, Picture},
    wait,
};
use libcontainer::{
    At, Error, Result, Signals,
    birth::Request,
    checkpoint::{self, Options},
    inside::descriptors,
    life,
    store::Store,
};
use rustix::{fd::AsFd, process::Pid};

pub(crate) fn run(global: &Global, args: &Restore) -> Result<u8> {
    descriptors::claim(0).at("descriptors")?;
    libcontainer::store::check_id(&args.id)?;
    let bundle = Bundle::read(&args.bundle)?;
    let mut options = Options {
        lsm_profile: args.lsm_profile.clone(),
        lsm_mount_context: args.lsm_mount_context.clone(),
        ..options(&args.criu)?
    };
    let terminal = bundle.spec.process.as_ref().is_some_and(|process| process.terminal);
    let (engine, own) = Console::of(args.console_socket.as_deref(), terminal, args.detach)?.split();
    // Before there is a child, so that no signal, and no end of one, is missed.
    let signals = if args.detach { None } else { Some(Signals::take_all().at("take signals")?) };
    // Until there is a container that gets them.
    options.interrupt = signals.as_ref().map(Signals::endings).transpose().at("take signals")?;
    if signals.is_some() && !args.no_subreaper {
        // Any number means yes.
        rustix::process::set_child_subreaper(Some(Pid::INIT)).at("become a subreaper")?;
    }
    let store = Store::open(&super::root(global)?, true)?;
    let request = Request {
        id: &args.id,
        bundle: &bundle.path,
        config: &bundle.config,
        console: engine,
        preserve_fds: 0,
        no_pivot: args.no_pivot,
        no_new_keyring: false,
        systemd_cgroup: global.systemd_cgroup,
        rootless: global.rootless,
        notify: false,
        announce: &mut |pid, pidfd| super::announce(args.pid_file.as_deref(), None, pid, pidfd),
    };
    let revived =
        checkpoint::restore(store, &bundle.spec, request, &options).at_with(|| format!("restore {}", args.id))?;
    let Some(signals) = signals else { return Ok(0) };
    let waited = own.map(|socket| Picture::receive(&socket)).transpose().and_then(|picture| {
        let pid = Pid::from_raw(revived.state.pid).ok_or_else(|| Error::other("the container has no init"))?;
        wait::foreground(pid, revived.pidfd.as_fd(), &signals, picture, None)
    });
    let deleted = life::delete(&revived.slot, true).at_with(|| format!("delete {}", args.id));
    // The container's own failure comes first.
    waited.and_then(|code| deleted.map(|()| code))
}
