//! Where a container's root is mounted while it is being built, and how init gets into it.
//!
//! The root lies at its own path, in a tree of mounts that is otherwise the host's, until init enters it: hooks find the
//! container's files where the host has them, those that join its mount namespace too (as vendors' hooks do that bring
//! devices and libraries).

use crate::{
    error::{At, Error, Result},
    inside::root::Root,
    sys::{MountAttr, mount_setattr},
};
use rustix::{
    fd::{AsFd, AsRawFd, OwnedFd},
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, move_mount, unmount},
};
use std::path::{Path, PathBuf};

const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const PRIVATE: MountAttr = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::NONE };

/// Sets the propagation of `/`, with all below if asked: from now on what is mounted here does not reach the host.
pub(super) fn set_propagation((propagation, recursive): (u64, bool)) -> Result<()> {
    let host = rustix::fs::open("/", PLACE, Mode::empty()).at("open /")?;
    let attr = MountAttr { propagation, ..MountAttr::NONE };
    mount_setattr(host.as_fd(), recursive, attr).at("set the propagation of /")
}

/// Mounts `root` at `rootfs`. In a mount namespace of the container's own, what is above it becomes private: pivot_root(2)
/// refuses a root whose parent is shared, and mounts below it must not travel to the host.
pub(super) fn attach(root: &OwnedFd, rootfs: &Path, own_mounts: bool) -> Result<()> {
    let place = match rustix::fs::open(rootfs, PLACE, Mode::empty()) {
        // Another user's namespace may lack the way there: `/` is everybody's.
        Err(Errno::ACCESS) if own_mounts => rustix::fs::open("/", PLACE, Mode::empty()).at("open /")?,
        place => place.at_with(|| format!("open the root {}", rootfs.display()))?,
    };
    if own_mounts {
        let host = rustix::fs::open("/", PLACE, Mode::empty()).at("open /")?;
        mount_setattr(host.as_fd(), false, PRIVATE).at("make / private")?;
        make_mount_private(place.as_fd().try_clone_to_owned()?)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(root, "", &place, "", flags).at("mount the root")
}

/// A root in the host's mount namespace, taken off again if the birth fails.
pub(super) struct HostMount(Option<OwnedFd>);

impl HostMount {
    /// `root` is attached.
    pub(super) fn of(root: &OwnedFd) -> Result<Self> {
        Ok(Self(Some(root.try_clone()?)))
    }

    /// It stays, also after the container: others may have come to use it.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        if let Some(root) = &self.0
            && rustix::process::fchdir(root).is_ok()
        {
            // There is nobody left to tell: the failure that brought us here comes first.
            let _ = unmount(".", UnmountFlags::DETACH);
        }
    }
}

/// The mount that `dir` is in.
fn make_mount_private(mut dir: OwnedFd) -> Result<()> {
    loop {
        match mount_setattr(dir.as_fd(), false, PRIVATE) {
            // Not the mount's own root, which is above.
            Err(Errno::INVAL) => {
                dir = rustix::fs::openat(&dir, "..", PLACE, Mode::empty()).at("look above the root")?;
            }
            result => return result.at("make the mount above the root private"),
        }
    }
}

/// Makes the root `/`, and lets go of the host's.
pub(super) fn pivot(root: &Root, propagation: Option<u64>) -> Result<()> {
    rustix::process::fchdir(root).at("go to the root")?;
    // On a shared one nothing may be put, or taken off, that the host would see. A slave, if asked for, keeps its master.
    if propagation != Some(libc::MS_SLAVE) {
        mount_setattr(root.as_fd(), false, PRIVATE).at("make the root private")?;
    }
    let old = rustix::fs::open("/", PLACE, Mode::empty()).at("open the old root")?;
    // The old root comes to lie on top of the new one, and is taken off. It must be nobody's peer by then, or the host's
    // mounts would go with it.
    rustix::process::pivot_root(".", ".").at("pivot_root (--no-pivot is for roots on a ramdisk)")?;
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::NONE };
    mount_setattr(old.as_fd(), true, slave).at("make the old root a slave")?;
    unmount(".", UnmountFlags::DETACH).at("unmount the old root")?;
    if let Some(propagation) = propagation {
        let attr = MountAttr { propagation, ..MountAttr::NONE };
        mount_setattr(root.as_fd(), false, attr).at("linux.rootfsPropagation")?;
    }
    rustix::process::chdir("/").at("go to /")
}

/// The same without pivot_root(2): the host's tree stays below, out of reach.
pub(super) fn move_and_chroot(root: &Root) -> Result<()> {
    rustix::process::fchdir(root).at("go to the root")?;
    hide_kernel_files(root)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, "/", flags).at("move the root to /")?;
    chroot(root)
}

/// As root in the host's own mount namespace: the rest is out of sight only.
pub(super) fn chroot(root: &Root) -> Result<()> {
    rustix::process::fchdir(root).at("go to the root")?;
    rustix::process::chroot(".").at("chroot")?;
    rustix::process::chdir("/").at("go to /")
}

/// Takes away the host's procfs and sysfs. While one of them is whole in the mount namespace the kernel lets the container
/// mount another, without what is masked in its own.
fn hide_kernel_files(root: &Root) -> Result<()> {
    let own = std::fs::read_link(format!("/proc/self/fd/{}", root.as_fd().as_raw_fd())).at("find the root's path")?;
    let table = std::fs::read("/proc/self/mountinfo").at("read /proc/self/mountinfo")?;
    // Anybody may have mounted something at a place whose name is no text.
    let table = String::from_utf8_lossy(&table);
    // What was mounted last lies on top.
    for point in kernel_files(&table).into_iter().rev().filter(|point| !point.starts_with(&own)) {
        if point.to_string_lossy().contains(char::REPLACEMENT_CHARACTER) {
            return Err(Error::other(format!("{}: is not hidden, as its name is no text", point.display())));
        }
        let taken = unmount(&point, UnmountFlags::DETACH);
        // One that came with a user namespace cannot be taken off, only covered.
        taken
            .or_else(|_| mount("tmpfs", &point, "tmpfs", MountFlags::RDONLY, c"size=0"))
            .or_else(|errno| if errno == Errno::NOENT { Ok(()) } else { Err(errno) })
            .at_with(|| format!("hide {}", point.display()))?;
    }
    Ok(())
}

/// Where a mount table (proc_pid_mountinfo(5)) has procfs and sysfs.
fn kernel_files(table: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        matches!(after.split(' ').next()?, "proc" | "sysfs").then_some(())?;
        let escaped = before.split(' ').nth(4)?;
        let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
        Some(plain.iter().fold(escaped.to_owned(), |path, (code, plain)| path.replace(code, plain)).into())
    };
    table.lines().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn procfs_and_sysfs_are_found_wherever_they_are() {
        let table = "22 1 0:20 / /proc rw - proc proc rw\n23 1 0:21 / /sys rw shared:1 - sysfs sysfs rw\n\
                     24 1 8:1 / /mnt/a rw - ext4 /dev/sda1 rw\n25 1 0:20 /sys /a\\040b rw - proc none rw\n";
        assert_eq!(kernel_files(table), ["/proc", "/sys", "/a b"].map(PathBuf::from));
    }
}
