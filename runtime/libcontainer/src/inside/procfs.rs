//! Writes to `/proc` go through a descriptor of the host's procfs that was verified before any container code could
//! have touched a mount: a path in the container may lead anywhere (CVE-2019-16884, CVE-2025-52881).

use crate::error::{At, Error, Result};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags},
};

/// `PROC_SUPER_MAGIC` of the kernel.
pub(crate) const PROC: i64 = 0x9fa0;

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
        Ok(Self(dir))
    }

    /// Writes `value` to an existing file in one write(2), which is what its parser expects.
    pub(crate) fn write(&self, path: &str, value: &str) -> Result<()> {
        // `self` is a link of procfs itself; a mount in the way would not be procfs.
        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.0, path, flags, Mode::empty(), rules)
            .and_then(|file| rustix::io::write(file, value.as_bytes()))
            .at_with(|| format!("write {value:?} to /proc/{path}"))
            .map(drop)
    }
}

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Procfs {
    /// Moves the caller itself into the time namespace that it made for its children.
    pub(crate) fn enter_time_for_children(&self) -> Result<()> {
        let path = "self/ns/time_for_children";
        rustix::fs::openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
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
