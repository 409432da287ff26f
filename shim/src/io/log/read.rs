//! Reading a log back, in either form and across rotated files, while its writer goes on.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Stream;
use super::file::rotated;
use super::json;
use crate::error::{Context, Error, Result};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// No honest record is longer: 16 KiB of text, every byte of it escaped.
const MAX_RECORD: usize = 256 * 1024;

/// The form of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    K8s,
}

/// One record: a line, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stream: Stream,
    /// RFC 3339.
    pub(crate) time: String,
    /// With its newline, if the line ends here.
    pub(crate) text: Vec<u8>,
}

/// A place in a log.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    form: Form,
    file: File,
    pending: Vec<u8>,
}

impl Reader {
    /// At the beginning of what is left of the log.
    pub(crate) fn open(path: &Path, form: Form) -> Result<Self> {
        let oldest = names(path).into_iter().find_map(|name| File::open(name).ok());
        let file = oldest.map_or_else(|| File::open(path), Ok).context(|| format!("open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), form, file, pending: Vec::new() })
    }

    /// Gives all records that have been written to `take`, until it says `false`.
    pub(crate) fn each(&mut self, mut take: impl FnMut(Entry) -> io::Result<bool>) -> Result<bool> {
        loop {
            // Looked for before the rest is read: what follows is followed only when nothing is left behind.
            let next = self.successor();
            if !self.drain(&mut take)? {
                return Ok(false);
            }
            match next {
                Some(next) => self.file = next,
                None => return Ok(true),
            }
        }
    }

    /// The file that follows ours, if ours has been rotated away.
    fn successor(&self) -> Option<File> {
        let ours = identity(&self.file.metadata().ok()?);
        let names = names(&self.path);
        let place = names.iter().position(|name| fs::metadata(name).is_ok_and(|found| identity(&found) == ours));
        // One that is gone altogether is followed by the oldest that is left.
        let next = place.map_or(0, |place| place + 1);
        File::open(names.get(next)?).ok()
    }

    fn drain(&mut self, take: &mut impl FnMut(Entry) -> io::Result<bool>) -> Result<bool> {
        let mut buffer = vec![0_u8; CHUNK];
        loop {
            let count = self.file.read(&mut buffer).context(|| "read the log")?;
            if count == 0 {
                return Ok(true);
            }
            self.pending.extend_from_slice(&buffer[..count]);
            let mut done = 0;
            while let Some(length) = self.pending[done..].iter().position(|&byte| byte == b'\n') {
                let line = &self.pending[done..done + length];
                done += length + 1;
                // A line that the disk had no room for is no record.
                if let Some(entry) = parse(self.form, line)
                    && !readers(take(entry))?
                {
                    return Ok(false);
                }
            }
            self.pending.drain(..done);
            if self.pending.len() > MAX_RECORD {
                return Err(Error::other("read the log: a record does not end"));
            }
        }
    }
}

/// The log's files, the oldest first.
fn names(path: &Path) -> Vec<PathBuf> {
    let old = (1..).map(|number| rotated(path, number)).take_while(|name| name.exists());
    let mut names: Vec<_> = std::iter::once(path.to_owned()).chain(old).collect();
    names.reverse();
    names
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn parse(form: Form, line: &[u8]) -> Option<Entry> {
    if form == Form::Json {
        let record: json::Record = serde_json::from_slice(line).ok()?;
        return Some(Entry { stream: record.stream, time: record.time, text: record.log.into_bytes() });
    }
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?.to_owned();
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let whole = match fields.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let mut text = fields.next()?.to_vec();
    if whole {
        text.push(b'\n');
    }
    // Ours are in UTC, by whichever name.
    let time = time.strip_suffix("+00:00").map_or(time.clone(), |time| format!("{time}Z"));
    Some(Entry { stream, time, text })
}

/// Whether somebody still reads what is printed.
pub(crate) fn readers(taken: io::Result<bool>) -> Result<bool> {
    match taken {
        Ok(more) => Ok(more),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context(|| "print the log"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::Limits;
    use super::super::k8s::K8sLog;
    use super::*;

    fn read(reader: &mut Reader) -> String {
        let mut text = Vec::new();
        let all = reader.each(|entry| {
            text.extend_from_slice(&entry.text);
            Ok(true)
        });
        assert!(all.unwrap());
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn both_forms() {
        let entry = parse(Form::K8s, b"2026-01-02T03:04:05.000000006+00:00 stderr F a b").unwrap();
        assert_eq!((entry.stream, entry.text.as_slice()), (Stream::Stderr, &b"a b\n"[..]));
        assert_eq!(entry.time, "2026-01-02T03:04:05.000000006Z");
        assert_eq!(parse(Form::K8s, b"t stdout P x").unwrap().text, b"x");
        assert_eq!(parse(Form::K8s, b"t stdout F ").unwrap().text, b"\n");
        for line in [&b""[..], b"t", b"t stdin F x", b"t stdout X x", b"t stdout F"] {
            assert_eq!(parse(Form::K8s, line), None);
        }
        let json = br#"{"log":"x\n","stream":"stdout","time":"t"}"#;
        assert_eq!(parse(Form::Json, json).unwrap().text, b"x\n");
    }

    #[test]
    fn rotation_loses_nothing_for_who_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = K8sLog::open(&path, Some(Limits { size: 200, files: 4 }), None).unwrap();
        log.write(Stream::Stdout, b"0\n");
        let mut reader = Reader::open(&path, Form::K8s).unwrap();
        assert_eq!(read(&mut reader), "0\n");
        let mut expected = String::new();
        for number in 1..10 {
            log.write(Stream::Stdout, format!("{number}\n").as_bytes());
            expected.push_str(&number.to_string());
            expected.push('\n');
        }
        assert_eq!(read(&mut reader), expected, "three files on");
        assert_eq!(read(&mut reader), "");
        let whole = read(&mut Reader::open(&path, Form::K8s).unwrap());
        assert!(whole.starts_with("0\n") && whole.ends_with("9\n"), "{whole}");
    }

    #[test]
    fn fuzz_shim_log() {
        let seeds = [
            "2026-01-02T03:04:05.000000006+00:00 stderr F a b\n2026-01-02T03:04:05Z stdout P c\n",
            "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"t\"}\n",
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        crate::fuzz::fuzz("shim_log", &seeds.map(|seed| seed.as_bytes().to_vec()), |input| {
            fs::write(&path, input).unwrap();
            for form in [Form::Json, Form::K8s] {
                let all = Reader::open(&path, form).unwrap().each(|entry| Ok(entry.text.len() <= input.len() * 3));
                assert!(all.unwrap_or(true));
            }
        });
    }
}
