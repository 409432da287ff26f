//! Files that appear when they are complete. Until then they have no name, so that nothing is left of them whatever happens.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, IsTerminal as _, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::layout::random_hex;

/// A file under way.
pub(crate) struct NewFile {
    file: File,
    /// Where it has a name that is not its own yet.
    aside: PathBuf,
    /// Its name meanwhile, on file systems that want one.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Begins a file for a name in the directory of `target`.
    pub(crate) fn beside(target: &Path) -> Result<Self> {
        if target.file_name().is_none() {
            return Err(Error::other("not a file name"));
        }
        Self::of(target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// Begins a file for a name anywhere in the file system of `aside`, a directory for names that it cannot do without meanwhile.
    pub(crate) fn of(aside: &Path) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let aside = aside.to_owned();
        match openat(CWD, &aside, flags, Mode::from_raw_mode(0o644)) {
            // Where /proc does not show it, it cannot be given a name.
            Ok(file) if Path::new(&own_name(&file)).exists() => {
                return Ok(Self { file: file.into(), aside, temporary: None });
            }
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
        let temporary = hidden(&aside)?;
        let file = File::create_new(&temporary)?;
        Ok(Self { file, aside, temporary: Some(temporary) })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives it its name in place of whatever has that, with all that was written on the disk.
    pub(crate) fn finish(self, target: &Path) -> Result<()> {
        self.file.sync_data()?;
        self.finish_unsynced(target).map(drop)
    }

    /// The same, and the content may come to the disk after the name: who calls this sees to that.
    pub(crate) fn finish_unsynced(mut self, target: &Path) -> Result<File> {
        let file = self.file.try_clone()?;
        if self.temporary.is_none() {
            match self.link(target) {
                // A name that is taken can be replaced only by another name.
                Err(Errno::EXIST) => {
                    let temporary = hidden(&self.aside)?;
                    self.link(&temporary)?;
                    self.temporary = Some(temporary);
                }
                linked => return Ok(linked.map(|()| file)?),
            }
        }
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, target)?;
            self.temporary = None;
        }
        Ok(file)
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

/// Writes where a user wants it: `-` is standard output, a device or a pipe is written to and not replaced, and all else is a file
/// that appears when it is complete. `instead` says what to do if standard output is a terminal.
pub(crate) fn write_to(dest: &Path, instead: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let buffered = |out: &mut dyn Write| -> Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, out);
        write(&mut out)?;
        Ok(out.flush()?)
    };
    if dest.as_os_str() == "-" {
        let stdout = std::io::stdout();
        if stdout.is_terminal() {
            return Err(Error::other(format!("standard output is a terminal: {instead}")));
        }
        return buffered(&mut stdout.lock());
    }
    let made = || -> Result<()> {
        if fs::metadata(dest).is_ok_and(|meta| !meta.is_file()) {
            return buffered(&mut OpenOptions::new().write(true).open(dest)?);
        }
        let mut new = NewFile::beside(dest)?;
        if let Some(there) = fs::symlink_metadata(dest).ok().filter(fs::Metadata::is_file) {
            // What others may not read does not become readable by being written anew; of somebody else's file only that
            // counts, who might have made it to write to ours.
            let own = there.uid() == rustix::process::geteuid().as_raw();
            let most = if own { 0o777 } else { new.file().metadata()?.permissions().mode() };
            let mode = there.permissions().mode() & most & 0o777;
            new.file().set_permissions(fs::Permissions::from_mode(mode))?;
        }
        buffered(new.file())?;
        new.finish(dest)
    };
    made().with(|| dest.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_complete_in_place_of_another_or_of_none() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        for content in ["one", "another"] {
            let mut new = NewFile::beside(&target).unwrap();
            new.file().write_all(content.as_bytes()).unwrap();
            let before = fs::read_to_string(&target).unwrap_or_default();
            assert_ne!(before, content);
            new.finish(&target).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
        }
        drop(NewFile::beside(&target).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the file");
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        write_to(&target, "", |out| Ok(out.write_all(b"secret")?)).unwrap();
        let mode = fs::metadata(&target).unwrap().permissions().mode() & 0o777;
        assert_eq!((fs::read_to_string(&target).unwrap().as_str(), mode), ("secret", 0o600));
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(&target, fs::Permissions::from_mode(0o666)).unwrap();
            std::os::unix::fs::chown(&target, Some(65534), None).unwrap();
            write_to(&target, "", |out| Ok(out.write_all(b"ours")?)).unwrap();
            let mode = fs::metadata(&target).unwrap().permissions().mode();
            assert_eq!(mode & 0o022, 0, "what another made for all to write to");
        } else {
            eprintln!("skipped: a file of somebody else's takes root to make");
        }
        assert!(NewFile::beside(Path::new("/")).is_err());
        assert!(NewFile::beside(&dir.path().join("absent/file")).is_err());
    }
}
