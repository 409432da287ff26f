//! A directory for what is under way, beside the file that it becomes. What a killed process left of one goes with the next.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Result, Step};
use crate::layer::remove_all;
use crate::layout::random_hex;

const PREFIX: &str = ".imgtool-";

/// The directory; it goes away with this value.
pub(crate) struct Scratch {
    path: PathBuf,
    /// Held as long as somebody works in it.
    _lock: File,
}

impl Scratch {
    pub(crate) fn beside(file: &Path) -> Result<Self> {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sweep(parent);
        loop {
            let path = parent.join(format!("{PREFIX}{}", random_hex(16)?));
            DirBuilder::new().mode(0o700).create(&path).with(|| format!("mkdir {}", path.display()))?;
            let lock = open(&path)?;
            // Without locks in the file system nobody takes it away either.
            let _ = lock.lock();
            // Somebody else's sweep may have come between.
            if lock.metadata()?.nlink() > 0 {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove_all(&self.path);
    }
}

fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty()).with(|| format!("open {}", path.display()))?.into())
}

/// Removes directories of ours that nobody holds any more. What cannot be removed stays.
fn sweep(parent: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(directory) = open(&entry.path()) else { continue };
        let is_ours = directory.metadata().is_ok_and(|meta| meta.uid() == own && meta.mode() & 0o777 == 0o700);
        if is_ours && !matches!(directory.try_lock(), Err(TryLockError::WouldBlock | TryLockError::Error(_))) {
            let _ = remove_all(&entry.path());
        }
    }
}
