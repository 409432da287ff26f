//! A container's root directory, and the only ways to name something below it: everything in it is hostile, so a path is
//! resolved once by the kernel, within the root (openat2(2), `RESOLVE_IN_ROOT`), and from then on the descriptor counts.

use crate::error::{At, Error, Result};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// What to open a place for: a place only, no access to what it holds.
const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// Links of the image lead within the root; magic links (`/proc/1/root`) lead anywhere and are refused.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

pub(crate) struct Root(OwnedFd);

impl Root {
    /// `fd` is the mounted root directory.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The place `path`, which must exist.
    pub(crate) fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        self.open_for(path, PLACE, ResolveFlags::empty())
    }

    /// Opens `path` with `flags` and further rules of resolution.
    pub(crate) fn open_for(&self, path: &Path, flags: OFlags, rules: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        // The kernel reports a rename that it met while resolving `..`; it asks to try again.
        for _ in 0..128 {
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), IN_ROOT | rules) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The directory `path`; what is missing of it is made.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<OwnedFd> {
        match self.open_for(path, PLACE | OFlags::DIRECTORY, ResolveFlags::empty()) {
            Err(Errno::NOENT) => {}
            opened => return opened.at_with(|| format!("open {}", path.display())),
        }
        let (dir, missing) = self.longest_existing(path)?;
        make_dirs(dir, &missing, path)
    }

    /// Something at `path` to mount a file on: what is there, or a new empty file.
    pub(crate) fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        match self.open(path) {
            Err(Errno::NOENT) => {}
            Ok(found) if file_type(&found).is_ok_and(FileType::is_dir) => {
                return Err(Error::other(format!("{}: is a directory, the source is a file", path.display())));
            }
            opened => return opened.at_with(|| format!("open {}", path.display())),
        }
        let (dir, mut missing) = self.longest_existing(path)?;
        let name = missing.pop().ok_or_else(|| Error::other(format!("{}: cannot be made", path.display())))?;
        let dir = make_dirs(dir, &missing, path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o644))
            .and_then(|_| rustix::fs::openat(&dir, &name, PLACE | OFlags::NOFOLLOW, Mode::empty()))
            .at_with(|| format!("make {}", path.display()))
    }

    /// The directory in which `path`'s last name lies, made if missing, and that name.
    pub(crate) fn make_parent(&self, path: &Path) -> Result<(OwnedFd, PathBuf)> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok((self.make_dir(parent)?, name.into())),
            _ => Err(Error::other(format!("{}: is not the path of a file", path.display()))),
        }
    }

    /// The deepest part of `path` that exists, and the names that are missing below it. Links of the image that lead to what
    /// does not exist are followed, within the root as all others: what is missing is their targets.
    fn longest_existing(&self, path: &Path) -> Result<(OwnedFd, Vec<PathBuf>)> {
        let mut path = path.to_owned();
        // As many links as the kernel follows in one path.
        for _ in 0..40 {
            let (dir, existing, missing) = self.split(&path)?;
            let Some(first) = missing.first() else { return Ok((dir, missing)) };
            match rustix::fs::readlinkat(&dir, first, Vec::new()) {
                // Missing, or just made by somebody else, as something that is no link.
                Err(Errno::NOENT | Errno::INVAL) => return Ok((dir, missing)),
                Err(error) => return Err(error).at_with(|| format!("read the link {}", path.display())),
                Ok(target) => {
                    path = existing.join(OsStr::from_bytes(target.to_bytes()));
                    path.extend(&missing[1..]);
                }
            }
        }
        Err(Errno::LOOP).at_with(|| format!("make {}", path.display()))
    }

    /// What of `path` exists, opened and as text, and the names behind it.
    fn split(&self, path: &Path) -> Result<(OwnedFd, PathBuf, Vec<PathBuf>)> {
        let mut missing = Vec::new();
        let mut prefix = path;
        loop {
            let (Some(parent), Some(Component::Normal(name))) = (prefix.parent(), prefix.components().next_back())
            else {
                return Err(Error::other(format!("{}: cannot be made", path.display())));
            };
            missing.push(name.into());
            prefix = parent;
            let place = if prefix.as_os_str().is_empty() { Path::new("/") } else { prefix };
            match self.open_for(place, PLACE | OFlags::DIRECTORY, ResolveFlags::empty()) {
                Err(Errno::NOENT) => {}
                opened => {
                    missing.reverse();
                    let dir = opened.at_with(|| format!("open {}", place.display()))?;
                    return Ok((dir, place.to_owned(), missing));
                }
            }
        }
    }
}

/// Makes `names` in `dir`, each in the one before.
fn make_dirs(mut dir: OwnedFd, names: &[PathBuf], path: &Path) -> Result<OwnedFd> {
    for name in names {
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            // Not following: a link that appeared meanwhile leads nowhere we go.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).at_with(|| format!("make {}", path.display())),
        }
        dir = rustix::fs::openat(&dir, name, PLACE | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .at_with(|| format!("make {}", path.display()))?;
    }
    Ok(dir)
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The type of what a descriptor refers to.
pub(crate) fn file_type(fd: impl AsFd) -> rustix::io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(dir: &Path) -> Root {
        Root::new(rustix::fs::open(dir, PLACE | OFlags::DIRECTORY, Mode::empty()).unwrap())
    }

    #[test]
    fn links_lead_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("absolute")).unwrap();
        symlink("../../../../../../..", dir.path().join("up")).unwrap();
        symlink("/proc/self/cwd", dir.path().join("magic")).unwrap();
        let root = root(dir.path());
        // The absolute link dangles within the root: its target is made there.
        root.make_dir(Path::new("/absolute/x")).unwrap();
        assert!(dir.path().join(outside.path().strip_prefix("/").unwrap()).join("x").is_dir());
        root.make_dir(Path::new("/up/made/deep")).unwrap();
        assert!(dir.path().join("made/deep").is_dir());
        root.make_dir(Path::new("/magic/x")).unwrap();
        assert!(dir.path().join("proc/self/cwd/x").is_dir());
        root.make_file(Path::new("/up/../etc/file")).unwrap();
        assert!(dir.path().join("etc/file").is_file());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_to_what_is_missing_are_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        symlink("/tmp/foo/bar", dir.path().join("jump")).unwrap();
        symlink("/jump/baz/hosts", dir.path().join("etc/hosts")).unwrap();
        symlink("../up/../other", dir.path().join("etc/relative")).unwrap();
        symlink("loop2", dir.path().join("loop1")).unwrap();
        symlink("loop1", dir.path().join("loop2")).unwrap();
        let root = root(dir.path());
        root.make_file(Path::new("/etc/hosts")).unwrap();
        assert!(dir.path().join("tmp/foo/bar/baz/hosts").is_file());
        // `up` does not exist, and `..` of what does not exist is nowhere.
        assert!(root.make_dir(Path::new("/etc/relative")).is_err());
        assert!(root.make_dir(Path::new("/loop1/x")).is_err());
    }

    #[test]
    fn a_file_is_not_made_over_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        root.make_dir(Path::new("/d")).unwrap();
        assert!(root.make_file(Path::new("/d")).unwrap_err().to_string().contains("is a directory"));
        assert!(root.make_file(Path::new("/")).is_err());
        assert!(root.make_dir(Path::new("/a/../../b")).is_err());
    }
}
