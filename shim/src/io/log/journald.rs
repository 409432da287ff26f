//! The machine's journal, by its native protocol: a datagram of `FIELD=value` lines for each line of output. The fields
//! are those of Docker's and Podman's journald drivers, so that `journalctl CONTAINER_NAME=web` finds them.
//!
//! A journal that does not keep up is waited for: what it has not taken yet stays here, and whoever reads the container's
//! output reads no more until it has. One that is away costs output: it is told as soon as there is a journal again.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memchr::memchr;
use rustix::event::{PollFd, PollFlags, poll};

use super::{MAX_LINE, Stream};
use crate::io::events::timespec;

/// Where the journal listens.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";
/// How many characters of an id tell containers apart.
const SHORT_ID: usize = 12;
/// syslog's levels, which journald uses: `err` and `info`.
const ERROR: u8 = b'3';
const INFORMATION: u8 = b'6';
/// How long a journal may take nothing once the container has ended.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// Output that the journal has not taken yet, with how much of each it has.
    waiting: VecDeque<(Stream, Vec<u8>, usize)>,
    /// How much output is lost, not told yet.
    lost: u64,
}

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
enum Delivery {
    Taken,
    /// The journal does not keep up.
    Full,
    /// There is no journal, or none that would take this.
    Refused,
}

impl Journald {
    /// Prepares for the journal at `socket`, which may come and go.
    pub(crate) fn open(socket: &Path, identity: &Identity<'_>) -> io::Result<Self> {
        let journal = UnixDatagram::unbound()?;
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
            waiting: VecDeque::new(),
            lost: 0,
        })
    }

    /// Takes output of the container.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let taken = if self.is_behind() { 0 } else { self.take(stream, bytes) };
        if taken < bytes.len() {
            self.waiting.push_back((stream, bytes[taken..].to_vec(), 0));
        }
    }

    /// Whether the journal has not taken all yet: then the output is to wait, until the socket can be written to.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Goes on with what waits.
    pub(crate) fn resume(&mut self) {
        while let Some((stream, bytes, from)) = self.waiting.pop_front() {
            let taken = from + self.take(stream, &bytes[from..]);
            if taken < bytes.len() {
                self.waiting.push_front((stream, bytes, taken));
                return;
            }
        }
        self.waiting = VecDeque::new();
    }

    /// Waits for the journal as long as it takes something now and then. What it does not take is lost.
    pub(crate) fn settle(&mut self) {
        let mut deadline = Instant::now() + PATIENCE;
        while self.is_behind() {
            let before = self.left();
            let left = deadline.saturating_duration_since(Instant::now());
            let _: rustix::io::Result<_> =
                poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&timespec(left)));
            self.resume();
            if self.left() < before {
                deadline = Instant::now() + PATIENCE;
            } else if left.is_zero() {
                self.lost += before;
                self.waiting = VecDeque::new();
            }
        }
    }

    fn left(&self) -> u64 {
        self.waiting.iter().map(|(_, bytes, from)| (bytes.len() - from) as u64).sum()
    }

    /// Sends unfinished lines. Returns how much output is lost that nobody could be told of.
    pub(crate) fn finish(&mut self) -> u64 {
        self.settle();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() && !self.send(stream, &rest, true) {
                self.lost += rest.len() as u64;
            }
        }
        self.confess();
        self.lost
    }

    /// Takes lines, and keeps the beginning of the last one if it is unfinished. Returns how many bytes that are.
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> usize {
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            let room = MAX_LINE - partial.len();
            let (text, with_end, unfinished) = match memchr(b'\n', &rest[..rest.len().min(room + 1)]) {
                Some(end) => (&rest[..end], end + 1, false),
                None if rest.len() > room => (&rest[..room], room, true),
                None => {
                    partial.extend_from_slice(rest);
                    taken = bytes.len();
                    break;
                }
            };
            let before = partial.len();
            partial.extend_from_slice(text);
            if !self.send(stream, &partial, unfinished) {
                partial.truncate(before);
                break;
            }
            partial.clear();
            taken += with_end;
        }
        if !partial.is_empty() {
            self.partial[stream as usize] = partial;
        }
        taken
    }

    /// Sends a line, or a piece of one. `false` means that the journal does not keep up.
    fn send(&mut self, stream: Stream, line: &[u8], partial: bool) -> bool {
        if !self.confess() {
            return false;
        }
        let delivery = self.deliver(&self.record(stream, line, partial));
        if delivery == Delivery::Refused {
            self.lost += line.len() as u64 + u64::from(!partial);
        }
        delivery != Delivery::Full
    }

    /// Tells what is lost. `false` means that the journal does not keep up.
    fn confess(&mut self) -> bool {
        if self.lost == 0 {
            return true;
        }
        let text = format!("[log: {} bytes of output are lost: the journal did not take them]", self.lost);
        let delivery = self.deliver(&self.record(Stream::Stderr, text.as_bytes(), false));
        if delivery == Delivery::Taken {
            self.lost = 0;
        }
        delivery != Delivery::Full
    }

    fn record(&self, stream: Stream, line: &[u8], partial: bool) -> Vec<u8> {
        let (priority, text) = priority(stream, line);
        let mut record = Vec::with_capacity(self.fields.len() + text.len() + 64);
        put(&mut record, "MESSAGE", text);
        put(&mut record, "PRIORITY", &[priority]);
        if partial && self.marked {
            put(&mut record, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        record.extend_from_slice(&self.fields);
        record
    }

    /// Sends a record. The socket is connected, for only then the kernel tells when there is room again.
    fn deliver(&self, record: &[u8]) -> Delivery {
        let mut connected = false;
        loop {
            match self.socket.send(record) {
                Ok(_) => return Delivery::Taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Delivery::Full,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not yet, or the journal has been started anew.
                Err(error)
                    if !connected && matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::ConnectionRefused) =>
                {
                    if self.socket.connect(&self.journal).is_err() {
                        return Delivery::Refused;
                    }
                    connected = true;
                }
                Err(_) => return Delivery::Refused,
            }
        }
    }
}

impl AsFd for Journald {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
    fn a_journal_that_does_not_keep_up_gets_everything_in_the_end() {
        let (_dir, server, mut log) = journal();
        let lines: Vec<String> = (0..5000).map(|n| format!("line {n}")).collect();
        log.write(Stream::Stdout, format!("{}\n", lines[..4000].join("\n")).as_bytes());
        assert!(log.is_behind(), "nobody reads");
        log.write(Stream::Stdout, format!("{}\nrest", lines[4000..].join("\n")).as_bytes());
        let mut seen = Vec::new();
        let mut collect = || {
            while let Some(record) = received(&server) {
                seen.push(record.strip_prefix("MESSAGE=").unwrap().lines().next().unwrap().to_owned());
            }
        };
        while log.is_behind() {
            collect();
            log.resume();
        }
        assert_eq!(log.finish(), 0);
        collect();
        assert_eq!(seen[..5000], lines);
        assert_eq!(seen[5000..], ["rest"]);
    }

    #[test]
    fn what_is_lost_is_told() {
        let (dir, server, mut log) = journal();
        let path = dir.path().join("journal");
        log.write(Stream::Stdout, b"before\n");
        drop(server);
        log.write(Stream::Stdout, b"four\n");
        std::fs::remove_file(&path).unwrap();
        log.write(Stream::Stderr, b"five5\nhalf");
        let server = UnixDatagram::bind(&path).unwrap();
        server.set_nonblocking(true).unwrap();
        log.write(Stream::Stdout, b"after\n");
        assert!(received(&server).unwrap().starts_with("MESSAGE=[log: 11 bytes of output are lost"));
        assert!(received(&server).unwrap().starts_with("MESSAGE=after\n"));
        drop(server);
        assert_eq!(log.finish(), 4, "nobody is there to be told");
    }

    #[test]
    fn a_value_cannot_forge_a_field() {
        let mut record = Vec::new();
        put(&mut record, "CONTAINER_NAME", b"x\nPRIORITY=0");
        assert_eq!(record, b"CONTAINER_NAME\n\x0c\0\0\0\0\0\0\0x\nPRIORITY=0\n");
    }
}
