//! Unpacks the entries of one layer into its own directory, in the form that overlayfs stacks.
//!
//! The layer is hostile. Nothing is reached by a path: every action is on a name in a directory that is held open, files
//! are only ever created new, and a directory's owner, mode, times and attributes are set when all entries are done (so
//! that a set-group-ID directory or a default ACL in the archive does not colour what is made after it).
//!
//! Whiteouts become overlayfs' own: `.wh.NAME` a character device 0, 0 and `.wh..wh..opq` an attribute of the directory.
//! Both speak of the layers below, never of this layer's own entries, in whatever order these come.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, fchmod, fchown, fstat, ftruncate, futimens, linkat,
    makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite, write};

use super::copy::copy_file;
use super::descent::remove_tree;
use super::dirs::{Dirs, ancestors, clean, open_dir, split};
use super::lower::{Found, LowerStack, is_whiteout};
use super::meta::Meta;
use super::tarball::{Entry, Kind, Tarball};
use super::terms::{Limits, Powers, Unpacked};
use super::xattr;
use crate::error::{Error, Result, Step};

const WHITEOUT: &[u8] = b".wh.";
/// Names of aufs' own, of which only the opaque marker means anything elsewhere.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The state of one unpacking.
pub(crate) struct Unpacker<'a> {
    pub(super) dirs: Dirs,
    powers: Powers,
    limits: Limits,
    pub(super) lower: Option<&'a LowerStack>,
    /// What new files belong to without a chown.
    owner: (u32, u32),
    pub(super) metas: BTreeMap<Vec<u8>, Meta>,
    opaque: BTreeSet<Vec<u8>>,
    pub(super) done: Unpacked,
}

impl<'a> Unpacker<'a> {
    /// Unpacks into the empty directory `root`. With `lower`, what the layer does not have itself is looked up there; an
    /// empty stack is right for the lowest layer.
    pub(crate) fn new(root: OwnedFd, powers: Powers, limits: Limits, lower: Option<&'a LowerStack>) -> Result<Self> {
        let stat = fstat(&root).at("unpack")?;
        Ok(Self {
            dirs: Dirs::new(root),
            powers,
            limits,
            lower,
            owner: (stat.st_uid, stat.st_gid),
            metas: BTreeMap::new(),
            opaque: BTreeSet::new(),
            done: Unpacked { self_contained: true, ..Unpacked::default() },
        })
    }

    /// Makes what `entry` describes; `tar` gives its data.
    pub(crate) fn entry<R: BufRead>(&mut self, entry: &Entry, tar: &mut Tarball<R>) -> Result<()> {
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        let (entries, bytes) = (self.limits.entries, self.limits.bytes);
        if self.done.entries > entries {
            return Err(Error::malformed(format!("more than {entries} entries")));
        }
        if self.done.bytes > bytes {
            return Err(Error::malformed(format!(
                "unpacks to more than {bytes} bytes (--max-layer-size raises the limit)"
            )));
        }
        self.make(entry, tar).with(|| String::from_utf8_lossy(&entry.path).into_owned())
    }

    fn make<R: BufRead>(&mut self, entry: &Entry, tar: &mut Tarball<R>) -> Result<()> {
        let path = clean(&entry.path)?;
        let mut meta = Meta::of(entry)?;
        if !self.powers.owners {
            (meta.uid, meta.gid) = self.owner;
        }
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(Error::malformed("the layer's root must be a directory"));
            }
            self.done.has_root = true;
            self.metas.insert(path, meta);
            return Ok(());
        }
        let (parent, name) = split(&path);
        if path.split(|&b| b == b'/').any(|component| component.starts_with(WHITEOUT_META)) && name != OPAQUE {
            return Ok(());
        }
        if parent.split(|&b| b == b'/').any(|component| component.starts_with(WHITEOUT)) {
            return Err(Error::malformed("a whiteout is not a directory"));
        }
        let (dir, mut at) = self.directory(parent, meta.mtime)?;
        if name == OPAQUE {
            return self.make_opaque(&dir, &at);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&dir, &at, hidden);
        }
        super::dirs::push(&mut at, name);
        match entry.kind {
            Kind::File => self.file(&dir, name, &at, entry, &meta, tar),
            Kind::Directory => {
                self.make_directory(&dir, name, &at)?;
                self.metas.insert(at, meta);
                Ok(())
            }
            Kind::Hardlink => self.hardlink(&dir, name, &at, &entry.link),
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.contains(&0) {
                    return Err(Error::malformed("symlink without a target"));
                }
                self.create(&dir, name, &at, || symlinkat(entry.link.as_slice(), &dir, name))?;
                self.finish_special(&dir, name, FileType::Symlink, &meta)
            }
            Kind::CharDevice => self.device(&dir, name, &at, FileType::CharacterDevice, entry, &meta),
            Kind::BlockDevice => self.device(&dir, name, &at, FileType::BlockDevice, entry, &meta),
            Kind::Fifo => self.device(&dir, name, &at, FileType::Fifo, entry, &meta),
        }
    }

    fn file<R: BufRead>(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        at: &[u8],
        entry: &Entry,
        meta: &Meta,
        tar: &mut Tarball<R>,
    ) -> Result<()> {
        // Never open what is there: it may have other names, which would change with it.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.create(dir, name, at, || openat(dir, name, flags, Mode::RUSR | Mode::WUSR))?;
        match &entry.sparse {
            None => loop {
                let mut chunk = tar.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                while !chunk.is_empty() {
                    let len = write(&fd, chunk).at("write")?;
                    chunk = &chunk[len..];
                }
            },
            Some(map) => {
                ftruncate(&fd, entry.size).at("truncate")?;
                write_sparse(&fd, map, tar)?;
            }
        }
        // Owner before mode and attributes: chown clears set-user-ID bits and file capabilities.
        if (meta.uid, meta.gid) != self.owner {
            fchown(&fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))).map_err(|e| meta.unowned(e))?;
        }
        fchmod(&fd, Mode::from_raw_mode(meta.mode)).at("chmod")?;
        xattr::set_all(&fd, &meta.xattrs)?;
        futimens(&fd, &meta.times()).at("set times")
    }

    fn device(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        at: &[u8],
        kind: FileType,
        entry: &Entry,
        meta: &Meta,
    ) -> Result<()> {
        let device = if kind == FileType::Fifo { 0 } else { makedev(entry.device.0, entry.device.1) };
        // What the kernel lets everybody make is a fifo and overlayfs' whiteout.
        if !self.powers.devices && device != 0 {
            self.done.devices_left_out += 1;
            return self.make_way_if_needed(dir, name, at);
        }
        self.create(dir, name, at, || mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device))?;
        self.finish_special(dir, name, kind, meta)
    }

    fn finish_special(&self, dir: &OwnedFd, name: &[u8], kind: FileType, meta: &Meta) -> Result<()> {
        if (meta.uid, meta.gid) != self.owner {
            let (uid, gid) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
            chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| meta.unowned(e))?;
        }
        if kind != FileType::Symlink {
            chmodat(dir, name, Mode::from_raw_mode(meta.mode), AtFlags::empty()).at("chmod")?;
        }
        xattr::set_all_at(dir, name, &meta.xattrs)?;
        utimensat(dir, name, &meta.times(), AtFlags::SYMLINK_NOFOLLOW).at("set times")
    }

    fn hardlink(&mut self, dir: &OwnedFd, name: &[u8], at: &[u8], target: &[u8]) -> Result<()> {
        let target = clean(target).at("hardlink to")?;
        let (target_parent, target_name) = split(&target);
        if target.is_empty() {
            return Err(Error::malformed("hardlink to the root directory"));
        }
        let (target_dir, mut target_at) = self.directory(target_parent, (0, 0)).at("hardlink's target")?;
        super::dirs::push(&mut target_at, target_name);
        if target_at == at {
            return Err(Error::malformed("hardlink to itself"));
        }
        match statat(&target_dir, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => {}
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(Error::malformed("hardlink to a directory"));
            }
            // Flags 0: a symlink is linked itself, never followed.
            Ok(_) => {
                return self.create(dir, name, at, || linkat(&target_dir, target_name, dir, name, AtFlags::empty()));
            }
            Err(Errno::NOENT) if !self.is_hidden(&target_at) => match self.lower {
                None => {
                    self.done.needs_lower = true;
                    return Ok(());
                }
                Some(lower) => {
                    self.done.self_contained = false;
                    if let Found::Other(from) = lower.lookup(&target_at)? {
                        self.make_way_if_needed(dir, name, at)?;
                        return copy_file(&from, target_name, dir, name).map(drop).at("copy from the layer below");
                    }
                }
            },
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e).at("hardlink's target"),
        }
        let target = String::from_utf8_lossy(&target).into_owned();
        Err(Error::malformed(format!("hardlink to {target}, which does not exist")))
    }

    fn whiteout(&mut self, dir: &OwnedFd, parent: &[u8], hidden: &[u8]) -> Result<()> {
        // ".wh..": "." or "..", or nothing at all would hide a directory that is not this entry's own.
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::malformed("a whiteout of nothing, . or .."));
        }
        match mknodat(dir, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {
                let stat = statat(dir, hidden, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let mut at = parent.to_vec();
                    super::dirs::push(&mut at, hidden);
                    let below = open_dir(dir, hidden)?;
                    return self.make_opaque(&below, &at);
                }
                Ok(()) // this layer's own file hides the one below
            }
            other => other.at("make whiteout"),
        }
    }

    pub(super) fn make_opaque(&mut self, dir: &OwnedFd, at: &[u8]) -> Result<()> {
        if at.is_empty() {
            self.done.opaque_root = true;
        }
        xattr::set_opaque(dir, self.powers.overlay)?;
        self.opaque.insert(at.to_vec());
        Ok(())
    }

    /// Whether this layer hides what the layers below have at `path`.
    pub(super) fn is_hidden(&self, path: &[u8]) -> bool {
        // By the path's few parents, not by the many opaque directories that a layer may have.
        !self.opaque.is_empty() && ancestors(path).any(|above| self.opaque.contains(above))
    }

    /// Makes a directory, or finds that it is there already: directories merge.
    pub(super) fn make_directory(&mut self, dir: &OwnedFd, name: &[u8], at: &[u8]) -> Result<()> {
        match mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Ok(());
                }
                self.make_way(dir, name, at)?;
                mkdirat(dir, name, Mode::RWXU).at("mkdir")?;
                if is_whiteout(&stat) {
                    // Removed below and made anew here: nothing of the old one shows.
                    let below = open_dir(dir, name)?;
                    self.make_opaque(&below, at)?;
                }
                Ok(())
            }
            Err(e) => Err(e).at("mkdir"),
        }
    }

    /// Creates by `make`; of two entries with one name the later one counts.
    fn create<T>(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        at: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.make_way(dir, name, at)?;
                make().at("create")
            }
            result => result.at("create"),
        }
    }

    fn make_way_if_needed(&mut self, dir: &OwnedFd, name: &[u8], at: &[u8]) -> Result<()> {
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => self.make_way(dir, name, at),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn make_way(&mut self, dir: &OwnedFd, name: &[u8], at: &[u8]) -> Result<()> {
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                self.dirs.forget(at);
                self.metas.remove(at);
                self.opaque.remove(at);
                // All that is below it stands between "at/" and "at0", the next character: no need to look at the rest.
                let (mut from, mut to) = (at.to_vec(), at.to_vec());
                from.push(b'/');
                to.push(b'/' + 1);
                let gone: Vec<Vec<u8>> =
                    self.metas.range(from.clone()..to.clone()).map(|(path, _)| path.clone()).collect();
                for path in gone {
                    self.metas.remove(&path);
                }
                let gone: Vec<Vec<u8>> = self.opaque.range(from..to).cloned().collect();
                for path in gone {
                    self.opaque.remove(&path);
                }
                remove_tree(dir, name).at("replace directory")
            }
            Err(e) => Err(e).at("replace"),
        }
    }

    /// Sets what was put off: the metadata of directories.
    pub(crate) fn finish(mut self) -> Result<Unpacked> {
        self.done.self_contained &= !self.done.needs_lower;
        if self.done.needs_lower && self.lower.is_none() {
            return Ok(self.done); // to be unpacked again, with the layers below
        }
        let metas = std::mem::take(&mut self.metas);
        if !metas.contains_key(b"".as_slice()) {
            fchmod(&*self.dirs.reopen(b"")?, Mode::from_raw_mode(0o755)).at("chmod of the root")?;
        }
        // Backwards: what is below a directory comes before it, and needs it open to be reached.
        for (path, meta) in metas.iter().rev() {
            let fd: Rc<OwnedFd> = self.dirs.reopen(path)?;
            meta.apply(&*fd, self.owner).with(|| String::from_utf8_lossy(path).into_owned())?;
        }
        Ok(self.done)
    }
}

fn write_sparse<R: BufRead>(fd: &OwnedFd, map: &[(u64, u64)], tar: &mut Tarball<R>) -> Result<()> {
    let mut pieces = map.iter().copied().filter(|&(_, len)| len > 0);
    let mut piece = (0, 0);
    loop {
        let mut chunk = tar.chunk()?;
        if chunk.is_empty() {
            return Ok(());
        }
        while !chunk.is_empty() {
            if piece.1 == 0 {
                piece = pieces.next().ok_or_else(|| Error::malformed("more data than the sparse map has"))?;
            }
            let len = chunk.len().min(usize::try_from(piece.1).unwrap_or(usize::MAX));
            let len = pwrite(fd, &chunk[..len], piece.0).at("write")?;
            piece = (piece.0 + len as u64, piece.1 - len as u64);
            chunk = &chunk[len..];
        }
    }
}
