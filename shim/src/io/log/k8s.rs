//! The log as Kubernetes' CRI has it, and Podman's k8s-file: `TIME STREAM F text` a line, `P` instead of `F` for a piece
//! whose line goes on in the next record of the same stream.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use memchr::memchr;

use super::batch::Batch;
use super::file::{Limits, LogFile};
use super::{MAX_LINE, Stream};
use crate::io::intake::SMALL;
use crate::io::time::Rfc3339;

/// The writer of such a log.
#[derive(Debug)]
pub(crate) struct K8sLog {
    file: LogFile,
    /// How many bytes may still be written in all, over all files.
    left: Option<u64>,
    /// Empty, kept for its memory.
    batch: Batch,
}

impl K8sLog {
    /// Opens the log at `path`, to be continued if it exists. After `total` bytes nothing more is written.
    pub(crate) fn open(path: &Path, limits: Option<Limits>, total: Option<u64>) -> io::Result<Self> {
        let file = LogFile::open(path, limits, note)?;
        let left = total.map(|total| total.saturating_sub(file.length()));
        Ok(Self { file, left, batch: Batch::default() })
    }

    /// Takes output of the container; it is in the file when this returns.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let head = head(stream);
        let mut rest = bytes;
        while !rest.is_empty() {
            let near = &rest[..rest.len().min(MAX_LINE)];
            let (line, whole) = match memchr(b'\n', near) {
                Some(newline) => (&rest[..=newline], true),
                None => (near, false),
            };
            rest = &rest[line.len()..];
            if let Some(left) = &mut self.left {
                if *left == 0 {
                    break;
                }
                *left = left.saturating_sub((head.len() + line.len() + 3) as u64);
            }
            self.batch.record(line.len(), |records| {
                records.extend_from_slice(head.as_bytes());
                records.extend_from_slice(if whole { b"F " } else { b"P " });
                records.extend_from_slice(line);
                if !whole {
                    records.push(b'\n');
                }
            });
            if self.batch.is_full() {
                self.file.append(&mut self.batch);
            }
        }
        self.file.append(&mut self.batch);
        if bytes.len() < SMALL {
            self.calm();
        }
    }

    /// Gives back the memory that a flood needed.
    pub(crate) fn calm(&mut self) {
        self.batch = Batch::default();
    }

    /// Says at last what could not be written. Returns how much is lost that it could not say.
    pub(crate) fn finish(&mut self) -> u64 {
        self.file.append(&mut self.batch);
        self.file.lost()
    }

    /// Begins a new file.
    pub(crate) fn reopen(&mut self) {
        self.file.rotate();
    }

    /// Prepares for [`K8sLog::sync`].
    pub(crate) fn keep(&mut self) {
        self.file.keep();
    }

    /// Has the disk keep what was written.
    pub(crate) fn sync(&self) {
        self.file.sync();
    }
}

/// What every record of a moment begins with. Readers want an offset; ours is always that of UTC.
fn head(stream: Stream) -> String {
    let time = Rfc3339(SystemTime::now()).to_string();
    format!("{}+00:00 {} ", time.trim_end_matches('Z'), stream.name())
}

fn note(lost: u64) -> Vec<u8> {
    let text =
        format!("{}F [log: {lost} bytes of output are lost: the log could not be written]\n", head(Stream::Stderr));
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = K8sLog::open(&path, None, None).unwrap();
        log.write(Stream::Stdout, b"one\n\ntw");
        log.write(Stream::Stderr, b"oops\n");
        log.write(Stream::Stdout, b"o\n");
        let text = std::fs::read_to_string(path).unwrap();
        let records: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
        let rest: Vec<_> = records.iter().map(|(_, rest)| *rest).collect();
        assert_eq!(rest, ["stdout F one", "stdout F ", "stdout P tw", "stderr F oops", "stdout F o"]);
        assert!(records[0].0.ends_with("+00:00") && records[0].0.len() == 35, "{}", records[0].0);
    }
}
