//! Opening named pipes without ever waiting for the other side.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Context, Error, Result};

/// Opens the fifo at `path` for both directions, non-blocking.
///
/// Holding both ends means that this open needs no peer, that writes do not fail while no reader is there (a client may
/// go and another come), and that reads do not end when a writer leaves (only `CloseIO` ends a container's stdin).
pub(crate) fn open_both_ends(path: &Path) -> Result<OwnedFd> {
    open_fifo(path, OFlags::RDWR)
}

/// Opens the fifo at `path` for writing only. Fails if nobody holds it open for reading.
pub(crate) fn open_writer(path: &Path) -> Result<OwnedFd> {
    open_fifo(path, OFlags::WRONLY)
}

fn open_fifo(path: &Path, direction: OFlags) -> Result<OwnedFd> {
    let step = || format!("open the fifo {}", path.display());
    let fd = open(
        path,
        direction | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )
    .context(step)?;
    if is_fifo(&fd)? {
        Ok(fd)
    } else {
        Err(Error::invalid(format!(
            "open {}: it is not a fifo",
            path.display()
        )))
    }
}

/// Whether `fd` is a pipe or fifo.
pub(crate) fn is_fifo(fd: impl AsFd) -> Result<bool> {
    let found = fstat(&fd).context(|| "examine a descriptor")?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Fifo)
}

/// A pipe as (reader, writer).
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkfifoat;
    use rustix::io::{Errno, read, write};

    fn fifo() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        (dir, path)
    }

    #[test]
    fn no_peer_is_needed_and_none_is_missed() {
        let (_dir, path) = fifo();
        assert!(open_writer(&path).is_err(), "nobody reads yet");
        let both = open_both_ends(&path).unwrap();
        write(&both, b"kept").unwrap();
        let reader = open_fifo(&path, OFlags::RDONLY).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(read(&reader, &mut buffer).unwrap(), 4);
        assert_eq!(
            read(&reader, &mut buffer).unwrap_err(),
            Errno::AGAIN,
            "our own writing end keeps it open"
        );
        drop(both);
        assert_eq!(read(&reader, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        assert!(
            open_both_ends(&path)
                .unwrap_err()
                .text()
                .contains("not a fifo")
        );
        assert!(open_both_ends(&dir.path().join("absent")).is_err());
    }
}
