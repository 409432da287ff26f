//! Which extended attributes a layer may set, and how they are set.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{XattrFlags, fsetxattr, lsetxattr};
use rustix::io::Errno;

use super::terms::OverlayForm;
use crate::error::{Error, Result, Step};

/// Largest value that the kernel takes (`XATTR_SIZE_MAX`).
const VALUE_MAX: usize = 64 << 10;

/// Whether a layer may set `name`. overlayfs reads its own attributes from the layers it stacks: with
/// `trusted.overlay.redirect` in a layer, a directory would show another place of the lower layers. Labels of security
/// modules (`security.selinux` and the like) belong to the host.
pub(super) fn is_allowed(name: &[u8]) -> bool {
    let overlay = [&b"trusted.overlay."[..], b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers."];
    if overlay.iter().any(|prefix| name.starts_with(prefix)) {
        return false;
    }
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Sets the allowed ones of `xattrs` on an open file or directory.
pub(super) fn set_all(fd: impl AsFd, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    for (name, value) in xattrs.iter().filter(|(name, _)| is_allowed(name)) {
        check(name, value)?;
        tolerate(name, fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// Sets the allowed ones of `xattrs` on what `name` in `parent` is, without following it: symlinks and special files
/// cannot be opened.
pub(super) fn set_all_at(parent: impl AsFd, name: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    for (name, value) in xattrs.iter().filter(|(name, _)| is_allowed(name)) {
        check(name, value)?;
        tolerate(name, lsetxattr(path.as_slice(), name.as_slice(), value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// Marks a directory so that overlayfs shows nothing of the lower layers below it.
pub(super) fn set_opaque(directory: impl AsFd, form: OverlayForm) -> Result<()> {
    let name = match form {
        OverlayForm::Trusted => "trusted.overlay.opaque",
        OverlayForm::User => "user.overlay.opaque",
    };
    fsetxattr(directory, name, b"y", XattrFlags::empty()).with(|| format!("set {name}"))
}

/// Whether a directory of a lower layer hides what is below it.
pub(super) fn is_opaque(directory: impl AsFd) -> Result<bool> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0; 1];
        match rustix::fs::fgetxattr(&directory, name, &mut value[..]) {
            Ok(1) if value == *b"y" => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => {}
            Err(e) => return Err(e).with(|| format!("get xattr {name}")),
        }
    }
    Ok(false)
}

fn check(name: &[u8], value: &[u8]) -> Result<()> {
    if name.contains(&0) || value.len() > VALUE_MAX {
        let name = String::from_utf8_lossy(name);
        return Err(Error::malformed(format!("xattr {name}: {} bytes (at most {VALUE_MAX})", value.len())));
    }
    Ok(())
}

fn tolerate(name: &[u8], result: rustix::io::Result<()>) -> Result<()> {
    match result {
        // The file system, or this kind of file (user.* on a symlink), has no such attributes: other tools go on too.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::PERM) if name.starts_with(b"user.") || name.starts_with(b"trusted.") => Ok(()),
        Err(e) => Err(e).with(|| format!("set xattr {}", String::from_utf8_lossy(name))),
    }
}

/// The attributes of an open file that a layer might have set.
pub(crate) fn read_all(fd: impl AsFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    read(|list| rustix::fs::flistxattr(&fd, list), |name, value| rustix::fs::fgetxattr(&fd, name, value))
}

/// The same of what `name` in `parent` is, without following it.
pub(super) fn read_all_at(parent: impl AsFd, name: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    read(
        |list| rustix::fs::llistxattr(path.as_slice(), list),
        |name, value| rustix::fs::lgetxattr(path.as_slice(), name, value),
    )
}

fn read(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; VALUE_MAX];
    let len = match list(&mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(len) => len,
        Err(e) => return Err(e).at("list xattrs"),
    };
    let mut found = Vec::new();
    let mut value = vec![0; VALUE_MAX];
    for name in names[..len].split(|&b| b == 0).filter(|name| is_allowed(name)) {
        let len = get(name, &mut value).with(|| format!("get xattr {}", String::from_utf8_lossy(name)))?;
        found.push((name.to_vec(), value[..len].to_vec()));
    }
    Ok(found)
}
