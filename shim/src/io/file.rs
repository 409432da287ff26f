//! Reading files that somebody else names: a fifo there must hold nobody up, and an endless device must fill no memory.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use crate::error::{Error, Result};

/// How such a file is opened.
pub(crate) const CAUTIOUS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// More than any honest configuration.
pub(crate) const MOST: u64 = 16 * 1024 * 1024;

/// Reads the file at `path`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    read_open(openat(CWD, path, CAUTIOUS, Mode::empty())?)
}

/// Reads a file that was opened [`CAUTIOUS`]ly.
pub(crate) fn read_open(file: OwnedFd) -> Result<Vec<u8>> {
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Error::invalid("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::from(file).take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(Error::invalid(format!("it has more than {MOST} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use rustix::fs::mkfifoat;

    #[test]
    fn only_files_of_sane_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name| dir.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        assert_eq!(read(&at("file")).unwrap(), b"text");
        assert_eq!(read(&at("absent")).unwrap_err().kind, Kind::NotFound);
        mkfifoat(CWD, at("fifo"), Mode::RWXU).unwrap();
        for path in [at("fifo"), dir.path().to_owned(), "/dev/zero".into()] {
            assert_eq!(read(&path).unwrap_err().text(), "it is not a file", "{}", path.display());
        }
        File::create(at("huge")).unwrap().set_len(MOST + 1).unwrap();
        assert!(read(&at("huge")).unwrap_err().text().contains("more than"));
    }
}
