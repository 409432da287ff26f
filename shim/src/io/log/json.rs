//! The container's log as Docker's json-file driver writes it: one JSON object a line,
//! `{"log":"text\n","stream":"stdout","time":"2026-02-03T04:05:06.000000007Z"}`.
//!
//! A line of the container becomes one record, its newline kept. A line longer than [`MAX_LINE`] becomes several
//! records, of which only the last has the newline. Bytes that are not UTF-8 become U+FFFD.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use memchr::memchr;
use serde::Deserialize;

use super::batch::Batch;
use super::file::{Limits, LogFile};
use super::{MAX_LINE, Stream};
use crate::io::intake::SMALL;
use crate::io::time::Rfc3339;

/// One record, as a reader sees it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Record {
    pub(crate) log: String,
    pub(crate) stream: Stream,
    #[serde(default)]
    pub(crate) time: String,
}

/// The writer of such a log.
#[derive(Debug)]
pub(crate) struct JsonLog {
    file: LogFile,
    partial: [Vec<u8>; 2],
    /// Empty, kept for its memory.
    batch: Batch,
}

impl JsonLog {
    /// Opens the log at `path`, to be continued if it exists.
    pub(crate) fn open(path: &Path, limits: Option<Limits>) -> io::Result<Self> {
        Ok(Self {
            file: LogFile::open(path, limits, note)?,
            partial: [Vec::new(), Vec::new()],
            batch: Batch::default(),
        })
    }

    /// Takes output of the container. Whole lines are in the file when this returns.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        let mut records = Records::new(stream, &mut self.batch);
        let partial = &mut self.partial[stream as usize];
        let source = bytes.len();
        while !bytes.is_empty() {
            let room = MAX_LINE - partial.len();
            let (piece, complete) = match memchr(b'\n', &bytes[..bytes.len().min(room)]) {
                Some(newline) => (newline + 1, true),
                None if bytes.len() >= room => (room, true),
                None => (bytes.len(), false),
            };
            let (piece, rest) = bytes.split_at(piece);
            bytes = rest;
            if !complete {
                partial.extend_from_slice(piece);
            } else if partial.is_empty() {
                let kept = records.record(piece);
                partial.extend_from_slice(&piece[kept..]);
            } else {
                partial.extend_from_slice(piece);
                let kept = records.record(partial);
                partial.drain(..kept);
            }
            if records.batch.is_full() {
                self.file.append(records.batch);
            }
        }
        if partial.is_empty() {
            // An idle container's log needs no memory.
            *partial = Vec::new();
        }
        self.file.append(&mut self.batch);
        if source < SMALL {
            self.calm();
        }
    }

    /// Gives back the memory that a flood needed.
    pub(crate) fn calm(&mut self) {
        self.batch = Batch::default();
    }

    /// Writes out unfinished lines at the end of the container. Returns how much is lost that it could not say.
    pub(crate) fn finish(&mut self) -> u64 {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                Records::new(stream, &mut self.batch).whole(&rest);
            }
        }
        self.file.append(&mut self.batch);
        self.calm();
        self.file.lost()
    }
}

/// A record that says what is lost.
fn note(lost: u64) -> Vec<u8> {
    let mut batch = Batch::default();
    let text = format!("[log: {lost} bytes of output are lost: the log could not be written]\n");
    Records::new(Stream::Stderr, &mut batch).whole(text.as_bytes());
    batch.records().to_vec()
}

/// Output of one moment on its way into a batch.
struct Records<'a> {
    stream: Stream,
    time: String,
    batch: &'a mut Batch,
}

impl<'a> Records<'a> {
    fn new(stream: Stream, batch: &'a mut Batch) -> Self {
        Self { stream, time: String::new(), batch }
    }

    /// Adds a record of `piece` and returns how much of it went in: a character that is cut at the end stays out.
    fn record(&mut self, piece: &[u8]) -> usize {
        let length = piece.len() - unfinished(piece);
        self.whole(&piece[..length]);
        length
    }

    fn whole(&mut self, piece: &[u8]) {
        if self.time.is_empty() {
            self.time = Rfc3339(SystemTime::now()).to_string();
        }
        self.batch.record(piece.len(), |records| {
            records.extend_from_slice(b"{\"log\":\"");
            escape(piece, records);
            records.extend_from_slice(b"\",\"stream\":\"");
            records.extend_from_slice(self.stream.name().as_bytes());
            records.extend_from_slice(b"\",\"time\":\"");
            records.extend_from_slice(self.time.as_bytes());
            records.extend_from_slice(b"\"}\n");
        });
    }
}

/// How many bytes at the end begin a character that is not finished.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    for (back, &byte) in tail.iter().rev().enumerate() {
        let needed = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        let present = back + 1;
        // A piece that is nothing but the start of a character must go in, or nothing ever would.
        return if present < needed && present < bytes.len() { present } else { 0 };
    }
    0
}

/// Writes `bytes` as the inside of a JSON string.
fn escape(mut bytes: &[u8], out: &mut Vec<u8>) {
    loop {
        let (clean, rest) = bytes.split_at(plain(bytes));
        out.extend_from_slice(clean);
        bytes = match rest {
            [] => return,
            [byte @ 0..=0x7f, rest @ ..] => {
                escape_ascii(*byte, out);
                rest
            }
            _ => {
                let (foreign, rest) = rest.split_at(rest.iter().take_while(|byte| !byte.is_ascii()).count());
                for chunk in foreign.utf8_chunks() {
                    out.extend_from_slice(chunk.valid().as_bytes());
                    if !chunk.invalid().is_empty() {
                        out.extend_from_slice("\u{fffd}".as_bytes());
                    }
                }
                rest
            }
        }
    }
}

fn escape_ascii(byte: u8, out: &mut Vec<u8>) {
    let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]),
    }
}

/// How many bytes at the beginning stand for themselves in a JSON string and are ASCII. Eight are looked at together:
/// this is where a flood's time goes.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    // A byte that is zero borrows from its neighbours above only after its own top bit has been set.
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let special = has_zero(word ^ (ONES * u64::from(b'"'))) | has_zero(word ^ (ONES * u64::from(b'\\')));
        // 0x7f and above, without carrying into the next byte.
        let high = word | (word & !TOPS).wrapping_add(ONES);
        // The lowest mark is exact; those above it may be borrowed.
        let marks = (control | special | high) & TOPS;
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_plain = |byte: &&u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    at + bytes[at..].iter().take_while(is_plain).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `pieces` and reads the log back.
    fn written(pieces: &[(Stream, &[u8])]) -> Vec<Record> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = JsonLog::open(&path, None).unwrap();
        for (stream, bytes) in pieces {
            log.write(*stream, bytes);
        }
        log.finish();
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn texts(records: &[Record]) -> Vec<&str> {
        records.iter().map(|record| record.log.as_str()).collect()
    }

    #[test]
    fn a_line_is_a_record_however_it_arrives() {
        use Stream::{Stderr, Stdout};
        let records = written(&[(Stdout, b"on"), (Stderr, b"err\n"), (Stdout, b"e\ntwo\n\nth"), (Stdout, b"ree")]);
        assert_eq!(texts(&records), ["err\n", "one\n", "two\n", "\n", "three"]);
        assert_eq!(records[0].stream, Stderr);
        assert!(crate::io::time::parse(&records[0].time).is_some());
    }

    #[test]
    fn every_byte_survives_as_json() {
        let all: Vec<u8> = (0..=0x7f).filter(|&byte| byte != b'\n').collect();
        let records = written(&[(Stream::Stdout, &all), (Stream::Stdout, "ä€😀\n".as_bytes())]);
        let expected = format!("{}ä€😀\n", String::from_utf8(all).unwrap());
        assert_eq!(texts(&records), [expected]);
        assert_eq!(texts(&written(&[(Stream::Stdout, b"a\xff\xfeb\n")])), ["a\u{fffd}\u{fffd}b\n"]);
    }

    #[test]
    fn bytes_that_need_care_are_found_wherever_they_are() {
        for special in 0..=u8::MAX {
            let is_plain = matches!(special, 0x20..=0x7e) && !matches!(special, b'"' | b'\\');
            for at in 0..24 {
                let mut bytes = *b"abcdefgh ~}|{ !#[]^`yz@A";
                bytes[at] = special;
                assert_eq!(plain(&bytes), if is_plain { bytes.len() } else { at }, "{special:#x} at {at}");
            }
        }
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        // The cut would fall into the middle of each character.
        let line = format!("x{}\n", "€".repeat(MAX_LINE));
        for size in [1, 7, 4096, line.len()] {
            let pieces: Vec<_> = line.as_bytes().chunks(size).map(|piece| (Stream::Stdout, piece)).collect();
            let records = written(&pieces);
            assert!(records.iter().all(|record| record.log.len() <= MAX_LINE && !record.log.contains('\u{fffd}')));
            assert_eq!(texts(&records).concat(), line, "in pieces of {size}");
            assert!(records.len() <= 5);
        }
    }

    #[test]
    fn endless_garbage_passes_through() {
        let garbage = vec![0xe2_u8; 3 * MAX_LINE];
        let records = written(&[(Stream::Stdout, &garbage)]);
        assert_eq!(texts(&records).concat().chars().count(), garbage.len());
    }

    #[test]
    fn a_log_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for line in [b"1\n", b"2\n"] {
            JsonLog::open(&path, None).unwrap().write(Stream::Stdout, line);
        }
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_full_disk_is_survived_and_said() {
        // /dev/full takes nothing.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = JsonLog::open(&path, None).unwrap();
        let full = std::fs::OpenOptions::new().append(true).open("/dev/full").unwrap();
        log.file.redirect(full);
        log.write(Stream::Stdout, b"lost\n");
        assert_eq!(log.file.lost(), 5);
        log.file.redirect(std::fs::OpenOptions::new().append(true).open(&path).unwrap());
        log.write(Stream::Stdout, b"kept\n");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.lines().next().unwrap().contains("5 bytes of output are lost"));
        assert!(text.lines().nth(1).unwrap().contains("kept"));
        assert_eq!(log.file.lost(), 0);
    }
}
