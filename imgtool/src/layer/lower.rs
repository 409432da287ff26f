//! Looks into the layers below, for a layer that does not stand alone: one that has files in a directory it does not
//! have itself, or a hardlink to a file of a lower layer.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Stat, readlinkat, statat};
use rustix::io::Errno;

use super::dirs::open_dir;
use super::xattr;
use crate::error::{Error, Result, Step};

/// The unpacked layers below, the topmost first.
#[derive(Default)]
pub(crate) struct LowerStack {
    layers: Vec<OwnedFd>,
}

/// What the layers below have at a path.
pub(super) enum Found {
    Nothing,
    Directory {
        stat: Stat,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    },
    Symlink(Vec<u8>),
    /// Any other file, by the directory that it is in.
    Other(OwnedFd),
}

/// What one layer says about a path.
enum Verdict {
    Found(Found),
    /// The layer hides whatever is below.
    Hidden,
    Silent,
}

impl LowerStack {
    /// `layers` are descriptors of the layers' roots, the topmost first; layers below one with an opaque root are left out
    /// by the caller.
    pub(crate) fn new(layers: Vec<OwnedFd>) -> Self {
        Self { layers }
    }

    /// Whether the layers have anything at a path that has no symlinks in its parents.
    pub(crate) fn has(&self, path: &[u8]) -> Result<bool> {
        Ok(!matches!(self.lookup(path)?, Found::Nothing))
    }

    /// Looks up a path that has no symlinks in its parents.
    pub(super) fn lookup(&self, path: &[u8]) -> Result<Found> {
        for layer in &self.layers {
            match look_in(layer, path).with(|| format!("look up {} in a lower layer", String::from_utf8_lossy(path)))? {
                Verdict::Found(found) => return Ok(found),
                Verdict::Hidden => break,
                Verdict::Silent => {}
            }
        }
        Ok(Found::Nothing)
    }
}

fn look_in(layer: &OwnedFd, path: &[u8]) -> Result<Verdict> {
    let mut at = layer.try_clone()?;
    let mut opaque = false;
    let mut components = path.split(|&b| b == b'/').peekable();
    while let Some(name) = components.next() {
        let stat = match statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                return Ok(if opaque { Verdict::Hidden } else { Verdict::Silent });
            }
            Err(e) => return Err(e.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if is_whiteout(&stat) {
            return Ok(Verdict::Hidden);
        }
        let last = components.peek().is_none();
        match kind {
            FileType::Directory => {
                let next = open_dir(&at, name)?;
                if last {
                    let xattrs = xattr::read_all(&next)?;
                    return Ok(Verdict::Found(Found::Directory { stat, xattrs }));
                }
                opaque |= xattr::is_opaque(&next)?;
                at = next;
            }
            // A file in the way hides the directories of that name below it.
            _ if !last => return Ok(Verdict::Hidden),
            FileType::Symlink => {
                return Ok(Verdict::Found(Found::Symlink(readlinkat(&at, name, Vec::new())?.into_bytes())));
            }
            _ => return Ok(Verdict::Found(Found::Other(at))),
        }
    }
    Err(Error::other("empty path"))
}

/// Whether this is how overlayfs writes "removed": a character device 0, 0.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
