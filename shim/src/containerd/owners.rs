//! The owners of a root file system's files, mapped into the container's user namespace: `uidmap` and `gidmap` among the
//! options of a mount.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{Context, Error, Result};
use crate::sys;

/// The first argument that makes the program the first process of a user namespace.
pub(crate) const VERB: &str = "user-namespace";

/// What the options say: `CONTAINER:HOST:NUMBER[,…]` each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owners {
    pub(crate) users: String,
    pub(crate) groups: String,
}

impl Owners {
    /// A user namespace with these owners. The process in it ends before this returns.
    fn namespace(&self) -> Result<OwnedFd> {
        let (users, groups) = (lines(&self.users)?, lines(&self.groups)?);
        let step = || "make a user namespace";
        let mut command = Command::new("/proc/self/exe");
        command.arg0("shim").arg(VERB).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context(step)?;
        let pid = child.id();
        let of = |name: &str| format!("/proc/{pid}/{name}");
        let mapped = (|| {
            let mut said = [0];
            let stdout = child.stdout.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
            stdout.read_exact(&mut said)?;
            fs::write(of("uid_map"), users)?;
            fs::write(of("gid_map"), groups)?;
            File::open(of("ns/user")).map(OwnedFd::from)
        })();
        // The end of its input is its end.
        drop(child.stdin.take());
        let _: std::io::Result<_> = child.wait();
        mapped.context(step)
    }

    /// Puts a copy of what is at `from` at `to`, with its owners mapped.
    pub(crate) fn map(&self, from: &Path, to: &Path, readonly: bool) -> Result<()> {
        let namespace = self.namespace()?;
        let step = || format!("map the owners of {}", from.display());
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, from, flags).context(step)?;
        sys::map_owners(&tree, namespace.as_fd(), readonly).context(step)?;
        move_mount(&tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context(step)
    }
}

/// The mappings as the kernel reads them, a line each.
fn lines(list: &str) -> Result<String> {
    let wrong = || Error::invalid(format!("mount the rootfs: {list:?} is no list of CONTAINER:HOST:NUMBER"));
    let line = |mapping: &str| {
        let numbers = mapping.split(':').map(str::parse).collect::<std::result::Result<Vec<u32>, _>>().ok()?;
        let [inside, outside, number] = numbers.try_into().ok()?;
        Some(format!("{inside} {outside} {number}\n"))
    };
    list.split(',').map(line).collect::<Option<String>>().ok_or_else(wrong)
}

/// Is in a user namespace of its own until its input ends.
pub(crate) fn hold() -> ExitCode {
    let held = unshare(CloneFlags::CLONE_NEWUSER).map_err(std::io::Error::from).and_then(|()| {
        std::io::stdout().write_all(b".")?;
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())
    });
    if held.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_become_lines() {
        assert_eq!(lines("0:100000:65536").unwrap(), "0 100000 65536\n");
        assert_eq!(lines("0:1:2,2:9:1").unwrap(), "0 1 2\n2 9 1\n");
        for text in ["", "0", "0:1", "0:1:2:3", "0:1:x", "0:-1:1", "0:1:2,", "0 1 2"] {
            assert!(lines(text).is_err(), "{text:?}");
        }
    }
}
