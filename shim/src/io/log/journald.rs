//! The machine's journal, by its native protocol: a datagram of `FIELD=value` lines for each line of output. The fields
//! are those of Docker's and Podman's journald drivers, so that `journalctl CONTAINER_NAME=web` finds them.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::{MAX_LINE, Stream};

/// Where the journal listens.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";
/// How many characters of an id tell containers apart.
const SHORT_ID: usize = 12;
/// syslog's levels, which journald uses: `err` and `info`.
const ERROR: u8 = b'3';
const INFORMATION: u8 = b'6';

/// What the journal is told about the container.
#[derive(Debug, Default)]
pub(crate) struct Identity<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) tag: Option<&'a str>,
    /// `FIELD=value` each.
    pub(crate) labels: &'a [String],
    /// Whether pieces of longer lines bear no mark.
    pub(crate) unmarked: bool,
}

/// The writer of such a log.
#[derive(Debug)]
pub(crate) struct Journald {
    socket: UnixDatagram,
    journal: PathBuf,
    /// The fields that all records share.
    fields: Vec<u8>,
    marked: bool,
    partial: [Vec<u8>; 2],
}

impl Journald {
    /// Prepares for the journal at `socket`, which may come and go.
    pub(crate) fn open(socket: &Path, identity: &Identity<'_>) -> io::Result<Self> {
        let journal = UnixDatagram::unbound()?;
        // A journal that does not keep up, or is away, costs lines, never the container.
        journal.set_nonblocking(true)?;
        let mut fields = Vec::new();
        let short: String = identity.id.chars().take(SHORT_ID).collect();
        put(&mut fields, "CONTAINER_ID_FULL", identity.id.as_bytes());
        put(&mut fields, "CONTAINER_ID", short.as_bytes());
        if let Some(name) = identity.name {
            put(&mut fields, "CONTAINER_NAME", name.as_bytes());
        }
        if let Some(tag) = identity.tag {
            put(&mut fields, "CONTAINER_TAG", tag.as_bytes());
        }
        let identifier = identity.tag.or(identity.name).unwrap_or(&short);
        put(&mut fields, "SYSLOG_IDENTIFIER", identifier.as_bytes());
        for (field, value) in identity.labels.iter().filter_map(|label| label.split_once('=')) {
            put(&mut fields, field, value.as_bytes());
        }
        Ok(Self {
            socket: journal,
            journal: socket.to_owned(),
            fields,
            marked: !identity.unmarked,
            partial: [Vec::new(), Vec::new()],
        })
    }

    /// Takes output of the container.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let mut piece = piece;
            while partial.len() + piece.len() > MAX_LINE + 1 {
                let (now, later) = piece.split_at(MAX_LINE - partial.len());
                partial.extend_from_slice(now);
                self.send(stream, &partial, true);
                partial.clear();
                piece = later;
            }
            partial.extend_from_slice(piece);
            if let Some(line) = partial.strip_suffix(b"\n") {
                self.send(stream, line, false);
                partial.clear();
            }
        }
        if !partial.is_empty() {
            self.partial[stream as usize] = partial;
        }
    }

    /// Sends unfinished lines.
    pub(crate) fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                self.send(stream, &rest, true);
            }
        }
    }

    fn send(&self, stream: Stream, line: &[u8], partial: bool) {
        let (priority, text) = priority(stream, line);
        let mut record = Vec::with_capacity(self.fields.len() + text.len() + 64);
        put(&mut record, "MESSAGE", text);
        put(&mut record, "PRIORITY", &[priority]);
        if partial && self.marked {
            put(&mut record, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        record.extend_from_slice(&self.fields);
        let _: io::Result<usize> = self.socket.send_to(&record, &self.journal);
    }
}

/// A line may begin with its own priority, `<0>` to `<7>`, as sd-daemon(3) has it.
fn priority(stream: Stream, line: &[u8]) -> (u8, &[u8]) {
    match (line, stream) {
        ([b'<', level @ b'0'..=b'7', b'>', text @ ..], _) => (*level, text),
        (_, Stream::Stdout) => (INFORMATION, line),
        (_, Stream::Stderr) => (ERROR, line),
    }
}

/// Appends a field. A value with newlines goes with its length, or it could forge other fields.
fn put(record: &mut Vec<u8>, field: &str, value: &[u8]) {
    record.extend_from_slice(field.as_bytes());
    if value.contains(&b'\n') {
        record.push(b'\n');
        record.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        record.push(b'=');
    }
    record.extend_from_slice(value);
    record.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, UnixDatagram, Journald) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let server = UnixDatagram::bind(&path).unwrap();
        server.set_nonblocking(true).unwrap();
        let labels = ["A=b".to_owned()];
        let identity = Identity { id: "0123456789abcdef", name: Some("web"), labels: &labels, ..Identity::default() };
        let log = Journald::open(&path, &identity).unwrap();
        (dir, server, log)
    }

    fn received(server: &UnixDatagram) -> Option<String> {
        let mut buffer = vec![0; 64 * 1024];
        let length = server.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    #[test]
    fn a_line_is_a_record() {
        let (_dir, server, mut log) = journal();
        log.write(Stream::Stdout, b"he");
        assert_eq!(received(&server), None, "the line is not whole yet");
        log.write(Stream::Stdout, b"llo\n<4>care");
        let expected = "MESSAGE=hello\nPRIORITY=6\nCONTAINER_ID_FULL=0123456789abcdef\n\
                        CONTAINER_ID=0123456789ab\nCONTAINER_NAME=web\nSYSLOG_IDENTIFIER=web\nA=b\n";
        assert_eq!(received(&server).unwrap(), expected);
        log.finish();
        let last = received(&server).unwrap();
        assert!(last.starts_with("MESSAGE=care\nPRIORITY=4\nCONTAINER_PARTIAL_MESSAGE=true\n"), "{last}");
        log.write(Stream::Stderr, b"x\n");
        assert!(received(&server).unwrap().contains("PRIORITY=3\n"));
    }

    #[test]
    fn long_lines_go_in_pieces() {
        let (_dir, server, mut log) = journal();
        log.write(Stream::Stdout, &[vec![b'x'; MAX_LINE + 5], b"\n".to_vec()].concat());
        assert!(received(&server).unwrap().contains("CONTAINER_PARTIAL_MESSAGE=true\n"));
        assert!(received(&server).unwrap().starts_with("MESSAGE=xxxxx\n"));
        log.write(Stream::Stdout, &[vec![b'y'; MAX_LINE], b"\n".to_vec()].concat());
        assert!(!received(&server).unwrap().contains("PARTIAL"), "it fits exactly");
    }

    #[test]
    fn a_value_cannot_forge_a_field() {
        let mut record = Vec::new();
        put(&mut record, "CONTAINER_NAME", b"x\nPRIORITY=0");
        assert_eq!(record, b"CONTAINER_NAME\n\x0c\0\0\0\0\0\0\0x\nPRIORITY=0\n");
    }
}
