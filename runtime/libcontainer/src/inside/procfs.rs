//! Writes to `/proc` go through a descriptor of the host's procfs that was verified before any container code could
//! have touched a mount: a path in the container may lead anywhere (CVE-2019-16884, CVE-2025-52881).

use crate::error::{At, Error, Result};
use rustix::{
    fd::{AsFd, OwnedFd},
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

impl Procfs {
    /// Moves the caller itself into the time namespace that it made for its children.
    pub(crate) fn enter_time_for_children(&self) -> Result<()> {
        let path = "self/ns/time_for_children";
        rustix::fs::openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|fd| crate::sys::setns(fd.as_fd(), libc::CLONE_NEWTIME as u64))
            .at("enter the time namespace")
    }
}

/// `net.ipv4.ip_forward` is `net/ipv4/ip_forward` below `/proc/sys`; with slashes in the key, dots are names' own
/// (sysctl.d(5)).
pub(crate) fn sysctl_path(key: &str) -> String {
    let slash_first = key.find(['.', '/']).is_some_and(|i| key.as_bytes()[i] == b'/');
    let path: String = if slash_first {
        key.to_owned()
    } else {
        key.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    };
    format!("sys/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_dots_or_slashes() {
        for (key, path) in [
            ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(sysctl_path(key), path);
        }
    }

    #[test]
    fn paths_do_not_leave_procfs() {
        let proc = Procfs::open().unwrap();
        assert!(proc.write("sys/../../etc/x", "").is_err());
        assert!(proc.write("self/root/etc/x", "").is_err());
    }
}
