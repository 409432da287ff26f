//! Walks down and up a tree with one descriptor, however deep it is: a tree of a layer, or what a container made, may
//! have more levels than a process may have files open.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, chmodat, fstat, openat, openat2, unlinkat};
use rustix::io::Errno;

use super::dirs::open_dir;
use crate::error::{Error, Result, Step};

/// A place in a tree.
pub(super) struct Descent {
    at: OwnedFd,
    /// Device and inode of each directory above, up to the one where the walk began.
    above: Vec<(u64, u64)>,
}

impl Descent {
    pub(super) fn at(start: OwnedFd) -> Self {
        Self { at: start, above: Vec::new() }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.at
    }

    /// Steps into the directory `name`, which must not be a symlink.
    pub(super) fn enter(&mut self, name: &[u8]) -> Result<()> {
        let next = open_dir(&self.at, name)?;
        self.above.push(identity(&self.at)?);
        self.at = next;
        Ok(())
    }

    /// The same, and never into what is mounted there.
    fn enter_own(&mut self, name: &[u8]) -> Result<()> {
        let next = open_own(&self.at, name)?;
        self.above.push(identity(&self.at)?);
        self.at = next;
        Ok(())
    }

    /// Steps back. Whoever moved the directory meanwhile would lead us to another parent: that is refused.
    pub(super) fn leave(&mut self) -> Result<()> {
        let want = self.above.pop().ok_or_else(|| Error::other("above the start of a walk"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let up = openat(&self.at, "..", flags, Mode::empty())?;
        if identity(&up)? != want {
            return Err(Error::other("a directory was moved while it was walked through"));
        }
        self.at = up;
        Ok(())
    }
}

fn identity(fd: impl AsFd) -> Result<(u64, u64)> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The names in a directory.
pub(crate) fn names(dir: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Removes the directory `name` in `dir` and all below it, never through a symlink, and nothing that is mounted there.
pub(super) fn remove_tree(dir: impl AsFd, name: &[u8]) -> Result<()> {
    struct Level {
        name: Vec<u8>,
        directories: Vec<Vec<u8>>,
    }
    let mut walk = Descent::at(open_own(&dir, name)?);
    let mut levels = vec![Level { name: name.to_vec(), directories: remove_files(walk.fd())? }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.directories.pop() {
            walk.enter_own(&name)?;
            levels.push(Level { name, directories: remove_files(walk.fd())? });
            continue;
        }
        let done = levels.pop().map(|level| level.name).unwrap_or_default();
        if levels.is_empty() {
            drop(walk);
            return Ok(unlinkat(&dir, done.as_slice(), AtFlags::REMOVEDIR)?);
        }
        walk.leave()?;
        unlinkat(walk.fd(), done.as_slice(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn open_own(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    make_searchable(&dir, name);
    openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV).map_err(|e| match e {
        Errno::XDEV => Error::other(format!("{}: something is mounted there", String::from_utf8_lossy(name))),
        e => e.into(),
    })
}

/// A user who is not root can only empty a directory that its mode lets him into. Root needs no mode.
fn make_searchable(dir: impl AsFd, name: &[u8]) {
    if !rustix::process::geteuid().is_root() {
        let _ = chmodat(dir, name, Mode::RWXU, AtFlags::empty());
    }
}

/// Removes all but the directories, whose names it gives.
fn remove_files(dir: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut directories = Vec::new();
    for name in names(dir)? {
        match unlinkat(dir, name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => directories.push(name),
            Err(e) => return Err(e).with(|| String::from_utf8_lossy(&name).into_owned()),
        }
    }
    Ok(directories)
}

/// Removes what `path` is, a tree or a file; nothing there is good too.
pub(crate) fn remove_all(path: &std::path::Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::other(format!("remove {}: not a name in a directory", path.display())));
    };
    let remove = || -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(rustix::fs::CWD, parent, flags, Mode::empty())?;
        match unlinkat(&parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(&parent, name.as_bytes()),
            other => Ok(other?),
        }
    };
    match remove() {
        Err(e) if e.kind() != crate::error::Kind::Missing => Err(e).with(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// More levels than the usual limit of open files, below `top`.
    fn deep(top: &std::path::Path) {
        let mut walk = Descent::at(super::super::open_root(top).unwrap());
        for _ in 0..3_000 {
            rustix::fs::mkdirat(walk.fd(), "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(walk.fd(), "e", Mode::RWXU).unwrap();
            walk.enter(b"d").unwrap();
        }
        rustix::fs::symlinkat("/etc", walk.fd(), "link").unwrap();
    }

    #[test]
    fn a_tree_deeper_than_files_may_be_open_is_removed_and_copied() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["from", "to"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        deep(&dir.path().join("from"));
        let open = |name: &str| super::super::open_root(&dir.path().join(name)).unwrap();
        super::super::copy_tree(&open("from"), &open("to")).unwrap();
        let mut walk = Descent::at(open("to"));
        for _ in 0..3_000 {
            walk.enter(b"d").unwrap();
        }
        assert_eq!(names(walk.fd()).unwrap(), [b"link"]);
        for name in ["from", "to", "absent"] {
            remove_all(&dir.path().join(name)).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, tree) = (dir.path().join("kept"), dir.path().join("tree"));
        std::fs::create_dir_all(tree.join("below")).unwrap();
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        symlink(&kept, tree.join("below/link")).unwrap();
        symlink(&kept, dir.path().join("link")).unwrap();
        remove_all(&tree).unwrap();
        remove_all(&dir.path().join("link")).unwrap();
        assert!(kept.join("file").exists() && !tree.exists());
    }

    #[test]
    fn a_directory_that_moves_ends_the_walk() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let mut walk = Descent::at(super::super::open_root(&dir.path().join("a")).unwrap());
        walk.enter(b"b").unwrap();
        std::fs::rename(dir.path().join("a/b"), dir.path().join("b")).unwrap();
        assert!(walk.leave().is_err());
    }
}
