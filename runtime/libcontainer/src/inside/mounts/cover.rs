//! Masked and read-only paths: a mount over what was resolved within the root once.

use super::act::attach;
use crate::{
    error::{At, Result},
    inside::{
        devices::clone_null,
        root::{Root, file_type},
    },
    sys::{MountAttr, mount_setattr},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen, open_tree,
    },
};
use std::{collections::BTreeSet, path::PathBuf};

/// Hides each path: files under the null device, directories under an empty read-only tmpfs. The null device is that of
/// the present mount namespace, which is still the host's view, verified by its number: an image that makes its own
/// `/dev/null` a link would choose what gets mounted (CVE-2025-31133).
pub(crate) fn mask(root: &Root, paths: &[PathBuf], label: Option<&str>) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let mut null = None;
    let mut empty = None;
    let mut seen = BTreeSet::new();
    // Engines add theirs to the user's.
    for path in paths.iter().filter(|path| seen.insert(path.as_path())) {
        let covered = match root.open(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            place => place.map_err(Into::into).and_then(|place| {
                if file_type(&place)?.is_dir() {
                    cover_directory(&mut empty, place.as_fd(), label)
                } else {
                    cover_file(&mut null, place.as_fd())
                }
            }),
        };
        covered.at_with(|| format!("mask {}", path.display()))?;
    }
    Ok(())
}

/// What is over the first file serves the others.
fn cover_file(null: &mut Option<OwnedFd>, place: BorrowedFd<'_>) -> Result<()> {
    if let Some(attached) = null {
        return attach(clone_of(attached.as_fd(), false)?.as_fd(), place);
    }
    let mount = clone_null()?;
    attach(mount.as_fd(), place)?;
    *null = Some(mount);
    Ok(())
}

/// One file system serves all: once it is attached somewhere, kernels of every age let it be cloned.
fn cover_directory(empty: &mut Option<OwnedFd>, place: BorrowedFd<'_>, label: Option<&str>) -> Result<()> {
    if let Some(attached) = empty {
        return attach(clone_of(attached.as_fd(), false)?.as_fd(), place);
    }
    let fresh = empty_directory(label)?;
    attach(fresh.as_fd(), place)?;
    *empty = Some(fresh);
    Ok(())
}

/// Makes each path and all mounts below it read-only.
pub(crate) fn read_only(root: &Root, paths: &[PathBuf]) -> Result<()> {
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    for path in paths {
        let covered = match root.open(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            place => place.map_err(Into::into).and_then(|place| {
                let mount = clone_of(place.as_fd(), true)?;
                mount_setattr(mount.as_fd(), true, attr)?;
                attach(mount.as_fd(), place.as_fd())
            }),
        };
        covered.at_with(|| format!("make {} read-only", path.display()))?;
    }
    Ok(())
}

/// A detached copy of what a descriptor refers to.
pub(crate) fn clone_of(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, "", flags).at("clone the mount")
}

fn empty_directory(label: Option<&str>) -> Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).at("fsopen tmpfs")?;
    fsconfig_set_string(&context, "nr_blocks", "1").at("option nr_blocks=1")?;
    fsconfig_set_string(&context, "nr_inodes", "1").at("option nr_inodes=1")?;
    if let Some(label) = label {
        fsconfig_set_string(&context, "context", label).at_with(|| format!("option context={label}"))?;
    }
    fsconfig_create(&context).at("make the tmpfs")?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).at("mount the tmpfs")
}
