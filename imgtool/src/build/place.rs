//! Copies listed files into a root file system. Everything is made anew beneath an open directory; what is in the way of a
//! file is removed, and no link is written through.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, fstat,
    futimens, linkat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::chmod::Chmod;
use super::files::{Entry, Parents, Tree, split, unchanged};
use super::root::Root;
use crate::error::{Error, Result, Step};
use crate::layer::copy_xattrs;

/// How copies look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// `--chown`, in numbers. Without it files of the context are root's and others keep their owners.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) keep_owners: bool,
    pub(crate) chmod: Option<Chmod>,
    /// Seconds; of directories that are made on the way. `None`: now.
    pub(crate) made_at: Option<i64>,
}

impl Look {
    fn ids(&self, stat: &Stat) -> (u32, u32) {
        self.owner.unwrap_or(if self.keep_owners { (stat.st_uid, stat.st_gid) } else { (0, 0) })
    }

    fn mode(&self, stat: &Stat) -> u32 {
        self.chmod.as_ref().map_or(stat.st_mode & 0o7777, |chmod| chmod.apply(stat.st_mode))
    }

    /// Makes a directory that had to be made on the way look as it should.
    pub(crate) fn dress_parent(&self, dir: &OwnedFd) -> Result<()> {
        if let Some((uid, gid)) = self.owner {
            fchown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        fchmod(dir, Mode::from_raw_mode(0o755))?;
        if let Some(seconds) = self.made_at {
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            futimens(dir, &Timestamps { last_access: time, last_modification: time })?;
        }
        Ok(())
    }
}

/// Where copies go.
pub(crate) struct Placer<'a> {
    pub(crate) root: &'a Root,
    pub(crate) look: &'a Look,
}

impl Placer<'_> {
    /// Opens the directory `path` of the target, making what is missing.
    pub(crate) fn directory(&self, path: &str) -> Result<OwnedFd> {
        self.root.make(path, &mut |dir, _| self.look.dress_parent(dir))
    }

    /// Copies a file or what else is no directory, to `name` in `dir`.
    pub(crate) fn file(&self, tree: &Tree, dir: &OwnedFd, name: &str) -> Result<()> {
        let Some(entry) = tree.entries.first() else { return Ok(()) };
        let mut parents = Parents::of(&tree.source.dir);
        self.one(tree, &mut parents, entry, dir, name.as_bytes())
    }

    /// Copies what is in a directory (and what it looks like, if `made` says that it was made for it) into `dir`.
    pub(crate) fn contents(&self, tree: &Tree, dir: &OwnedFd, made: bool) -> Result<()> {
        let mut from = Parents::of(&tree.source.dir);
        let mut to = Parents::of(dir);
        let mut links: HashMap<(u64, u64), &str> = HashMap::new();
        let mut directories: Vec<&Entry> = Vec::new();
        for entry in &tree.entries {
            let step = || format!("/{}", entry.path);
            if entry.path.is_empty() {
                if made {
                    directories.push(entry);
                }
                continue;
            }
            let (parent, name) = split(&entry.path);
            if entry.kind() == FileType::Directory {
                make_directory(to.get(parent).with(step)?, name).with(step)?;
                directories.push(entry);
                continue;
            }
            if entry.stat.st_nlink > 1 {
                if let Some(first) = links.get(&(entry.stat.st_dev, entry.stat.st_ino)) {
                    let target = to.get(parent).with(step)?;
                    remove(target, name.as_bytes()).with(step)?;
                    linkat(dir, *first, target, name, AtFlags::empty()).with(step)?;
                    continue;
                }
                links.insert((entry.stat.st_dev, entry.stat.st_ino), &entry.path);
            }
            self.one(tree, &mut from, entry, to.get(parent).with(step)?, name.as_bytes()).with(step)?;
        }
        // The innermost first: what is made in a directory changes its time.
        for entry in directories.iter().rev() {
            let step = || format!("/{}", entry.path);
            let target = to.get(&entry.path).with(step)?;
            let source = from.get(&entry.path).with(step)?;
            copy_xattrs(source, target).with(step)?;
            let (uid, gid) = self.look.ids(&entry.stat);
            fchown(target, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).with(step)?;
            fchmod(target, Mode::from_raw_mode(self.look.mode(&entry.stat))).with(step)?;
            futimens(target, &times(&entry.stat)).with(step)?;
        }
        Ok(())
    }

    fn one(&self, tree: &Tree, parents: &mut Parents<'_>, entry: &Entry, to: &OwnedFd, name: &[u8]) -> Result<()> {
        // Nothing but a name in this directory, whoever thought of it.
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(Error::malformed(format!("{:?} is no name of a file", String::from_utf8_lossy(name))));
        }
        remove(to, name)?;
        let stat = &entry.stat;
        let (uid, gid) = self.look.ids(stat);
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match entry.kind() {
            FileType::RegularFile => {
                let mut source = tree.open(parents, entry)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut target = std::fs::File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
                std::io::copy(&mut source, &mut target)?;
                unchanged(stat, &fstat(&source)?)?;
                // Owner before mode and attributes: chown clears set-user-ID bits and file capabilities.
                fchown(&target, uid, gid)?;
                fchmod(&target, Mode::from_raw_mode(self.look.mode(stat)))?;
                let (source, target) = (OwnedFd::from(source), OwnedFd::from(target));
                copy_xattrs(&source, &target)?;
                return Ok(futimens(target.as_fd(), &times(stat))?);
            }
            FileType::Symlink => {
                let (dir, from) = tree.place(parents, entry)?;
                symlinkat(readlinkat(dir, from, Vec::new())?, to, name)?;
            }
            FileType::Socket => return Ok(()), // means nothing without who listens
            FileType::Directory => return Err(Error::other("is a directory now")),
            kind => {
                mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
                chmodat(to, name, Mode::from_raw_mode(self.look.mode(stat)), AtFlags::empty())?;
            }
        }
        chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn times(stat: &Stat) -> Timestamps {
    let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Makes a directory, or finds that it is there; anything else there is in the way.
fn make_directory(parent: &OwnedFd, name: &str) -> Result<()> {
    match mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => {
            let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Ok(());
            }
            Err(Error::other("a directory cannot be copied over a file or a link"))
        }
        result => Ok(result?),
    }
}

/// Makes way for a file; a directory is not removed for one.
fn remove(dir: &OwnedFd, name: &[u8]) -> Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(Error::other("a file cannot be copied over a directory")),
        Err(e) => Err(e.into()),
    }
}
