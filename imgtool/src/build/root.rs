//! A directory that nothing leads out of: contexts, stages, images. Paths in it are resolved by the kernel with the
//! directory as their root (`openat2(2)` `RESOLVE_IN_ROOT`), and what was opened is what is used: a path that is resolved
//! twice may mean two things (CVE-2024-1753, CVE-2024-23651).

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2, statat};
use rustix::io::Errno;

use super::glob::{Dialect, Glob, is_pattern};
use super::ignore::clean;
use crate::error::{Error, Result, Step};
use crate::regular;

/// Most names that one source pattern may match.
const MATCHES_MAX: usize = 1_000_000;

/// An open directory as a root.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// What a source of COPY turned out to be.
#[derive(Debug)]
pub(crate) struct Match {
    /// The path as it was found: the pattern's, with its wildcards replaced.
    pub(crate) path: String,
    /// What it is, with links followed.
    pub(crate) stat: Stat,
    /// The directory that it is in; for a directory: itself.
    pub(crate) dir: OwnedFd,
    /// Its name there; empty for a directory.
    pub(crate) name: Vec<u8>,
    /// Where it really is, below the root.
    pub(crate) real: String,
}

impl Match {
    pub(crate) fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

impl Root {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty()).with(|| path.display().to_string())?;
        Ok(Self { fd })
    }

    pub(crate) fn of(fd: OwnedFd) -> Self {
        Self { fd }
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Opens what `path` means with this root, links followed.
    pub(crate) fn enter(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_in(&self.fd, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// Where an open file is, below the root. What was moved out meanwhile is an error.
    pub(crate) fn real(&self, fd: impl AsFd) -> Result<String> {
        let of = |fd: &dyn AsFd| -> Result<String> {
            let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
            let path = rustix::fs::readlink(link, Vec::new())?;
            path.into_string().map_err(|_| Error::malformed("a path that is not UTF-8"))
        };
        let (root, path) = (of(&self.fd)?, of(&fd)?);
        let root = root.trim_end_matches('/');
        match path.strip_prefix(root) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok(rest.trim_start_matches('/').to_owned()),
            _ => Err(Error::other("was moved while it was looked at")),
        }
    }

    /// Reads a small text file; `None` if there is none.
    pub(crate) fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let found = match self.enter(path, OFlags::PATH) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(e).with(|| path.to_owned()),
        };
        regular::read_found(&found, most).with(|| path.to_owned()).map(Some)
    }

    /// What a source path or pattern means, in order of their names. A path that does not exist is an error, a pattern that
    /// matches nothing is not.
    pub(crate) fn find(&self, source: &str) -> Result<Vec<Match>> {
        let source = clean(source);
        let mut found = Vec::new();
        if is_pattern(&source) {
            let mut paths = vec![String::new()];
            for part in source.split('/') {
                paths = self.expand(&paths, part)?;
            }
            for path in paths {
                match self.single(&path) {
                    Ok(one) => found.push(one),
                    // A link that leads nowhere is passed over, as a shell does.
                    Err(e) if e.kind() == crate::error::Kind::Missing => {}
                    Err(e) => return Err(e).with(|| format!("/{path}")),
                }
            }
        } else {
            found.push(self.single(&source).with(|| format!("/{source}"))?);
        }
        Ok(found)
    }

    /// The names below each of `paths` that one part of a pattern matches.
    fn expand(&self, paths: &[String], part: &str) -> Result<Vec<String>> {
        let glob = if is_pattern(part) { Some(Glob::new(part, Dialect::Path)?) } else { None };
        let mut all = Vec::new();
        for path in paths {
            let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            let Some(glob) = &glob else {
                all.push(below(part));
                continue;
            };
            let dir = match self.enter(path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(dir) => dir,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(e) => return Err(e).with(|| format!("/{path}")),
            };
            let names = crate::layer::names(&dir)?;
            let names = names.into_iter().filter_map(|name| String::from_utf8(name).ok());
            let mut names: Vec<String> = names.filter(|name| glob.matches(name)).collect();
            names.sort();
            all.extend(names.iter().map(|name| below(name)));
            if all.len() > MATCHES_MAX {
                return Err(Error::malformed(format!("matches more than {MATCHES_MAX} names")));
            }
        }
        Ok(all)
    }

    fn single(&self, path: &str) -> Result<Match> {
        let fd = self.enter(path, OFlags::PATH)?;
        let stat = fstat(&fd)?;
        let real = self.real(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = openat(&fd, ".", flags, Mode::empty())?;
            return Ok(Match { path: path.to_owned(), stat, dir, name: Vec::new(), real });
        }
        let (parent, name) = real.rsplit_once('/').unwrap_or(("", &real));
        let dir = open_in(&self.fd, parent, OFlags::RDONLY | OFlags::DIRECTORY, PLAIN)?;
        let now = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(Error::other("was replaced while it was looked at"));
        }
        let name = name.as_bytes().to_vec();
        Ok(Match { path: path.to_owned(), stat, dir, name, real })
    }

    /// Opens the directory at `path`, making what is missing; `made` gets each new directory and its path. Links on the way
    /// are followed with this root as theirs, and what a link names that leads nowhere is made.
    pub(crate) fn make(&self, path: &str, made: &mut dyn FnMut(&OwnedFd, &str) -> Result<()>) -> Result<OwnedFd> {
        let mut path = clean(path);
        // The kernel's own limit, for links that lead nowhere.
        for _ in 0..40 {
            match self.make_up_to_link(&path, made)? {
                Ok(fd) => return Ok(fd),
                Err(next) => path = next,
            }
        }
        Err(Error::other(format!("/{path}: too many links")))
    }

    /// Gives the directory, or the path that is meant where a link that leads nowhere was met.
    fn make_up_to_link(
        &self,
        path: &str,
        made: &mut dyn FnMut(&OwnedFd, &str) -> Result<()>,
    ) -> Result<std::result::Result<OwnedFd, String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let in_the_way = || Error::other("a file is in the way");
        match self.enter(path, flags) {
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) => return Err(in_the_way()).with(|| format!("/{path}")),
            result => return result.map(Ok).with(|| format!("/{path}")),
        }
        let mut at = self.enter("", flags)?;
        let mut prefix = String::new();
        let mut names = path.split('/');
        while let Some(name) = names.next() {
            let above = std::mem::take(&mut prefix);
            prefix = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
            let step = || format!("/{prefix}");
            at = match self.enter(&prefix, flags) {
                Err(Errno::NOENT) => match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {
                        let fd = open_in(&at, name, flags, PLAIN).with(step)?;
                        made(&fd, &prefix).with(step)?;
                        fd
                    }
                    Err(Errno::EXIST) => {
                        let target = rustix::fs::readlinkat(&at, name, Vec::new()).with(step)?;
                        let target = target.into_string().map_err(|_| Error::malformed("not UTF-8")).with(step)?;
                        let base = if target.starts_with('/') { String::new() } else { self.real(&at)? };
                        let rest: Vec<&str> = names.collect();
                        return Ok(Err(clean(&format!("{base}/{target}/{}", rest.join("/")))));
                    }
                    Err(e) => return Err(e).with(step),
                },
                Err(Errno::NOTDIR) => return Err(in_the_way()).with(step),
                result => result.with(step)?,
            };
        }
        Ok(Ok(at))
    }
}

/// Beneath the directory, and through no link at all.
pub(crate) const PLAIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Opens `path` in a directory by these rules.
pub(crate) fn open_in(dir: impl AsFd, path: &str, flags: OFlags, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    // EAGAIN: something was renamed while the kernel resolved "..".
    for _ in 0..64 {
        match openat2(&dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leads_out_of_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(inside.join("file"), "f").unwrap();
        symlink("../secret", inside.join("relative")).unwrap();
        symlink(dir.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("/file", inside.join("sub/good")).unwrap();
        symlink("/proc/self/cwd", inside.join("magic")).unwrap();
        let root = Root::open(&inside).unwrap();
        for bad in ["relative", "absolute", "../secret", "magic", "sub/../../secret"] {
            assert!(root.find(bad).is_err(), "{bad}");
        }
        let good = &root.find("sub/good").unwrap()[0];
        assert_eq!((good.real.as_str(), good.path.as_str()), ("file", "sub/good"));
        let all = root.find("*").unwrap();
        assert_eq!(all.iter().map(|m| m.path.as_str()).collect::<Vec<_>>(), ["file", "sub"]);
        assert!(root.find("nothing*").unwrap().is_empty());
        assert_eq!(root.find("/").unwrap()[0].real, "");
    }

    #[test]
    fn directories_are_made_beneath_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir(&inside).unwrap();
        symlink("../../../out", inside.join("up")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        let root = Root::open(&inside).unwrap();
        let mut made = Vec::new();
        root.make("a/b/../c", &mut |_, path| {
            made.push(path.to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(made, ["a", "a/c"]);
        root.make("up/x", &mut |_, _| Ok(())).unwrap();
        assert!(inside.join("out/x").is_dir() && !dir.path().join("out").exists());
        assert!(root.make("loop/x", &mut |_, _| Ok(())).is_err());
        std::fs::write(inside.join("file"), "").unwrap();
        assert!(root.make("file/x", &mut |_, _| Ok(())).unwrap_err().to_string().contains("in the way"));
    }
}
