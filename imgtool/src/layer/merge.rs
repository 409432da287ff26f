//! Copies stacked layers into one plain directory, as overlayfs would show them, for where there is no overlayfs.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, Stat, linkat, mkdirat, statat, unlinkat};
use rustix::io::Errno;

use super::copy::{copy_directory, copy_file};
use super::descent::{Descent, names, remove_tree};
use super::dirs::{open_dir, push};
use super::lower::is_whiteout;
use super::xattr;
use crate::error::{Result, Step};

/// Copies `layers`, the lowest first, into the empty directory `to`.
pub(crate) fn merge(layers: &[OwnedFd], to: &OwnedFd) -> Result<()> {
    for layer in layers {
        Merge { root: to, links: HashMap::new() }.layer(layer, to)?;
    }
    Ok(())
}

struct Merge<'a> {
    root: &'a OwnedFd,
    /// Where the files of this layer that have several names were put first. The paths are of directories made here, which
    /// no link of the image can change.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Merge<'_> {
    fn layer(&mut self, layer: &OwnedFd, to: &OwnedFd) -> Result<()> {
        let (mut from, mut to) = (Descent::at(layer.try_clone()?), Descent::at(to.try_clone()?));
        let mut path: Vec<u8> = Vec::new();
        let mut levels = vec![self.files(from.fd(), to.fd(), &path)?];
        while let Some(directories) = levels.last_mut() {
            if let Some(name) = directories.pop() {
                let step = || String::from_utf8_lossy(&name).into_owned();
                enter(from.fd(), to.fd(), &name).with(step)?;
                from.enter(&name).with(step)?;
                to.enter(&name).with(step)?;
                push(&mut path, &name);
                levels.push(self.files(from.fd(), to.fd(), &path).with(step)?);
                continue;
            }
            levels.pop();
            copy_directory(from.fd(), to.fd())?;
            if !levels.is_empty() {
                from.leave()?;
                to.leave()?;
                path.truncate(path.iter().rposition(|&b| b == b'/').unwrap_or(0));
            }
        }
        Ok(())
    }

    /// All of a directory but the directories in it, whose names it gives.
    fn files(&mut self, from: &OwnedFd, to: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut directories = Vec::new();
        for name in names(from)? {
            let step = || String::from_utf8_lossy(&name).into_owned();
            let stat = statat(from, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).with(step)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(name);
                continue;
            }
            remove(to, &name).with(step)?;
            if !is_whiteout(&stat) {
                self.file(from, to, &name, &stat, path).with(step)?;
            }
        }
        Ok(directories)
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &[u8], stat: &Stat, path: &[u8]) -> Result<()> {
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                return Ok(linkat(self.root, first.as_slice(), to, name, AtFlags::empty())?);
            }
            let mut at = path.to_vec();
            push(&mut at, name);
            self.links.insert(key, at);
        }
        copy_file(from, name, to, name).map(drop)
    }
}

/// Makes sure that `name` in `to` is a directory, and an empty one where the layer hides what is below it.
fn enter(from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> Result<()> {
    let opaque = xattr::is_opaque(open_dir(from, name)?)?;
    match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if !opaque && FileType::from_raw_mode(stat.st_mode) == FileType::Directory => return Ok(()),
        Ok(_) => remove(to, name)?,
        Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(mkdirat(to, name, Mode::RWXU)?)
}

fn remove(to: &OwnedFd, name: &[u8]) -> Result<()> {
    match unlinkat(to, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => remove_tree(to, name),
        Err(e) => Err(e.into()),
    }
}
