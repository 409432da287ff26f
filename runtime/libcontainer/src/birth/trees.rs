//! What a container takes from the host's tree of files.

use super::{plan::Plan, user_namespaces::UserNamespaces};
use crate::{
    error::{At, Error, Result},
    inside::{
        devices,
        mounts::{self, Source, Step, What},
        procfs::PROC,
    },
    sys::{MountAttr, mount_setattr},
};
use rustix::fd::{AsFd, OwnedFd};
use std::path::Path;

/// `NSFS_MAGIC` of the kernel.
const NSFS: i64 = 0x6e73_6673;

/// What a container takes from the host's tree, cloned and attached nowhere.
pub(super) struct HostTrees {
    pub(super) root: OwnedFd,
    /// One for each mount; `None` for those that are not of the host's tree.
    pub(super) binds: Vec<Option<OwnedFd>>,
    /// One for each device where mknod(2) is forbidden.
    pub(super) devices: Vec<OwnedFd>,
}

impl HostTrees {
    /// From the present mount namespace, whichever side's it is.
    pub(super) fn open(plan: &Plan, user_namespaces: &UserNamespaces) -> Result<Self> {
        // A clone of a shared mount is its peer: without this, mounts in the container could reach the host.
        let (propagation, recursive) = plan.propagation;
        let open = |path: &Path, whole: bool, propagation: u64| {
            let tree = mounts::open_source(path, whole)?;
            let attr = MountAttr { propagation, ..MountAttr::default() };
            mount_setattr(tree.as_fd(), recursive, attr).at("set the propagation")?;
            Ok::<_, Error>(tree)
        };
        let bind = |step: &Step| -> Result<Option<OwnedFd>> {
            let What::Bind { source: Source::Host(source), recursive, id_map } = &step.what else { return Ok(None) };
            let tree = open(source, *recursive, propagation)?;
            if let Some(id_map) = id_map {
                user_namespaces.map(tree.as_fd(), id_map)?;
            }
            Ok(Some(tree))
        };
        let nodes = if plan.binds_nodes() { plan.nodes.as_slice() } else { &[] };
        Ok(Self {
            // Never a peer: what the container mounts on it would be mounted on the host. Once it is the root it becomes
            // what was asked, in a peer group of its own.
            root: open(&plan.rootfs, true, libc::MS_SLAVE).at("root.path")?,
            binds: plan.mounts.iter().map(|step| bind(step).at_with(|| step.failing.clone())).collect::<Result<_>>()?,
            devices: nodes.iter().map(devices::clone_host).collect::<Result<_>>()?,
        })
    }

    /// Whether a bind source is what another network namespace would have shown otherwise: a part of procfs, or a namespace
    /// itself (`/proc/self/ns/net`).
    pub(super) fn depend_on_network(&self) -> Result<bool> {
        for bind in self.binds.iter().flatten() {
            let kind = rustix::fs::fstatfs(bind).at("statfs")?.f_type;
            if kind == PROC || kind == NSFS {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
