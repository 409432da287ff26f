//! Removes what others may have written: trees of any depth, without a descriptor or a stack frame for each level.

use crate::error::{At, Result};
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
    path::Arg,
};
use std::ffi::{CStr, CString};

/// Removes `name` in `dir`, and if it is a directory all that it holds. Nothing outside of it is touched: links are
/// removed and not followed. What is deeper than one level is first moved up.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: impl Arg) -> Result<()> {
    let name = name.into_c_str()?;
    let name = &*name;
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        removed => return removed.at_with(|| format!("unlink {name:?}")),
    }
    let step = || format!("remove {name:?}");
    let top = open(dir, name).at_with(step)?;
    let mut moved = 0_u64;
    loop {
        let names = entries(&top).at_with(step)?;
        if names.is_empty() {
            return unlinkat(dir, name, AtFlags::REMOVEDIR).at_with(step);
        }
        for entry in names {
            match unlinkat(&top, &*entry, AtFlags::empty()) {
                Err(Errno::ISDIR) => empty(&top, &entry, &mut moved).at_with(step)?,
                removed => removed.at_with(step)?,
            }
        }
    }
}

/// Removes the directory `name` in `top`; the directories in it come to lie in `top`.
fn empty(top: &OwnedFd, name: &CStr, moved: &mut u64) -> rustix::io::Result<()> {
    match unlinkat(top, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        removed => return removed,
    }
    let dir = open(std::os::fd::AsFd::as_fd(top), name)?;
    for entry in entries(&dir)? {
        match unlinkat(&dir, &*entry, AtFlags::empty()) {
            Err(Errno::ISDIR) => move_up(&dir, &entry, top, moved)?,
            removed => removed?,
        }
    }
    unlinkat(top, name, AtFlags::REMOVEDIR)
}

fn move_up(dir: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        // The name may be taken, by what was there before.
        match renameat_with(dir, name, top, format!(".moved-{moved}"), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            renamed => return renamed,
        }
    }
}

fn open(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn entries(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let names = Dir::read_from(dir)?.map(|entry| entry.map(|it| it.file_name().to_owned()));
    let dots = |name: &CString| matches!(name.to_bytes(), b"." | b"..");
    names.filter(|name| !name.as_ref().is_ok_and(dots)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_deep_and_wide_goes_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "").unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::fs::create_dir(top.join(".moved-1")).unwrap();
        std::os::unix::fs::symlink(&kept, top.join("link")).unwrap();
        // Deeper than there may be open descriptors, or than a path may be long.
        let mut at = openat(rustix::fs::CWD, &top, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            for name in ["a", "b"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            rustix::fs::symlinkat(&kept, &at, "c").unwrap();
            at = openat(&at, "a", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let parent = openat(rustix::fs::CWD, dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        remove(parent.as_fd(), c"top").unwrap();
        assert!(!top.exists() && kept.join("file").exists());
        remove(parent.as_fd(), c"missing").unwrap();
    }
}
