//! Mount points that a runtime made in a container's own layer, where the image has none: nothing that the container changed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Stat, fstat, statat};

use super::descent::names;
use super::dirs::{open_dir, split};
use super::lower::{Found, LowerStack};
use super::xattr;
use crate::error::{Result, Step};

/// Of these paths (without a leading slash), those that `upper` has only to mount something there: empty, and the image has
/// nothing of that name. A directory in which nothing else changed is one of them.
pub(crate) fn mount_points(upper: &OwnedFd, lower: &LowerStack, candidates: &[&str]) -> Result<Vec<Vec<u8>>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    for path in candidates {
        let (parent, name) = split(path.as_bytes());
        let is_point = match directory(upper, parent)? {
            Some(parent) => is_empty(&parent, name).at(path)? && !lower.has(path.as_bytes())?,
            None => false,
        };
        if is_point {
            found.push(path.as_bytes().to_vec());
        }
    }
    let mut parents: Vec<&[u8]> =
        candidates.iter().map(|path| split(path.as_bytes()).0).filter(|it| !it.is_empty()).collect();
    parents.dedup();
    for path in parents {
        let Some(fd) = directory(upper, path)? else { continue };
        let inside = names(&fd)?;
        let only_points = inside.iter().all(|name| found.contains(&[path, b"/", name].concat()));
        let same = match lower.lookup(path)? {
            Found::Directory { stat, .. } => owner_and_mode(&stat) == owner_and_mode(&fstat(&fd)?),
            Found::Nothing => true,
            Found::Symlink(_) | Found::Other(_) => false,
        };
        // One that hides the image's is a change.
        if !inside.is_empty() && only_points && same && !xattr::is_opaque(&fd)? {
            found.push(path.to_vec());
        }
    }
    Ok(found)
}

fn owner_and_mode(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

/// A directory of the upper layer, by a path of one component or none.
fn directory(upper: &OwnedFd, path: &[u8]) -> Result<Option<OwnedFd>> {
    if path.is_empty() {
        return Ok(Some(upper.try_clone()?));
    }
    // Whatever else has that name is the container's.
    Ok(open_dir(upper, path).ok())
}

fn is_empty(parent: impl AsFd, name: &[u8]) -> Result<bool> {
    let stat = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => stat.st_size == 0,
        FileType::Directory => names(&open_dir(&parent, name)?)?.is_empty(),
        _ => false,
    })
}
