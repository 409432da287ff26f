//! A log file that may be limited in size: when it is full it becomes `log.1`, the older ones move up, and the oldest
//! goes. Records are lines, and none is ever cut by the limit.
//!
//! A full disk costs records, never the container: what is lost is counted, and said as soon as something can be written
//! again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memchr::{memchr, memrchr};
use rustix::fs::{Advice, OFlags, fadvise};

use super::batch::Batch;

/// How much may be kept of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The most bytes in one file.
    pub(crate) size: u64,
    /// How many files there may be, the current one included.
    pub(crate) files: u32,
}

/// Makes a record that says how many bytes of output are lost.
pub(crate) type Note = fn(u64) -> Vec<u8>;

/// The writing end.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    limits: Option<Limits>,
    /// Bytes in the file up to the end of the last whole record.
    end: u64,
    /// How many of them count against the limit.
    length: u64,
    lost: u64,
    note: Note,
    /// Up to where the disk has been told to begin, if the file is synced in the end.
    begun: Option<u64>,
}

/// How much gathers before the disk begins: what is on its way already need not be waited for at the end.
const STRIDE: u64 = 8 << 20;

/// The name of a rotated file: the first is the youngest.
pub(crate) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe that somebody has put there would keep everybody waiting for a reader.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

/// How many bytes at the beginning are whole records.
fn whole(records: &[u8]) -> usize {
    memrchr(b'\n', records).map_or(0, |at| at + 1)
}

/// Writes as much as the disk takes, and says how much that is.
fn put(mut file: &File, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    written
}

impl LogFile {
    /// Opens the log at `path`, to be continued if it exists.
    pub(crate) fn open(path: &Path, limits: Option<Limits>, note: Note) -> io::Result<Self> {
        let file = open(path)?;
        let end = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, limits, end, length: end, lost: 0, note, begun: None })
    }

    /// Prepares for [`LogFile::sync`]: what has gathered goes to the disk while more is written.
    pub(crate) fn keep(&mut self) {
        self.begun = Some(self.end);
    }

    fn begin(&mut self) {
        if let Some(begun) = self.begun
            && let Some(length) = NonZeroU64::new(self.end - begun).filter(|length| length.get() >= STRIDE)
        {
            // Nobody needs it again soon, says this; what it does is to start writing.
            let _: rustix::io::Result<()> = fadvise(&self.file, begun, Some(length), Advice::DontNeed);
            self.begun = Some(self.end);
        }
    }

    /// How much is in the current file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends the records of `batch`, and empties it.
    pub(crate) fn append(&mut self, batch: &mut Batch) {
        if self.lost > 0 {
            let note = (self.note)(self.lost);
            if self.write(&note) == note.len() {
                self.lost = 0;
            }
        }
        // Nothing goes in before what is lost is told.
        let kept = if self.lost == 0 { self.write(batch.records()) } else { 0 };
        if kept < batch.records().len() {
            self.lost += batch.behind(kept);
        }
        batch.clear();
    }

    /// Writes records, each of them into a file that has room for it. Returns how many bytes of whole records the disk has
    /// taken.
    fn write(&mut self, records: &[u8]) -> usize {
        let mut kept = 0;
        while kept < records.len() {
            let rest = &records[kept..];
            let portion = &rest[..self.portion(rest)];
            if portion.is_empty() {
                self.rotate();
                continue;
            }
            let written = put(&self.file, portion);
            let whole = if written == portion.len() { written } else { whole(&portion[..written]) };
            self.length += whole as u64;
            self.end += whole as u64;
            kept += whole;
            if written < portion.len() {
                self.cut(written - whole);
                break;
            }
            self.begin();
        }
        kept
    }

    /// Takes back a piece of a record: it would spoil the next one. If this fails too, readers skip the broken line.
    fn cut(&self, piece: usize) {
        if piece > 0
            && let Ok(found) = self.file.metadata()
        {
            let _: io::Result<()> = self.file.set_len(found.len().saturating_sub(piece as u64));
        }
    }

    /// How much of `records` goes into the current file. A record that is larger than the limit has a file of its own.
    fn portion(&self, records: &[u8]) -> usize {
        let Some(limits) = self.limits else {
            return records.len();
        };
        let room = usize::try_from(limits.size.saturating_sub(self.length)).unwrap_or(usize::MAX);
        if records.len() <= room {
            return records.len();
        }
        match whole(&records[..room]) {
            0 if self.length == 0 => memchr(b'\n', records).map_or(records.len(), |at| at + 1),
            whole => whole,
        }
    }

    /// Begins a new file. If that cannot be done the old one goes on, over its limit: output is worth more.
    pub(crate) fn rotate(&mut self) {
        let oldest = self.limits.map_or(1, |limits| limits.files).saturating_sub(1);
        for number in (1..oldest).rev() {
            let _: io::Result<()> = fs::rename(rotated(&self.path, number), rotated(&self.path, number + 1));
        }
        // Readers that hold the old file open read it to its end, whatever its name is by then.
        let fresh = rotated(&self.path, 0);
        let _: io::Result<()> = fs::remove_file(&fresh);
        let replaced = open(&fresh).and_then(|file| {
            let moved = if oldest > 0 { fs::rename(&self.path, rotated(&self.path, 1)) } else { Ok(()) };
            // Whoever asked for a new file may have moved the old one away.
            moved.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
            fs::rename(&fresh, &self.path)?;
            Ok(file)
        });
        if let Ok(file) = replaced {
            self.file = file;
            self.end = 0;
            self.begun = self.begun.map(|_| 0);
        }
        // Also counted from here if the old file goes on: it is tried again after as much output.
        self.length = 0;
    }

    /// Has the disk keep what was written.
    pub(crate) fn sync(&self) {
        let _: io::Result<()> = self.file.sync_all();
    }

    #[cfg(test)]
    pub(super) fn redirect(&mut self, file: File) {
        self.file = file;
    }

    /// How many bytes of output are lost and not told yet.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn note(lost: u64) -> Vec<u8> {
        format!("lost {lost}\n").into_bytes()
    }

    fn append(log: &mut LogFile, records: &str) {
        let mut batch = Batch::default();
        for record in records.split_inclusive('\n') {
            batch.record(record.len(), |records| records.extend_from_slice(record.as_bytes()));
        }
        log.append(&mut batch);
    }

    #[test]
    fn no_record_is_cut_and_the_oldest_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, Some(Limits { size: 10, files: 3 }), note).unwrap();
        append(&mut log, "1111\n2222\n3333\n");
        assert_eq!(names(dir.path()), ["log", "log.1"]);
        append(&mut log, "4444\n5555\nlonger than any file\n6\n");
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(names(dir.path()), ["log", "log.1", "log.2"]);
        assert_eq!(text("log.2"), "5555\n");
        assert_eq!(text("log.1"), "longer than any file\n");
        assert_eq!(text("log"), "6\n");
    }

    #[test]
    fn a_single_file_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, Some(Limits { size: 5, files: 1 }), note).unwrap();
        let mut reader = File::open(&path).unwrap();
        append(&mut log, "1111\n2222\n");
        assert_eq!(names(dir.path()), ["log"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "2222\n");
        let old = io::read_to_string(&mut reader).unwrap();
        assert_eq!(old, "1111\n", "who was at it reads on");
    }
}
