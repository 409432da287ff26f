//! The container's root file system, reached beneath a descriptor only: whatever the image has in it, no path of ours
//! leaves it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, openat, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::regular;

/// A mounted root file system.
pub(super) struct RootFs {
    fd: OwnedFd,
    /// Whose what is made in it is, if not ours.
    owner: Option<(u32, u32)>,
}

impl RootFs {
    /// What is made in it is this user's and group's.
    pub(super) fn owned_by(self, owner: (u32, u32)) -> Self {
        Self { owner: Some(owner), ..self }
    }

    pub(super) fn of(fd: OwnedFd) -> Self {
        Self { fd, owner: None }
    }

    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty()).with(|| format!("open {}", path.display()))?;
        Ok(Self::of(fd))
    }

    /// Opens what `path` means inside the container: symlinks are followed, with the root as their root.
    fn open_in(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        // EAGAIN: something was renamed while the kernel resolved "..".
        for _ in 0..32 {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Reads a text file of the image of at most `most` bytes; `None` if there is none.
    pub(super) fn read(&self, path: &str, most: u64) -> Result<Option<String>> {
        let found = match self.open_in(path.as_bytes(), OFlags::PATH) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(e).with(|| format!("{path} in the image")),
        };
        let bytes = regular::read_found(&found, most).with(|| format!("{path} in the image"))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Opens a directory; `None` if it does not exist.
    pub(super) fn directory(&self, path: &str) -> Result<Option<OwnedFd>> {
        match self.open_in(path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).with(|| format!("{path} in the image")),
        }
    }

    /// Makes a directory and its parents where they are missing, and opens it.
    pub(super) fn make_directory(&self, path: &str) -> Result<OwnedFd> {
        let step = || format!("directory {path} in the image");
        let mut prefix = String::new();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut at = self.open_in(b"", flags).with(step)?;
        for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
            if name == ".." {
                return Err(Error::malformed("`..` is not allowed")).with(step);
            }
            prefix.push('/');
            prefix.push_str(name);
            at = match self.open_in(prefix.as_bytes(), flags) {
                Err(Errno::NOENT) => {
                    // The parent is open; a dangling symlink of this name makes mkdir fail and is not followed.
                    mkdirat(at.as_fd(), name, Mode::from_raw_mode(0o755)).with(step)?;
                    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made = openat(at.as_fd(), name, flags, Mode::empty()).with(step)?;
                    if let Some((uid, gid)) = self.owner {
                        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                        chownat(&made, "", uid, gid, AtFlags::EMPTY_PATH).with(step)?;
                    }
                    made
                }
                result => result.with(step)?,
            };
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_in_the_image_stay_in_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "host").unwrap();
        symlink(dir.path().join("secret"), root.join("etc/absolute")).unwrap();
        symlink("../../secret", root.join("etc/relative")).unwrap();
        symlink("/proc/self/root", root.join("etc/magic")).unwrap();
        symlink(dir.path(), root.join("out")).unwrap();
        std::fs::write(root.join("etc/big"), "12345").unwrap();
        let fs = RootFs::open(&root).unwrap();
        assert_eq!(fs.read("etc/absolute", 100).unwrap(), None);
        assert_eq!(fs.read("etc/relative", 100).unwrap(), None);
        assert_eq!(fs.read("etc/magic/etc/passwd", 1000).unwrap(), None);
        assert_eq!(fs.read("etc/big", 5).unwrap().unwrap(), "12345");
        assert!(fs.read("etc/big", 4).is_err());
        assert!(fs.read("etc", 4).is_err());
        assert!(fs.make_directory("out/made").is_err(), "a dangling link is no directory to make things in");
        assert!(fs.make_directory("/a/../../b").is_err());
        fs.make_directory("/var/lib/app").unwrap();
        assert!(root.join("var/lib/app").is_dir());
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn a_device_in_place_of_a_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        let made = rustix::fs::mknodat(
            CWD,
            &path,
            rustix::fs::FileType::CharacterDevice,
            Mode::RUSR,
            // No driver has it: to open it fails.
            rustix::fs::makedev(4095, 1),
        );
        if made.is_err() {
            println!("skipped: no device can be made here");
            return;
        }
        let error = RootFs::open(dir.path()).unwrap().read("passwd", 10).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_fifo_in_place_of_a_file_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(CWD, dir.path().join("passwd"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(
            RootFs::open(dir.path())
                .unwrap()
                .read("passwd", 10)
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
    }
}
