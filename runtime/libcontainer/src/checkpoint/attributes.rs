//! Attributes of restored mounts that lead out of the container. criu sets those in its images only where they are other than
//! those of an earlier mount of the same files, as if it had cloned that one; but these it takes from the host again, with the
//! host's attributes. So of two read-only binds of a directory the second came back writable, and with it the host's null device
//! over masked files, whose mode and owner are everybody's.

use super::away;
use crate::{
    birth::Plan,
    error::{At, Result},
    inside::{
        devices::clone_null,
        mounts::{Source, What},
        root::Root,
    },
    sys::{self, MountAttr, mount_setattr},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, Stat, fstat, stat},
    io::Errno,
};
use std::path::Path;

/// Makes them at least as narrow as the configuration has them. The process `pid` and all others of the container are stopped:
/// what is looked up in its tree is not exchanged meanwhile.
pub(super) fn narrow(pid: i32, plan: &Plan) -> Result<()> {
    let open = |name: &str, flags: OFlags| {
        let path = format!("/proc/{pid}/{name}");
        rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).at_with(|| format!("open {path}"))
    };
    let root = Root::new(open("root", OFlags::PATH | OFlags::DIRECTORY)?);
    let namespace = open("ns/mnt", OFlags::RDONLY)?;

    let mut wide: Vec<(&Path, OwnedFd, u64, bool)> = Vec::new();
    let null = fstat(clone_null()?).at("stat /dev/null")?;
    for path in &plan.masked {
        if let Some(mount) = found(&root, path, &null) {
            wide.push((path, mount, libc::MOUNT_ATTR_RDONLY, false));
        }
    }
    for node in plan.nodes.iter().filter(|_| plan.binds_nodes()) {
        if let Ok(host) = stat(&node.path)
            && let Some(mount) = found(&root, &node.path, &host)
        {
            wide.push((&node.path, mount, libc::MOUNT_ATTR_RDONLY, false));
        }
    }
    for step in &plan.mounts {
        let What::Bind { source: Source::Host(source), .. } = &step.what else { continue };
        let Ok(source) = stat(source) else { continue };
        let Some(mount) = found(&root, &step.destination, &source) else { continue };
        for (set, recursive) in [(step.flags.bind().set, false), (step.recursive.set, true)] {
            let mount = mount.try_clone().at("duplicate a mount's descriptor")?;
            wide.push((&step.destination, mount, set & !libc::MOUNT_ATTR__ATIME, recursive));
        }
    }
    let act = || {
        wide.iter().try_for_each(|(path, mount, set, recursive)| {
            match mount_setattr(mount.as_fd(), *recursive, MountAttr { set: *set, ..MountAttr::default() }) {
                // Files are open for writing: it was the container that made this mount writable, and may do so.
                Err(Errno::BUSY) => Ok(()),
                done => done.at_with(|| format!("set the attributes of {} again", path.display())),
            }
        })
    };
    away(|| sys::setns(namespace.as_fd(), libc::CLONE_NEWNS as u64).at("enter the container's mount namespace"), act)
}

/// The mount at `path`, if it shows what it did when it was made.
fn found(root: &Root, path: &Path, source: &Stat) -> Option<OwnedFd> {
    let place = root.open(path).ok()?;
    let there = fstat(&place).ok()?;
    ((there.st_dev, there.st_ino) == (source.st_dev, source.st_ino)).then_some(place)
}
