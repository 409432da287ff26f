//! What the upper directory of an overlay changes, as a list.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, statat};

use super::descent::{Descent, names};
use super::dirs::push;
use super::lower::{LowerStack, is_whiteout};
use crate::error::{Result, Step};

/// How a path differs from the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Changed,
    Deleted,
}

/// Lists the changes in `upper` above `lower`, by path; paths begin with a slash. `without` are paths (that do not) to leave out, with
/// nothing below that is not one of them.
pub(crate) fn changes(upper: &OwnedFd, lower: &LowerStack, without: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, Change)>> {
    let mut found = Vec::new();
    let mut walk = Descent::at(upper.try_clone()?);
    let mut path: Vec<u8> = Vec::new();
    let mut levels = vec![names(walk.fd())?];
    while let Some(pending) = levels.last_mut() {
        let Some(name) = pending.pop() else {
            levels.pop();
            if !levels.is_empty() {
                walk.leave()?;
                path.truncate(path.iter().rposition(|&b| b == b'/').unwrap_or(0));
            }
            continue;
        };
        let before = path.len();
        push(&mut path, &name);
        if without.contains(&path) {
            path.truncate(before);
            continue;
        }
        let step = || String::from_utf8_lossy(&path).into_owned();
        let stat = statat(walk.fd(), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).with(step)?;
        let change = match (is_whiteout(&stat), lower.has(&path).with(step)?) {
            (true, _) => Change::Deleted,
            (false, true) => Change::Changed,
            (false, false) => Change::Added,
        };
        found.push(([b"/", path.as_slice()].concat(), change));
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            walk.enter(&name).with(step)?;
            levels.push(names(walk.fd())?);
        } else {
            path.truncate(before);
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}
