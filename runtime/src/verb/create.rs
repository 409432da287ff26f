//! `create`: a container that waits for `start`.

use crate::{
    bundle::Bundle,
    cli::{Birth, Create, Global},
    log, terminal,
};
use libcontainer::{
    At, Result,
    birth::{self, Created, Request},
    inside::descriptors,
    store::Store,
};
use rustix::fd::OwnedFd;

pub(crate) fn run(global: &Global, args: &Create) -> Result<u8> {
    let bundle = Bundle::read(&args.birth.bundle)?;
    descriptors::release(args.birth.preserve_fds, log::descriptor())?;
    let console = args.birth.console_socket.as_deref().map(terminal::connect).transpose()?;
    create(global, &bundle, &args.birth, &args.id, console)?;
    Ok(0)
}

/// What `create` and `run` have in common.
pub(crate) fn create(
    global: &Global,
    bundle: &Bundle,
    args: &Birth,
    id: &str,
    console: Option<OwnedFd>,
) -> Result<Created> {
    libcontainer::store::check_id(id)?;
    let store = Store::open(&super::root(global)?, true)?;
    let request = Request {
        id,
        bundle: &bundle.path,
        config: &bundle.config,
        console,
        preserve_fds: args.preserve_fds,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        systemd_cgroup: global.systemd_cgroup,
        announce: &mut |pid, pidfd| super::announce(args.pid_file.as_deref(), args.pidfd_socket.as_deref(), pid, pidfd),
    };
    birth::create(store, &bundle.spec, request).at_with(|| format!("create {id}"))
}
