//! The files that a COPY takes: listed once, summed for the cache key, and copied. What changes between the sum and the
//! copy is noticed, so that no layer is kept under a key that is not its own.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, readlinkat, statat};

use super::ignore::Ignore;
use super::root::{Match, PLAIN, open_in};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result, Step};
use crate::layer::{names, read_xattrs};

/// Most files that one instruction copies.
const FILES_MAX: usize = 4_000_000;

/// One file below a source.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Below the source; empty for itself.
    pub(crate) path: String,
    pub(crate) stat: Stat,
}

impl Entry {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Which files count.
#[derive(Default)]
pub(crate) struct Filter<'a> {
    /// By their place in the context.
    pub(crate) ignore: Option<&'a Ignore>,
    /// By their place below the source.
    pub(crate) exclude: Option<&'a Ignore>,
    /// By their place below the source: only these and what is in them (COPY --parents).
    pub(crate) include: Option<&'a super::glob::Glob>,
}

enum Counts {
    Yes,
    /// Not by itself; something below it may.
    Perhaps,
    No,
}

impl Filter<'_> {
    fn counts(&self, context: &str, path: &str, inside: bool) -> Counts {
        let mut perhaps = false;
        for (ignore, path) in [(self.ignore, context), (self.exclude, path)] {
            if let Some(ignore) = ignore
                && ignore.is_ignored(path)
            {
                if !ignore.may_hold(path) {
                    return Counts::No;
                }
                perhaps = true;
            }
        }
        let included = self.include.is_none_or(|glob| inside || glob.matches(path));
        if perhaps || !included { Counts::Perhaps } else { Counts::Yes }
    }
}

/// A source with its files.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) source: Match,
    pub(crate) entries: Vec<Entry>,
}

/// Lists what `source` has, directories before what is in them.
pub(crate) fn list(source: Match, filter: &Filter<'_>) -> Result<Tree> {
    let mut entries = Vec::new();
    if !source.is_directory() {
        let counts = matches!(filter.counts(&source.real, base(&source.path), false), Counts::Yes);
        if counts && filter.ignore.is_none_or(|ignore| !ignore.is_ignored(&source.path)) {
            entries.push(Entry { path: String::new(), stat: source.stat });
        }
        return Ok(Tree { source, entries });
    }
    let mut walk = Walk { source: &source, filter, entries: &mut entries, pending: Vec::new() };
    walk.pending.push(Entry { path: String::new(), stat: source.stat });
    let top = filter.include.is_none() && filter.ignore.is_none_or(|ignore| !ignore.is_ignored(&source.real));
    if top {
        walk.take();
    }
    walk.directory("", false)?;
    Ok(Tree { source, entries })
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn join(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") }
}

struct Walk<'a> {
    source: &'a Match,
    filter: &'a Filter<'a>,
    entries: &'a mut Vec<Entry>,
    /// Directories that count only if something in them does.
    pending: Vec<Entry>,
}

impl Walk<'_> {
    fn take(&mut self) {
        self.entries.append(&mut self.pending);
    }

    fn directory(&mut self, path: &str, inside: bool) -> Result<()> {
        let step = || format!("/{}", join(&self.source.real, path));
        let dir = open_in(&self.source.dir, path, OFlags::RDONLY | OFlags::DIRECTORY, PLAIN).with(step)?;
        let mut all = names(&dir).with(step)?;
        all.sort();
        for name in all {
            let Ok(name) = String::from_utf8(name) else {
                return Err(Error::malformed("a file name that is not UTF-8")).with(step);
            };
            let below = join(path, &name);
            let counts = self.filter.counts(&join(&self.source.real, &below), &below, inside);
            if matches!(counts, Counts::No) {
                continue;
            }
            let stat = statat(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)
                .with(|| format!("/{}", join(&self.source.real, &below)))?;
            let entry = Entry { path: below.clone(), stat };
            let is_directory = entry.kind() == FileType::Directory;
            let before = self.pending.len();
            match counts {
                Counts::Yes => {
                    self.take();
                    self.entries.push(entry);
                }
                _ if is_directory => self.pending.push(entry),
                _ => continue,
            }
            if self.entries.len() > FILES_MAX {
                return Err(Error::malformed(format!("more than {FILES_MAX} files")));
            }
            if is_directory {
                let inside = inside || self.filter.include.is_some_and(|glob| glob.matches(&below));
                self.directory(&below, inside)?;
                self.pending.truncate(before);
            }
        }
        Ok(())
    }
}

/// Opens directories of a tree by their paths, the last one once.
pub(crate) struct Parents<'a> {
    top: &'a OwnedFd,
    last: Option<(String, OwnedFd)>,
}

impl<'a> Parents<'a> {
    pub(crate) fn of(top: &'a OwnedFd) -> Self {
        Self { top, last: None }
    }

    /// The directory `path` below the top, reached through no link.
    pub(crate) fn get(&mut self, path: &str) -> Result<&OwnedFd> {
        if path.is_empty() {
            return Ok(self.top);
        }
        if self.last.as_ref().is_none_or(|(have, _)| have != path) {
            let fd = open_in(self.top, path, OFlags::RDONLY | OFlags::DIRECTORY, PLAIN).with(|| path.to_owned())?;
            self.last = Some((path.to_owned(), fd));
        }
        self.last.as_ref().map(|(_, fd)| fd).ok_or_else(|| Error::other("no directory"))
    }
}

/// Splits a path below a source into directory and name.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Tree {
    /// Where an entry is: its directory and its name there.
    pub(crate) fn place<'a>(
        &'a self,
        parents: &'a mut Parents<'_>,
        entry: &'a Entry,
    ) -> Result<(&'a OwnedFd, &'a [u8])> {
        if !self.source.is_directory() {
            return Ok((&self.source.dir, &self.source.name));
        }
        let (parent, name) = split(&entry.path);
        Ok((parents.get(parent)?, name.as_bytes()))
    }

    /// Opens a regular file of the tree, which must still be the one that was listed.
    pub(crate) fn open(&self, parents: &mut Parents<'_>, entry: &Entry) -> Result<File> {
        let (dir, name) = self.place(parents, entry)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        unchanged(&entry.stat, &fstat(&file)?)?;
        Ok(File::from(file))
    }

    /// What of the tree becomes part of a layer, as digests by path. Owners count where they are kept; times do not.
    pub(crate) fn sum(&self, owners: bool, sums: &mut Sums) -> Result<()> {
        let mut parents = Parents::of(&self.source.dir);
        let mut links: HashMap<(u64, u64), &str> = HashMap::new();
        for entry in &self.entries {
            let step = || format!("/{}", join(&self.source.real, &entry.path));
            let stat = &entry.stat;
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mode = if entry.kind() == FileType::Symlink { 0o120_777 } else { stat.st_mode };
            let ids = if owners { (stat.st_uid, stat.st_gid) } else { (0, 0) };
            hasher.update(format!("{mode:o} {} {}\0", ids.0, ids.1).as_bytes());
            match entry.kind() {
                FileType::RegularFile => {
                    if stat.st_nlink > 1
                        && let Some(first) = links.get(&(stat.st_dev, stat.st_ino))
                    {
                        hasher.update(format!("link {first}").as_bytes());
                    } else {
                        links.insert((stat.st_dev, stat.st_ino), &entry.path);
                        let mut file = self.open(&mut parents, entry).with(step)?;
                        attributes(&mut hasher, file.as_fd()).with(step)?;
                        content(&mut hasher, &mut file).with(step)?;
                    }
                }
                FileType::Symlink => {
                    let (dir, name) = self.place(&mut parents, entry)?;
                    hasher.update(readlinkat(dir, name, Vec::new()).with(step)?.as_bytes());
                }
                FileType::Directory => {
                    let dir = open_in(&self.source.dir, &entry.path, OFlags::RDONLY | OFlags::DIRECTORY, PLAIN);
                    attributes(&mut hasher, dir.with(step)?.as_fd()).with(step)?;
                }
                _ => hasher.update(format!("device {}", stat.st_rdev).as_bytes()),
            }
            sums.add(&self.source.path, &entry.path, &hasher.finish());
        }
        Ok(())
    }
}

/// A file that is written to while it is copied must not become a layer under the key of what it was.
pub(crate) fn unchanged(then: &Stat, now: &Stat) -> Result<()> {
    let key =
        |s: &Stat| (s.st_dev, s.st_ino, s.st_size, s.st_mode, s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec);
    if key(then) == key(now) {
        return Ok(());
    }
    Err(Error::other("was changed while it was copied: build again"))
}

fn attributes(hasher: &mut Hasher, fd: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    let mut all = read_xattrs(fd)?;
    all.sort();
    for (name, value) in all {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(&name);
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(&value);
    }
    hasher.update(b"\0");
    Ok(())
}

fn content(hasher: &mut Hasher, file: &mut File) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            len => hasher.update(&buffer[..len]),
        }
    }
}

/// Digests of files, and one of all of them.
pub(crate) struct Sums {
    /// By path, as far as they are kept to tell what changed.
    pub(crate) files: std::collections::BTreeMap<String, String>,
    all: Option<Hasher>,
}

impl Default for Sums {
    fn default() -> Self {
        Self { files: std::collections::BTreeMap::new(), all: Some(Hasher::new(Algorithm::Sha256)) }
    }
}

impl Sums {
    /// How many files are kept by name.
    const KEPT: usize = 1_000;

    pub(crate) fn add(&mut self, source: &str, path: &str, digest: &Digest) {
        if let Some(all) = &mut self.all {
            all.update(format!("{}:{path}\0{digest}\n", path.len()).as_bytes());
        }
        if self.files.len() < Self::KEPT {
            let name = if path.is_empty() { source.to_owned() } else { join(source, path) };
            self.files.insert(name, digest.short().to_owned());
        }
    }

    /// Marks where a source begins: its name matters where it becomes a file's name.
    pub(crate) fn begin(&mut self, name: &str) {
        if let Some(all) = &mut self.all {
            all.update(format!("source {}:{name}\n", name.len()).as_bytes());
        }
    }

    pub(crate) fn finish(&mut self) -> Digest {
        self.all.take().unwrap_or_else(|| Hasher::new(Algorithm::Sha256)).finish()
    }
}
