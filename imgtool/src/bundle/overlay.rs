//! The bundle's root file system: overlayfs over the image's unpacked layers.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};

use serde_json::{Value, json};

use crate::error::{Error, Result, Step};
use crate::layer::OverlayForm;

/// Features of overlayfs that write into the upper layer what other kernels or a later diff could not read. A user namespace has
/// no redirects anyhow, and may not say so.
fn options(form: OverlayForm) -> &'static [(&'static str, &'static str)] {
    match form {
        OverlayForm::Trusted => &[("index", "off"), ("metacopy", "off"), ("redirect_dir", "off")],
        OverlayForm::User => &[("index", "off"), ("metacopy", "off")],
    }
}
/// overlayfs stacks at most this many lower layers.
const LAYERS_MAX: usize = 500;
/// fsconfig takes strings up to this length.
const STRING_MAX: usize = 255;

/// Mounts `lower` (the topmost first) under `upper` at `target`.
pub(super) fn mount_overlay(
    lower: &[&Path],
    upper: &Path,
    work: &Path,
    target: &Path,
    form: OverlayForm,
) -> Result<()> {
    // An image may have a layer twice; overlayfs refuses that (ELOOP). The upper one shows all that the lower one has.
    let mut seen = std::collections::HashSet::new();
    let lower: Vec<&Path> = lower.iter().copied().filter(|path| seen.insert(*path)).collect();
    let lower = lower.as_slice();
    if lower.len() > LAYERS_MAX {
        return Err(Error::malformed(format!("{} layers (overlayfs takes at most {LAYERS_MAX})", lower.len())));
    }
    let step = || format!("mount overlay at {}", target.display());
    let short = lower.iter().chain([&upper, &work]).all(|path| path.as_os_str().len() <= STRING_MAX);
    let mounted = if short { by_fsconfig(lower, upper, work, target, form) } else { Err(Errno::NOSYS) };
    match mounted {
        Ok(()) => Ok(()),
        // Before Linux 6.7 overlayfs took layers only as one mount option.
        Err(Errno::NOSYS | Errno::INVAL) => by_mount(lower, upper, work, target, form).map_err(explain).with(step),
        Err(e) => Err(explain(e)).with(step),
    }
}

fn by_fsconfig(lower: &[&Path], upper: &Path, work: &Path, target: &Path, form: OverlayForm) -> rustix::io::Result<()> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "source", "overlay")?;
    for path in lower {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", *path)?;
    }
    fsconfig_set_string(fs.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(fs.as_fd(), "workdir", work)?;
    for (key, value) in options(form) {
        fsconfig_set_string(fs.as_fd(), *key, *value)?;
    }
    if form == OverlayForm::User {
        fsconfig_set_flag(fs.as_fd(), "userxattr")?;
    }
    fsconfig_create(fs.as_fd())?;
    let mounted = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(mounted.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// The old way: all layers in one page of options, so by the short names of descriptors, which may also have any
/// character in their paths.
fn by_mount(lower: &[&Path], upper: &Path, work: &Path, target: &Path, form: OverlayForm) -> rustix::io::Result<()> {
    let open = |path: &Path| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let fds = lower.iter().copied().map(open).collect::<rustix::io::Result<Vec<OwnedFd>>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers: Vec<String> = fds.iter().map(name).collect();
    let mut text = format!("lowerdir={},upperdir={},workdir={}", layers.join(":"), name(&upper), name(&work));
    for (key, value) in options(form) {
        text.extend([",", key, "=", value]);
    }
    if form == OverlayForm::User {
        text.push_str(",userxattr");
    }
    mount("overlay", target, "overlay", MountFlags::empty(), &*one_page(text)?)
}

/// Options for mount(2), which takes a page of them and forgets the rest without a word.
fn one_page(text: String) -> rustix::io::Result<std::ffi::CString> {
    const PAGE: usize = 4096;
    if text.len() >= PAGE {
        return Err(Errno::TOOBIG);
    }
    std::ffi::CString::new(text).map_err(|_| Errno::INVAL)
}

/// What layers (the topmost first, at least two) are together, to be read, and mounted at `target` only until it is open.
pub(super) fn look(layers: &[&Path], target: &Path) -> Result<OwnedFd> {
    let open = |path: &Path| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let look = || -> rustix::io::Result<OwnedFd> {
        let fds = layers.iter().copied().map(open).collect::<rustix::io::Result<Vec<OwnedFd>>>()?;
        let names: Vec<String> = fds.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
        let text = format!("lowerdir={},index=off,metacopy=off", names.join(":"));
        mount("overlay", target, "overlay", MountFlags::RDONLY, &*one_page(text)?)?;
        let opened = openat(CWD, target, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
        opened
    };
    look().map_err(explain).with(|| format!("mount overlay at {}", target.display()))
}

fn explain(errno: Errno) -> Error {
    match errno {
        Errno::INVAL => Error::other(
            "Invalid argument (overlayfs cannot write to the file system of the bundle: give a directory on ext4, xfs, btrfs or tmpfs)",
        ),
        Errno::PERM => Error::other("Operation not permitted (this kernel mounts overlays for root only: use --copy)"),
        Errno::NODEV => Error::other("the kernel has no overlayfs"),
        Errno::TOOBIG => Error::other("the image has more layers than can be mounted in this way: use --copy"),
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

/// The same as a mount of config.json, for a runtime to make. It lies on the container's root; `links` is a directory in which the
/// lower layers have short names, as they must all fit into a page.
pub(super) fn as_mount(lower: &[&Path], links: &Path, upper: &Path, work: &Path) -> Result<Value> {
    /// A page, without what the kernel and runtimes add.
    const OPTIONS_MAX: usize = 4000;
    let mut names = Vec::new();
    for (number, path) in lower.iter().enumerate() {
        let link = links.join(number.to_string());
        std::os::unix::fs::symlink(path, &link).with(|| format!("link {}", link.display()))?;
        names.push(text(&link)?.to_owned());
    }
    let mut all = vec![
        format!("lowerdir={}", names.join(":")),
        format!("upperdir={}", text(upper)?),
        format!("workdir={}", text(work)?),
    ];
    all.extend(options(OverlayForm::User).iter().map(|(key, value)| format!("{key}={value}")));
    all.push("userxattr".to_owned());
    if all.iter().map(|option| option.len() + 1).sum::<usize>() > OPTIONS_MAX {
        let layers = lower.len();
        return Err(Error::other(format!("{layers} layers are too many for one mount without root: use --copy")));
    }
    Ok(json!({"destination": "/", "type": "overlay", "source": "overlay", "options": all}))
}

/// A path that means itself among the options of a mount.
fn text(path: &Path) -> Result<&str> {
    let good = path.to_str().filter(|text| !text.contains([',', ':', '\\']));
    good.ok_or_else(|| {
        Error::other(format!(
            "{}: a path with a comma, colon or backslash cannot be mounted without root",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_mount_would_cut_are_refused() {
        assert!(one_page("x".repeat(4095)).is_ok());
        assert_eq!(one_page("x".repeat(4096)).unwrap_err(), Errno::TOOBIG);
    }
}
