//! Finds the directory that an entry goes into, making what is missing.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, readlinkat, statat};
use rustix::io::Errno;

use super::apply::Unpacker;
use super::dirs::{cached_prefix, open_dir, push};
use super::lower::{Found, is_whiteout};
use super::meta::Meta;
use crate::error::{Error, Result, Step};

/// Most symlinks in one path, as the kernel has it.
const LINKS_MAX: usize = 40;

/// What a component of a path turned out to be.
enum Component {
    Directory(OwnedFd),
    Symlink(Vec<u8>),
}

impl Unpacker<'_> {
    /// Opens the directory at `path` (cleaned), and says where it really is. Symlinks on the way are resolved as they
    /// would be with the layer's root as the root directory; `..` in them stops there. Directories that the archive has
    /// no entry for are made with `mtime`, or as the layers below have them.
    pub(super) fn directory(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<(Rc<OwnedFd>, Vec<u8>)> {
        if let Some(fd) = self.dirs.get(path) {
            return Ok((fd, path.to_vec()));
        }
        let known = cached_prefix(&self.dirs, path);
        let mut at = path[..known].to_vec();
        let mut fd = self.dirs.reopen(&at)?;
        let mut pending: Vec<Vec<u8>> = path[known..].split(|&b| b == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.truncate(at.iter().rposition(|&b| b == b'/').unwrap_or(0));
                    fd = self.dirs.reopen(&at)?;
                    continue;
                }
                _ => {}
            }
            let mut next = at.clone();
            push(&mut next, &name);
            if let Some(open) = self.dirs.get(&next) {
                (fd, at) = (open, next);
                continue;
            }
            match self.step(&fd, &name, &next, mtime).with(|| format!("parent {}", String::from_utf8_lossy(&next)))? {
                Component::Directory(open) => {
                    fd = self.dirs.insert(&next, open);
                    at = next;
                }
                Component::Symlink(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::malformed("too many symlinks in the path"));
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                        fd = self.dirs.reopen(&at)?;
                    }
                    pending.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
                }
            }
        }
        Ok((fd, at))
    }

    fn step(&mut self, dir: &OwnedFd, name: &[u8], at: &[u8], mtime: (i64, u32)) -> Result<Component> {
        match open_dir(dir, name) {
            Ok(fd) => return Ok(Component::Directory(fd)),
            Err(Errno::NOENT) => return self.imply(dir, name, at, mtime),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(e.into()),
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Ok(Component::Symlink(readlinkat(dir, name, Vec::new())?.into_bytes()));
        }
        if is_whiteout(&stat) {
            return self.plain(dir, name, at, mtime);
        }
        Err(Error::malformed("is not a directory"))
    }

    /// The archive has files in a directory that it has no entry for.
    fn imply(&mut self, dir: &OwnedFd, name: &[u8], at: &[u8], mtime: (i64, u32)) -> Result<Component> {
        if self.is_hidden(at) {
            return self.plain(dir, name, at, mtime);
        }
        self.done.self_contained = false;
        let Some(lower) = self.lower else {
            self.done.needs_lower = true;
            return self.plain(dir, name, at, mtime);
        };
        match lower.lookup(at)? {
            Found::Symlink(target) => Ok(Component::Symlink(target)),
            Found::Directory { stat, xattrs } => {
                let meta = Meta {
                    mode: stat.st_mode & 0o7777,
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                    mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
                    xattrs,
                };
                self.implied(dir, name, at, meta)
            }
            Found::Nothing | Found::Other(_) => self.plain(dir, name, at, mtime),
        }
    }

    fn plain(&mut self, dir: &OwnedFd, name: &[u8], at: &[u8], mtime: (i64, u32)) -> Result<Component> {
        self.implied(dir, name, at, Meta { mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() })
    }

    fn implied(&mut self, dir: &OwnedFd, name: &[u8], at: &[u8], meta: Meta) -> Result<Component> {
        self.make_directory(dir, name, at)?;
        self.metas.insert(at.to_vec(), meta);
        Ok(Component::Directory(open_dir(dir, name)?))
    }
}
