//! Files that somebody else may have put where we look: opened only if they are files. A pipe would keep us waiting for ever, and
//! opening a device is enough to set some of them going.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use crate::error::{Error, Result};

/// Opens a file to read it; a link to one will do.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    reopened(&openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// The same of `name` in a directory, and no link.
pub(crate) fn open_at(dir: impl AsFd, name: &[u8]) -> io::Result<File> {
    reopened(&openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens what was found, if it is a file, to read it.
pub(crate) fn reopened(found: &OwnedFd) -> io::Result<File> {
    if FileType::from_raw_mode(fstat(found)?.st_mode) != FileType::RegularFile {
        return Err(Error::malformed("not a regular file").into());
    }
    // What was looked at is what is opened, whatever has its name now.
    let own = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(openat(CWD, own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Reads a file of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_up_to(&open(path)?, most)
}

/// The same of what was found.
pub(crate) fn read_found(found: &OwnedFd, most: u64) -> Result<Vec<u8>> {
    read_up_to(&reopened(found)?, most)
}

/// The same of an open file.
pub(crate) fn read_up_to(file: &File, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::malformed(format!("larger than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
        rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read(&at("link"), 5).unwrap(), b"12345");
        assert!(read(&at("file"), 4).unwrap_err().to_string().contains("larger than 4"));
        for other in ["zero", "pipe", "."] {
            assert!(read(&at(other), 5).unwrap_err().to_string().contains("not a regular file"), "{other}");
        }
        let dir = File::open(dir.path()).unwrap();
        open_at(&dir, b"file").unwrap();
        assert!(open_at(&dir, b"link").is_err());
        assert_eq!(read(&at("absent"), 5).unwrap_err().kind(), crate::error::Kind::Missing);
    }
}
