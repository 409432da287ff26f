//! The container's root: mounted, filled and closed, while init is still outside of it.

use super::{entry, link::ToOutside, network::Arrival, plan::Plan, story::Prepared, trees::HostTrees};
use crate::{
    error::{At, Result},
    inside::{
        devices,
        mounts::{self, Surroundings},
        root::Root,
    },
    sys::{MountAttr, mount_setattr},
};
use rustix::fd::{AsFd, OwnedFd};

/// Mounts the root and everything else below it; the process is still outside of it.
/// Returns it with the mounts that become read-only at last.
pub(super) fn build(
    prepared: &Prepared,
    trees: Option<HostTrees>,
    network: &Arrival<'_>,
    link: &ToOutside,
) -> Result<(Root, Vec<OwnedFd>, Option<entry::HostMount>)> {
    let plan = &prepared.plan;
    if plan.own_mounts() {
        entry::set_propagation(plan.propagation)?;
    }
    let trees = if let Some(trees) = trees {
        trees
    } else {
        // Before anything becomes private: a clone keeps the propagation of what it was cloned from.
        let trees = HostTrees::open(plan, &prepared.user_namespaces)?;
        // Much of procfs shows, and sets, the network of who opens it.
        if network.is_awaited() && trees.depend_on_network()? {
            network.enter()?;
            HostTrees::open(plan, &prepared.user_namespaces)?
        } else {
            trees
        }
    };
    entry::attach(&trees.root, &plan.rootfs, plan.own_mounts())?;
    let undo = if plan.own_mounts() { None } else { Some(entry::HostMount::of(&trees.root)?) };
    let mut root = Root::new(trees.root);
    let in_user_namespace = plan.in_user_namespace();
    let around = Surroundings {
        cgroup: &prepared.state.cgroup,
        namespaces: &plan.cradle.namespaces,
        label: plan.mount_label.as_deref(),
        // From a user namespace nobody may change whose the host's files are.
        map_ids: &|index, mount| {
            if in_user_namespace { link.map_ids(index, mount) } else { prepared.map_ids(index, mount) }
        },
        enter_network: &|| network.enter(),
        locked: in_user_namespace,
    };
    let writable = mounts::mount_all(&mut root, &plan.mounts, trees.binds, &around)?;
    devices::make(&root, &plan.nodes, trees.devices)?;
    if plan.own_dev {
        devices::make_links(&root)?;
    }
    // runc makes it too: `docker run -w` names directories that images lack.
    root.make_dir(&plan.process.cwd).at("process.cwd")?;
    Ok((root, writable, undo))
}

/// What must come last, when nothing more is made in the root; still with the host's null device at hand.
pub(super) fn close(root: &Root, plan: &Plan, writable: &[OwnedFd]) -> Result<()> {
    mounts::seal(writable)?;
    if plan.readonly_root {
        let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        mount_setattr(root.as_fd(), false, attr).at("make the root read-only")?;
    }
    mounts::read_only(root, &plan.readonly)?;
    mounts::mask(root, &plan.masked, plan.mount_label.as_deref())
}
