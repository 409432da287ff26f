//! A layer with nothing but mount points: what a runtime would otherwise make in the container's own layer, as if the container had
//! changed something.

use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Uid};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, fchmod, fchown, futimens, mkdirat, openat};

use super::dirs::{open_dir, split};
use super::lower::{Found, LowerStack};
use super::xattr;
use crate::error::{Result, Step};

/// Where something is to be mounted, by a path without a leading slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Directory(&'static str),
    File(&'static str),
}

impl Point {
    fn path(self) -> &'static str {
        match self {
            Self::Directory(path) | Self::File(path) => path,
        }
    }
}

/// Those that an image lacks. What has a link or a file in its way is a runtime's to resolve.
pub(crate) fn missing_points(lower: &LowerStack, points: &[Point]) -> Result<Vec<Point>> {
    let mut missing = Vec::new();
    for point in points {
        let (parent, _) = split(point.path().as_bytes());
        let in_the_way = !parent.is_empty() && matches!(lower.lookup(parent)?, Found::Symlink(_) | Found::Other(_));
        if !in_the_way && !lower.has(point.path().as_bytes())? {
            missing.push(*point);
        }
    }
    Ok(missing)
}

/// Makes them in an empty directory, in which the directories of the image are as the image has them.
pub(crate) fn make_points(lower: &LowerStack, root: &OwnedFd, points: &[Point]) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    let directory = |parent: &OwnedFd, name: &[u8]| -> Result<OwnedFd> {
        match mkdirat(parent, name, mode) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let made = open_dir(parent, name)?;
        fchmod(&made, mode)?; // whatever the umask
        Ok(made)
    };
    let mut parents: Vec<(&[u8], OwnedFd)> = Vec::new();
    for point in points {
        let (parent, name) = split(point.path().as_bytes());
        if !parent.is_empty() && !parents.iter().any(|(have, _)| *have == parent) {
            parents.push((parent, directory(root, parent).at(point.path())?));
        }
        let at = parents.iter().find(|(have, _)| *have == parent).map_or(root, |(_, fd)| fd);
        match point {
            Point::Directory(path) => drop(directory(at, name).at(path)?),
            Point::File(path) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = openat(at, name, flags, Mode::from_raw_mode(0o644)).at(path)?;
                fchmod(&made, Mode::from_raw_mode(0o644))?;
            }
        }
    }
    for (path, made) in parents {
        if let Found::Directory { stat, xattrs } = lower.lookup(path)? {
            fchown(&made, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
            fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            xattr::set_all(&made, &xattrs)?;
            let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
            futimens(&made, &Timestamps { last_access: mtime, last_modification: mtime })?;
        }
    }
    Ok(())
}
