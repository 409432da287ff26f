//! Files that appear when they are complete. Until then they have no name, so that nothing is left of them whatever happens.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::layout::random_hex;

/// A file under way.
pub(crate) struct NewFile {
    file: File,
    target: PathBuf,
    /// Where it has a name that is not its own yet.
    aside: PathBuf,
    /// Its name meanwhile, on file systems that want one.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Begins a file that will replace whatever is at `target`.
    pub(crate) fn at(target: &Path) -> Result<Self> {
        if target.file_name().is_none() {
            return Err(Error::other("not a file name"));
        }
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::by_way_of(parent, target)
    }

    /// The same with a directory, of the same file system, for the names that it cannot do without meanwhile.
    pub(crate) fn by_way_of(aside: &Path, target: &Path) -> Result<Self> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let (aside, target) = (aside.to_owned(), target.to_owned());
        match openat(CWD, &aside, flags, Mode::from_raw_mode(0o644)) {
            // Where /proc does not show it, it cannot be given a name.
            Ok(file) if Path::new(&own_name(&file)).exists() => {
                return Ok(Self { file: file.into(), target, aside, temporary: None });
            }
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
        let temporary = hidden(&aside)?;
        let file = File::create_new(&temporary)?;
        Ok(Self { file, target, aside, temporary: Some(temporary) })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives it its name, with all that was written on the disk.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.file.sync_data()?;
        if self.temporary.is_none() {
            match self.link(&self.target) {
                // A name that is taken can be replaced only by another name.
                Err(Errno::EXIST) => {
                    let temporary = hidden(&self.aside)?;
                    self.link(&temporary)?;
                    self.temporary = Some(temporary);
                }
                linked => return Ok(linked?),
            }
        }
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.target)?;
            self.temporary = None;
        }
        Ok(())
    }

    fn link(&self, name: &Path) -> rustix::io::Result<()> {
        linkat(CWD, own_name(&self.file), CWD, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

fn own_name(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn hidden(aside: &Path) -> Result<PathBuf> {
    Ok(aside.join(format!(".imgtool-{}", random_hex(16)?)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_appears_when_it_is_complete_in_place_of_another_or_of_none() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        for content in ["one", "another"] {
            let mut new = NewFile::at(&target).unwrap();
            new.file().write_all(content.as_bytes()).unwrap();
            let before = fs::read_to_string(&target).unwrap_or_default();
            assert_ne!(before, content);
            new.finish().unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
        }
        drop(NewFile::at(&target).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the file");
        assert!(NewFile::at(Path::new("/")).is_err());
        assert!(NewFile::at(&dir.path().join("absent/file")).is_err());
    }
}
