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

use rustix::fs::{Advice, fadvise};

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
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
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

    /// Appends whole records that hold `source` bytes of output.
    pub(crate) fn append(&mut self, records: &[u8], source: u64) {
        if records.is_empty() && self.lost == 0 {
            return;
        }
        if self.lost > 0 {
            let note = (self.note)(self.lost);
            if !self.write(&note) {
                self.lost += source;
                return;
            }
            self.lost = 0;
        }
        if !self.write(records) {
            self.lost += source;
        }
    }

    /// Writes records, each of them into a file that has room for it. `false` means that the disk takes no more.
    fn write(&mut self, mut records: &[u8]) -> bool {
        while !records.is_empty() {
            let (portion, rest) = records.split_at(self.portion(records));
            if portion.is_empty() {
                self.rotate();
                continue;
            }
            if self.file.write_all(portion).is_err() {
                // Half a record would spoil the next one. If this fails too, readers skip the broken line.
                let _: io::Result<()> = self.file.set_len(self.end);
                return false;
            }
            self.length += portion.len() as u64;
            self.end += portion.len() as u64;
            self.begin();
            records = rest;
        }
        true
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
        let end_of_line = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        match end_of_line(&records[..room]) {
            0 if self.length == 0 => records.iter().position(|&byte| byte == b'\n').map_or(records.len(), |at| at + 1),
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

    #[cfg(test)]
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

    #[test]
    fn no_record_is_cut_and_the_oldest_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, Some(Limits { size: 10, files: 3 }), note).unwrap();
        log.append(b"1111\n2222\n3333\n", 0);
        assert_eq!(names(dir.path()), ["log", "log.1"]);
        log.append(b"4444\n5555\nlonger than any file\n6\n", 0);
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
        log.append(b"1111\n2222\n", 0);
        assert_eq!(names(dir.path()), ["log"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "2222\n");
        let old = io::read_to_string(&mut reader).unwrap();
        assert_eq!(old, "1111\n", "who was at it reads on");
    }
}
