//! The directories of a layer that is being unpacked, held open.
//!
//! Every path is walked from descriptor to descriptor, one component at a time and never through a symlink: symlinks in
//! the way are read and resolved here, beneath the layer's root. What was opened stays open for the entries that follow.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Error, Result};

/// How many directories stay open: three layers at a time and their files fit into the usual limit of 1024.
const OPEN_MAX: usize = 128;
/// Longest path that an entry may have (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// Open directories by their path below the root, without symlinks in it; the root is the empty path.
pub(super) struct Dirs {
    root: Rc<OwnedFd>,
    open: HashMap<Vec<u8>, Rc<OwnedFd>>,
}

impl Dirs {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root: Rc::new(root), open: HashMap::new() }
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<Rc<OwnedFd>> {
        if path.is_empty() { Some(Rc::clone(&self.root)) } else { self.open.get(path).cloned() }
    }

    pub(super) fn insert(&mut self, path: &[u8], fd: OwnedFd) -> Rc<OwnedFd> {
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        let fd = Rc::new(fd);
        self.open.insert(path.to_vec(), Rc::clone(&fd));
        fd
    }

    /// Lets go of a directory that is removed, and of what is below it.
    pub(super) fn forget(&mut self, path: &[u8]) {
        self.open.retain(|open, _| !is_at_or_below(open, path));
    }

    /// Opens a directory by a path that is known to have no symlinks.
    pub(super) fn reopen(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        let mut at = cached_prefix(self, path);
        let mut fd = self.get(&path[..at]).unwrap_or_else(|| Rc::clone(&self.root));
        while at < path.len() {
            let start = if at == 0 { 0 } else { at + 1 };
            let end = path[start..].iter().position(|&b| b == b'/').map_or(path.len(), |len| start + len);
            let next = open_dir(&fd, &path[start..end])?;
            fd = self.insert(&path[..end], next);
            at = end;
        }
        Ok(fd)
    }
}

/// Length of the longest prefix of `path`, ending at a component, that is open.
pub(super) fn cached_prefix(dirs: &Dirs, path: &[u8]) -> usize {
    let mut end = path.len();
    while end > 0 && !dirs.open.contains_key(&path[..end]) {
        end = path[..end].iter().rposition(|&b| b == b'/').unwrap_or(0);
    }
    end
}

pub(super) fn open_dir(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

pub(super) fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    path.strip_prefix(top).is_some_and(|rest| top.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
}

/// `path` and all directories above it, down to the root.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut next = Some(path);
    std::iter::from_fn(move || {
        let at = next?;
        next = (!at.is_empty()).then(|| split(at).0);
        Some(at)
    })
}

/// A path of an archive as a path below the root: no leading slash, no `.` and no `..`. A path that climbs above the
/// root is refused.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>> {
    if path.len() > PATH_MAX {
        return Err(Error::malformed(format!("path of {} bytes (at most {PATH_MAX})", path.len())));
    }
    if path.contains(&0) {
        return Err(Error::malformed("path with a NUL byte"));
    }
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for component in path.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if clean.is_empty() => {
                return Err(Error::malformed(format!("{}: leaves the layer's root", String::from_utf8_lossy(path))));
            }
            b".." => clean.truncate(clean.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            component => push(&mut clean, component),
        }
    }
    Ok(clean)
}

/// Appends a component to a path.
pub(super) fn push(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

/// A path's parent and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Opens the directory that a layer is unpacked into.
pub(crate) fn open_root(path: &std::path::Path) -> Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_or_refused() {
        let c = |p: &str| clean(p.as_bytes()).map(|v| String::from_utf8(v).unwrap());
        for (path, want) in [
            ("./", ""),
            ("/", ""),
            ("a", "a"),
            ("./a//b/", "a/b"),
            ("/etc/x", "etc/x"),
            ("a/../b", "b"),
            ("a/b/..", "a"),
        ] {
            assert_eq!(c(path).unwrap(), want, "{path}");
        }
        for bad in ["..", "../x", "a/../../x", "/..", "a\0b", &"x/".repeat(3000)] {
            assert!(c(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ancestors_end_at_the_root() {
        let all = |path: &[u8]| ancestors(path).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(all(b"a/bc/d"), [&b"a/bc/d"[..], b"a/bc", b"a", b""]);
        assert_eq!(all(b""), [b""]);
    }

    #[test]
    fn below_is_by_component() {
        assert!(is_at_or_below(b"a/b", b"a"));
        assert!(is_at_or_below(b"a", b"a"));
        assert!(is_at_or_below(b"a", b""));
        assert!(!is_at_or_below(b"ab", b"a"));
    }
}
