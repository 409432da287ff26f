//! The container's network namespace, where the outside makes it: the kernel takes as long for one as for all of an ordinary
//! container's mounts, so the two are made side by side. And sockets that are of the container's network from the start.

use super::{link::ToOutside, plan::Cradle};
use crate::{
    error::{At, Result},
    sys,
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags},
};
use std::cell::Cell;

const NETWORK: u64 = libc::CLONE_NEWNET as u64;

/// The caller's own network namespace, and that it may come back to it.
pub(super) struct Home(OwnedFd);

impl Home {
    /// None where the clone has to make the namespace: nobody can give one to a user namespace that is not there yet, and who
    /// is root of a user namespace in a network that is not its own (under a rootless engine) would not come back.
    pub(super) fn look(cradle: &Cradle) -> Option<Self> {
        if cradle.clone & NETWORK == 0 {
            return None;
        }
        let home = open_own().ok()?;
        sys::setns(home.as_fd(), NETWORK).ok()?;
        Some(Self(home))
    }

    /// A new namespace, with its loopback device up. The caller is at home again, also after a failure.
    pub(super) fn make_another(&self) -> Result<OwnedFd> {
        sys::unshare(NETWORK).at("make a network namespace")?;
        let made = sys::loopback_up().at("bring up the loopback device").and_then(|()| open_own());
        sys::setns(self.0.as_fd(), NETWORK).at("go back to the own network namespace")?;
        made
    }
}

fn open_own() -> Result<OwnedFd> {
    rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open /proc/self/ns/net")
}

/// Runs `make` in the network namespace of the process `pidfd`, for sockets that it leaves with a process of the container:
/// whoever gets hold of a socket can look into the network that it was made in, and change it if he may (netdevice(7)).
/// Where the caller cannot enter it, or not come back, neither could who gets the socket do more than the caller.
pub(super) fn inside_that_of<T>(pidfd: BorrowedFd<'_>, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let home = open_own()?;
    if sys::setns(home.as_fd(), NETWORK).and_then(|()| sys::setns(pidfd, NETWORK)).is_err() {
        return make();
    }
    let made = make();
    sys::setns(home.as_fd(), NETWORK).at("go back to the own network namespace")?;
    made
}

/// On init's side: the namespace that the outside sends, or none.
pub(super) struct Arrival<'a> {
    link: &'a ToOutside,
    awaited: Cell<bool>,
}

impl<'a> Arrival<'a> {
    pub(super) fn new(link: &'a ToOutside, awaited: bool) -> Self {
        Self { link, awaited: Cell::new(awaited) }
    }

    /// Whether init is still in the caller's network.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.get()
    }

    /// Waits for it and enters it; later calls have nothing to do.
    pub(super) fn enter(&self) -> Result<()> {
        if !self.awaited.take() {
            return Ok(());
        }
        let namespace = self.link.expect_network()?;
        sys::setns(namespace.as_fd(), NETWORK).at("enter the network namespace")
    }
}
