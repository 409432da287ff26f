//! Writes to `/proc` go through a descriptor of the host's procfs that was verified before any container code could
//! have touched a mount: a path in the container may lead anywhere (CVE-2019-16884, CVE-2025-52881).

use crate::error::{At, Error, Result};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags},
};
use std::io::Read;

/// `PROC_SUPER_MAGIC` of the kernel.
pub(crate) const PROC: i64 = 0x9fa0;
/// `PROC_ROOT_INO` of the kernel: the root of every procfs, and of nothing else in it.
const ROOT: u64 = 1;

/// The host's procfs. `self` in it is the caller, whatever namespaces it is in; `sys/net` is of the caller's network.
pub(crate) struct Procfs(OwnedFd);

impl Procfs {
    /// Opens `/proc` of the present mount namespace.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open("/proc", flags, Mode::empty()).at("open /proc")?;
        if rustix::fs::fstatfs(&dir).at("statfs /proc")?.f_type != PROC {
            return Err(Error::other("/proc is no procfs: mount one"));
        }
        if rustix::fs::fstat(&dir).at("stat /proc")?.st_ino != ROOT {
            return Err(Error::other("/proc is a part of a procfs: mount a whole one"));
        }
        Ok(Self(dir))
    }

    /// Writes `value` to an existing file in one write(2), which is what its parser expects.
    pub(crate) fn write(&self, path: &str, value: &str) -> Result<()> {
        self.open_beneath(path, OFlags::WRONLY)
            .and_then(|file| rustix::io::write(file, value.as_bytes()))
            .at_with(|| format!("write {value:?} to /proc/{path}"))
            .map(drop)
    }

    /// Whether the caller's user namespace lets its processes change their groups (user_namespaces(7)).
    pub(crate) fn lets_set_groups(&self) -> Result<bool> {
        let mut text = String::new();
        self.open_beneath("self/setgroups", OFlags::RDONLY)
            .map_err(Error::from)
            .and_then(|file| Ok(std::fs::File::from(file).read_to_string(&mut text)?))
            .at("read /proc/self/setgroups")?;
        Ok(text.trim() != "deny")
    }

    /// Opens what is there.
    pub(crate) fn open_beneath(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        // `self` is a link of procfs itself; a mount in the way would not be this procfs.
        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), rules)
    }
}

impl Procfs {
    /// Moves the caller itself into the time namespace that it made for its children.
    pub(crate) fn enter_time_for_children(&self) -> Result<()> {
        // Only the last link is one of the kernel's magic ones.
        self.open_beneath("self/ns", OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|dir| {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&dir, "time_for_children", flags, Mode::empty())
            })
            .and_then(|fd| crate::sys::setns(fd.as_fd(), libc::CLONE_NEWTIME as u64))
            .at("enter the time namespace")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_leave_procfs() {
        let proc = Procfs::open().unwrap();
        assert!(proc.write("sys/../../etc/x", "").is_err());
        assert!(proc.write("self/root/etc/x", "").is_err());
    }
}
