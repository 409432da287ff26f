//! The namespaces of a container: entered by path, made by init itself where the clone could not, and put in order.

use super::{
    link::ToOutside,
    plan::{Cradle, Plan, UserNamespace, flag},
};
use crate::{
    error::{At, Error, Result},
    inside::{identity, procfs::Procfs},
    sys::{self, Born, clone3},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
};
use std::path::Path;

/// Runs `clone` with the pid namespace to be joined as that of the caller's children. Restored at once: hooks are
/// children too.
pub(super) fn around_pid_namespace(cradle: &Cradle, clone: impl FnOnce() -> rustix::io::Result<Born>) -> Result<Born> {
    let Some(path) = &cradle.join_pid else { return clone().at("clone3") };
    let own = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at("open /proc/self/ns/pid")?;
    let step = || format!("join the pid namespace {}", path.display());
    join(path, libc::CLONE_NEWPID as u64).at_with(step)?;
    let born = match clone() {
        // pid_namespaces(7)
        Err(Errno::NOMEM) => {
            Err(Error::from(Errno::NOMEM).at("its init has ended, and so nothing is born in it any more")).at_with(step)
        }
        born => born.at("clone3"),
    };
    if !matches!(born, Ok(Born::Child)) {
        sys::setns(own.as_fd(), libc::CLONE_NEWPID as u64).at("go back to the own pid namespace")?;
    }
    born
}

/// Joins what is joined by path; makes the user namespace where the clone could not; hands on to a second process where
/// the pid namespace has to belong to it. Whoever returns is init, and init's ids are being seen to.
pub(super) fn enter_namespaces(cradle: &Cradle, procfs: &Procfs, link: &ToOutside) -> Result<()> {
    for (kind, path) in &cradle.joins {
        join(path, flag(*kind)).at_with(|| format!("join the {kind} namespace {}", path.display()))?;
    }
    if let UserNamespace::Joined(path) = &cradle.user {
        join(path, libc::CLONE_NEWUSER as u64).at_with(|| format!("join the user namespace {}", path.display()))?;
        identity::become_namespace_root(procfs.lets_set_groups()?)?;
    }
    let makes_user = cradle.user == UserNamespace::NewAfterJoins;
    if cradle.waypoint {
        let user = if makes_user { libc::CLONE_NEWUSER } else { 0 };
        let flags = (libc::CLONE_NEWPID | libc::CLONE_PARENT | user) as u64;
        return match clone3(flags, None).at("clone3 from the waypoint")? {
            Born::Child => Ok(()),
            Born::Parent { pid, .. } => {
                link.say_needs_ids(Some(pid))?;
                sys::exit(0)
            }
        };
    }
    if makes_user {
        unshare(libc::CLONE_NEWUSER as u64)?;
    }
    if cradle.asks_for_ids() { link.say_needs_ids(None) } else { Ok(()) }
}

fn join(path: &Path, kind: u64) -> Result<()> {
    // A pipe in its place is not waited for.
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    // With the kind given, the kernel refuses a path that is of another kind, or no namespace at all.
    Ok(sys::setns(fd.as_fd(), kind)?)
}

fn unshare(kinds: u64) -> Result<()> {
    if kinds == 0 {
        return Ok(());
    }
    sys::unshare(kinds).at("unshare")
}

/// Makes the namespaces that only init can make for itself, and puts them in order.
pub(super) fn own_namespaces(
    plan: &Plan,
    procfs: &Procfs,
    clocks: Option<OwnedFd>,
    network_follows: bool,
) -> Result<()> {
    unshare(plan.cradle.unshare)?;
    if plan.cradle.unshare & libc::CLONE_NEWTIME as u64 != 0 {
        if let Some(clocks) = clocks {
            rustix::io::write(clocks, plan.time_offsets.as_bytes())
                .at_with(|| format!("linux.timeOffsets: write {:?} to /proc/self/timens_offsets", plan.time_offsets))?;
        }
        procfs.enter_time_for_children()?;
    }
    if !network_follows && (plan.cradle.clone | plan.cradle.unshare) & libc::CLONE_NEWNET as u64 != 0 {
        sys::loopback_up().at("bring up the loopback device")?;
    }
    Ok(())
}

/// The file of init's time offsets, opened before init changes its user: from then on the files of its `/proc` directory
/// belong to the host's root. The kernel goes by the privilege of who opened it, and by init's namespace when it is written.
pub(super) fn open_clocks(plan: &Plan, procfs: &Procfs) -> Result<Option<OwnedFd>> {
    if plan.time_offsets.is_empty() {
        return Ok(None);
    }
    procfs
        .open_beneath("self/timens_offsets", OFlags::WRONLY)
        .map(Some)
        .at("linux.timeOffsets: open /proc/self/timens_offsets")
}
