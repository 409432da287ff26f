//! `create`: a container that waits for `start`.

use crate::{
    bundle::Bundle,
    cli::{Birth, Create, Global},
    log, systemd, terminal,
};
use libcontainer::{
    At, Result,
    birth::{self, Created, Request},
    inside::descriptors,
    store::Store,
};
use rustix::fd::OwnedFd;

pub(crate) fn run(global: &Global, args: &Create) -> Result<u8> {
    // In runc's words, its name included: engines, their users and runc's own tests look for them.
    create_detached(global, args).at("runc create failed").map(|()| 0)
}

fn create_detached(global: &Global, args: &Create) -> Result<()> {
    let mut bundle = Bundle::read(&args.birth.bundle)?;
    descriptors::release(args.birth.inherited(), log::descriptor())?;
    let console = args.birth.console_socket.as_deref().map(terminal::connect).transpose()?;
    create(global, &mut bundle, &args.birth, &args.id, console).map(drop)
}

/// What `create` and `run` have in common.
pub(crate) fn create(
    global: &Global,
    bundle: &mut Bundle,
    args: &Birth,
    id: &str,
    console: Option<OwnedFd>,
) -> Result<Created> {
    libcontainer::store::check_id(id)?;
    let root = super::root(global)?;
    let notify = systemd::pass_on(&mut bundle.spec, &root.join(id));
    let store = Store::open(&root, true)?;
    let request = Request {
        id,
        bundle: &bundle.path,
        config: &bundle.config,
        console,
        preserve_fds: args.inherited(),
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        systemd_cgroup: global.systemd_cgroup,
        rootless: global.rootless,
        notify,
        announce: &mut |pid, pidfd| super::announce(args.pid_file.as_deref(), args.pidfd_socket.as_deref(), pid, pidfd),
    };
    birth::create(store, &bundle.spec, request).map_err(super::not_started)
}
