//! One client of a monitor: somebody who attached, or who waits for the end.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::error::{Context, Error, Result};
use crate::solo::frames::{self, Frame, MAX_PAYLOAD, Type};

/// How much output waits for the starter before the container has to wait for it.
const HIGH_WATER: usize = 256 * 1024;
/// How much output waits for any other client before it misses some.
const MAX_BEHIND: usize = 1024 * 1024;
/// How often one that has gone is read: more than what a socket holds.
const LAST_READS: usize = 64;

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    /// Whether it is whoever started the container.
    starter: bool,
    /// Whether it said that it wants output.
    wants_output: bool,
    /// Whether it said anything yet.
    greeted: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    skipped: u64,
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Hello,
    Stdin(Vec<u8>),
    EndOfInput,
    Resize { rows: u16, columns: u16 },
    Signal(u8),
    Stop,
}

impl Client {
    pub(super) fn new(stream: UnixStream, starter: bool) -> Result<Self> {
        stream.set_nonblocking(true).context(|| "prepare a client's socket")?;
        Ok(Self {
            stream,
            starter,
            wants_output: false,
            greeted: false,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            skipped: 0,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Reads what has come. `false` means that the client has gone.
    pub(super) fn receive(&mut self) -> Result<bool> {
        let mut buffer = [0_u8; MAX_PAYLOAD / 4];
        loop {
            match recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => return Ok(false),
                Ok((count, _)) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    return Ok(true);
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(|| "read from a client"),
            }
        }
    }

    /// Reads what is left of a client that has gone, or hears nothing any more. One that talks on is not heard to its end.
    pub(super) fn receive_last(&mut self) -> Result<()> {
        for _ in 0..LAST_READS {
            let before = self.input.len();
            if !self.receive()? || self.input.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// The next request that has come completely.
    pub(super) fn next_request(&mut self) -> Result<Option<Request>> {
        let Some((frame, length)) = frames::first(&self.input)? else {
            return Ok(None);
        };
        let request = request(&frame)?;
        match &request {
            Request::Hello if self.greeted => return Err(Error::invalid("a second Hello")),
            Request::Hello => {
                self.greeted = true;
                self.wants_output = frame.payload == [1];
            }
            _ if !self.greeted => return Err(Error::invalid("a frame before Hello")),
            _ => {}
        }
        self.input.drain(..length);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(Some(request))
    }

    /// Whether it runs the container in the foreground: its output is never skipped, the container waits instead, as
    /// any program waits for the terminal or pipe that it writes to, and its end of input is the container's.
    pub(super) fn is_foreground(&self) -> bool {
        self.starter && self.wants_output
    }

    /// Queues output of the container.
    pub(super) fn output(&mut self, kind: Type, bytes: &[u8]) {
        if !self.wants_output {
            return;
        }
        let behind = self.output.len() - self.sent;
        if !self.starter && behind + bytes.len() > MAX_BEHIND {
            self.skipped += bytes.len() as u64;
            return;
        }
        self.confess();
        for piece in bytes.chunks(MAX_PAYLOAD) {
            frames::put(&mut self.output, kind, piece);
        }
    }

    /// Queues a message that every client gets.
    pub(super) fn tell(&mut self, kind: Type, payload: &[u8]) {
        self.confess();
        frames::put(&mut self.output, kind, payload);
    }

    fn confess(&mut self) {
        if self.skipped > 0 {
            let skipped = std::mem::take(&mut self.skipped);
            frames::put(&mut self.output, Type::Skipped, &skipped.to_le_bytes());
        }
    }

    /// Sends what the socket takes. `false` means that the client has gone.
    pub(super) fn flush(&mut self) -> Result<bool> {
        while self.sent < self.output.len() {
            match send(&self.stream, &self.output[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
                Err(errno) => return Err(errno).context(|| "write to a client"),
            }
        }
        if self.sent == self.output.len() {
            self.output = Vec::new();
            self.sent = 0;
        } else if self.sent > HIGH_WATER {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        Ok(true)
    }

    pub(super) fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Whether the container must wait for this client.
    pub(super) fn holds_up(&self) -> bool {
        self.is_foreground() && self.output.len() - self.sent > HIGH_WATER
    }
}

fn request(frame: &Frame<'_>) -> Result<Request> {
    let malformed = || Error::invalid(format!("malformed frame {:?}", frame.kind));
    match frame.kind {
        Type::Hello if frame.payload.len() == 1 => Ok(Request::Hello),
        Type::Stdin => Ok(Request::Stdin(frame.payload.to_vec())),
        Type::EndOfInput => Ok(Request::EndOfInput),
        Type::Stop => Ok(Request::Stop),
        Type::Resize => {
            let (rows, columns) = frames::size(frame.payload).ok_or_else(malformed)?;
            Ok(Request::Resize { rows, columns })
        }
        Type::Signal => match frame.payload {
            &[number @ 1..=64] => Ok(Request::Signal(number)),
            _ => Err(malformed()),
        },
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn pair(starter: bool) -> (UnixStream, Client) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, Client::new(theirs, starter).unwrap())
    }

    fn send_frames(peer: &mut UnixStream, list: &[(Type, &[u8])]) {
        let mut bytes = Vec::new();
        for (kind, payload) in list {
            frames::put(&mut bytes, *kind, payload);
        }
        peer.write_all(&bytes).unwrap();
    }

    #[test]
    fn requests_come_in_order() {
        let (mut peer, mut client) = pair(false);
        send_frames(
            &mut peer,
            &[
                (Type::Hello, &[1]),
                (Type::Stdin, b"in"),
                (Type::Resize, &frames::size_payload(5, 6)),
                (Type::Signal, &[15]),
                (Type::EndOfInput, &[]),
            ],
        );
        assert!(client.receive().unwrap());
        let mut seen = Vec::new();
        while let Some(request) = client.next_request().unwrap() {
            seen.push(request);
        }
        let resize = Request::Resize { rows: 5, columns: 6 };
        let stdin = Request::Stdin(b"in".to_vec());
        assert_eq!(seen, [Request::Hello, stdin, resize, Request::Signal(15), Request::EndOfInput]);
        drop(peer);
        assert!(!client.receive().unwrap(), "gone");
    }

    #[test]
    fn who_goes_without_hearing_the_answer_is_heard() {
        let (mut peer, mut client) = pair(false);
        send_frames(&mut peer, &[(Type::Hello, &[0])]);
        assert!(client.receive().unwrap());
        assert_eq!(client.next_request().unwrap(), Some(Request::Hello));
        client.tell(Type::Started, &[1, 0, 0, 0]);
        // It comes between our reading and our answer.
        send_frames(&mut peer, &[(Type::Stop, &[]), (Type::Signal, &[9])]);
        drop(peer);
        assert!(!client.flush().unwrap(), "nobody is told");
        client.receive_last().unwrap();
        let left = [client.next_request().unwrap(), client.next_request().unwrap()];
        assert_eq!(left, [Some(Request::Stop), Some(Request::Signal(9))]);
    }

    #[test]
    fn hostile_clients_are_refused() {
        for list in [
            &[(Type::Stdin, &b"x"[..])][..],
            &[(Type::Hello, &[1]), (Type::Hello, &[1])],
            &[(Type::Hello, &[])],
            &[(Type::Hello, &[0]), (Type::Signal, &[0])],
            &[(Type::Hello, &[0]), (Type::Signal, &[65])],
            &[(Type::Hello, &[0]), (Type::Resize, &[1, 2])],
            &[(Type::Hello, &[0]), (Type::Stdout, b"forged")],
        ] {
            let (mut peer, mut client) = pair(false);
            send_frames(&mut peer, list);
            client.receive().unwrap();
            let refused = loop {
                match client.next_request() {
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            };
            assert!(refused, "{list:?}");
        }
    }

    #[test]
    fn a_slow_client_misses_output_and_is_told_but_the_starter_misses_none() {
        let chunk = vec![7_u8; 32 * 1024];
        for starter in [false, true] {
            let (mut peer, mut client) = pair(starter);
            send_frames(&mut peer, &[(Type::Hello, &[1])]);
            client.receive().unwrap();
            client.next_request().unwrap();
            let mut held_up = false;
            for _ in 0..64 {
                client.output(Type::Stdout, &chunk);
                held_up |= client.holds_up();
                client.flush().unwrap();
            }
            assert_eq!(held_up, starter);
            client.tell(Type::Exited, b"{}");
            let reader = std::thread::spawn(move || {
                let mut bytes = Vec::new();
                peer.read_to_end(&mut bytes).unwrap();
                bytes
            });
            while client.has_output() {
                client.flush().unwrap();
            }
            drop(client);
            let bytes = reader.join().unwrap();
            let (mut rest, mut got, mut missed) = (&bytes[..], 0, 0);
            while let Some((frame, length)) = frames::first(rest).unwrap() {
                match frame.kind {
                    Type::Stdout => got += frame.payload.len(),
                    Type::Skipped => {
                        missed += u64::from_le_bytes(frame.payload.try_into().unwrap());
                    }
                    _ => {}
                }
                rest = &rest[length..];
            }
            assert_eq!(got + missed as usize, 64 * chunk.len());
            assert_eq!(missed == 0, starter);
        }
    }
}
