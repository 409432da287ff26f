//! Owner, mode, times and attributes of what an entry makes.

use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, fchmod, fchown, futimens};
use rustix::io::Errno;

use super::tarball::Entry;
use super::xattr;
use crate::error::{Error, Result, Step};

/// Metadata of a directory, to be set at the end.
#[derive(Clone)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    pub(super) fn of(entry: &Entry) -> Result<Self> {
        Ok(Self {
            mode: entry.mode & 0o7777,
            uid: id("uid", entry.uid)?,
            gid: id("gid", entry.gid)?,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
        })
    }

    pub(super) fn times(&self) -> Timestamps {
        let mtime = Timespec { tv_sec: self.mtime.0, tv_nsec: self.mtime.1.into() };
        Timestamps { last_access: mtime, last_modification: mtime }
    }

    /// What a failed chown means.
    pub(super) fn unowned(&self, errno: Errno) -> Error {
        // Of an ID that the user namespace does not have.
        if errno == Errno::INVAL {
            let (uid, gid) = (self.uid, self.gid);
            return Error::other(format!(
                "belongs to {uid}:{gid}, which is not among the ids of this user namespace (see /etc/subuid and /etc/subgid)"
            ));
        }
        Error::from(errno).at("chown")
    }

    pub(super) fn apply(&self, dir: impl AsFd, owner: (u32, u32)) -> Result<()> {
        if (self.uid, self.gid) != owner {
            fchown(&dir, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid))).map_err(|e| self.unowned(e))?;
        }
        fchmod(&dir, Mode::from_raw_mode(self.mode)).at("chmod")?;
        xattr::set_all(&dir, &self.xattrs)?;
        futimens(&dir, &self.times()).at("set times")
    }
}

/// A user or group ID that the kernel takes. The greatest number means "leave it as it is" to chown: a file that asks for
/// it would stay root's.
fn id(what: &str, id: u64) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|&id| id != u32::MAX)
        .ok_or_else(|| Error::malformed(format!("{what} {id} is out of range")))
}
