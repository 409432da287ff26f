//! The bundle's root file system: overlayfs over the image's unpacked layers.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};

use crate::error::{Error, Result, Step};

/// Features of overlayfs that write into the upper layer what other kernels or a later diff could not read.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "off")];
/// overlayfs stacks at most this many lower layers.
const LAYERS_MAX: usize = 500;
/// fsconfig takes strings up to this length.
const STRING_MAX: usize = 255;

/// Mounts `lower` (the topmost first) under `upper` at `target`.
pub(super) fn mount_overlay(lower: &[&Path], upper: &Path, work: &Path, target: &Path) -> Result<()> {
    if lower.len() > LAYERS_MAX {
        return Err(Error::malformed(format!("{} layers (overlayfs takes at most {LAYERS_MAX})", lower.len())));
    }
    let step = || format!("mount overlay at {}", target.display());
    let short = lower.iter().chain([&upper, &work]).all(|path| path.as_os_str().len() <= STRING_MAX);
    let mounted = if short { by_fsconfig(lower, upper, work, target) } else { Err(Errno::NOSYS) };
    match mounted {
        Ok(()) => Ok(()),
        // Before Linux 6.7 overlayfs took layers only as one mount option.
        Err(Errno::NOSYS | Errno::INVAL) => by_mount(lower, upper, work, target).map_err(explain).with(step),
        Err(e) => Err(explain(e)).with(step),
    }
}

fn by_fsconfig(lower: &[&Path], upper: &Path, work: &Path, target: &Path) -> rustix::io::Result<()> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "source", "overlay")?;
    for path in lower {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", *path)?;
    }
    fsconfig_set_string(fs.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(fs.as_fd(), "workdir", work)?;
    for (key, value) in OPTIONS {
        fsconfig_set_string(fs.as_fd(), key, value)?;
    }
    fsconfig_create(fs.as_fd())?;
    let mounted = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(mounted.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// The old way: all layers in one page of options, so by the short names of descriptors, which may also have any
/// character in their paths.
fn by_mount(lower: &[&Path], upper: &Path, work: &Path, target: &Path) -> rustix::io::Result<()> {
    let open = |path: &Path| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let fds = lower.iter().copied().map(open).collect::<rustix::io::Result<Vec<OwnedFd>>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers: Vec<String> = fds.iter().map(name).collect();
    let mut options = format!("lowerdir={},upperdir={},workdir={}", layers.join(":"), name(&upper), name(&work));
    for (key, value) in OPTIONS {
        options.extend([",", key, "=", value]);
    }
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    mount("overlay", target, "overlay", MountFlags::empty(), &*options)
}

fn explain(errno: Errno) -> Error {
    match errno {
        Errno::INVAL => Error::other(
            "Invalid argument (overlayfs cannot write to the file system of the bundle: give a directory on ext4, xfs, btrfs or tmpfs)",
        ),
        Errno::PERM => Error::other("Operation not permitted (making a bundle needs root)"),
        Errno::NODEV => Error::other("the kernel has no overlayfs"),
        other => other.into(),
    }
}

/// Unmounts what is mounted at `target`, if anything is.
pub(super) fn unmount_rootfs(target: &Path) -> Result<()> {
    loop {
        match unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {} // and what may lie under it
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e).with(|| format!("unmount {}", target.display())),
        }
    }
}
