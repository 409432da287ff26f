//! One client of the attach socket. It sends bytes for the container's stdin; it gets packets that begin with a byte for
//! the stream, 2 for stdout and 3 for stderr.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::io::log::Stream;

/// The most output in a packet: callers have buffers of this size and one byte.
pub(super) const PACKET: usize = 8192;
/// The largest packet of input that is taken whole.
const MAX_INPUT: usize = 64 * 1024;
/// How much output waits for a client before the container has to wait for it.
const HIGH_WATER: usize = 256 * 1024;

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    queue: VecDeque<Vec<u8>>,
    waiting: usize,
    /// Whether it may still have something to say.
    pub(super) speaks: bool,
    /// Whether it still listens.
    listens: bool,
}

/// What a client had to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    Input(Vec<u8>),
    /// It has no more input; perhaps it still listens.
    End,
}

impl Client {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new(), waiting: 0, speaks: true, listens: true }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one packet.
    pub(super) fn hear(&mut self) -> Heard {
        let mut buffer = vec![0_u8; MAX_INPUT];
        match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((count @ 1.., _)) => {
                buffer.truncate(count);
                Heard::Input(buffer)
            }
            Err(Errno::AGAIN | Errno::INTR) => Heard::Nothing,
            Ok((0, _)) | Err(_) => {
                self.speaks = false;
                let _: rustix::io::Result<()> = shutdown(&self.socket, Shutdown::Read);
                Heard::End
            }
        }
    }

    /// Queues output of the container.
    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.listens {
            return;
        }
        let mark = match stream {
            Stream::Stdout => 2,
            Stream::Stderr => 3,
        };
        for piece in bytes.chunks(PACKET) {
            let mut packet = Vec::with_capacity(piece.len() + 1);
            packet.push(mark);
            packet.extend_from_slice(piece);
            self.waiting += packet.len();
            self.queue.push_back(packet);
        }
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) {
        while let Some(packet) = self.queue.front() {
            match send(&self.socket, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => {
                    self.waiting -= packet.len();
                    self.queue.pop_front();
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.listens = false;
                    self.waiting = 0;
                    self.queue = VecDeque::new();
                }
            }
        }
        self.queue = VecDeque::new();
    }

    pub(super) fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the container must wait for this client.
    pub(super) fn holds_up(&self) -> bool {
        self.waiting > HIGH_WATER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, Client) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (ours, Client::new(theirs))
    }

    #[test]
    fn output_goes_in_marked_packets() {
        let (peer, mut client) = pair();
        client.output(Stream::Stdout, &[b'x'; PACKET + 1]);
        client.output(Stream::Stderr, b"oops");
        client.flush();
        let mut buffer = [0_u8; PACKET + 2];
        let mut next = || {
            let (count, _) = recv(&peer, &mut buffer[..], RecvFlags::empty()).unwrap();
            buffer[..count].to_vec()
        };
        assert_eq!(next(), [&[2][..], &[b'x'; PACKET]].concat());
        assert_eq!(next(), b"\x02x");
        assert_eq!(next(), b"\x03oops");
        assert!(!client.has_output());
    }

    #[test]
    fn the_end_of_input_is_not_the_end_of_interest() {
        let (peer, mut client) = pair();
        send(&peer, b"in", SendFlags::empty()).unwrap();
        assert_eq!(client.hear(), Heard::Input(b"in".to_vec()));
        assert_eq!(client.hear(), Heard::Nothing);
        shutdown(&peer, Shutdown::Write).unwrap();
        assert_eq!(client.hear(), Heard::End);
        client.output(Stream::Stdout, b"still");
        client.flush();
        assert!(client.listens);
        drop(peer);
        client.output(Stream::Stdout, b"gone");
        client.flush();
        assert!(!client.listens && !client.has_output());
    }

    #[test]
    fn who_does_not_read_holds_the_container_up() {
        let (_peer, mut client) = pair();
        let mut rounds = 0;
        while !client.holds_up() {
            client.output(Stream::Stdout, &[0; PACKET]);
            client.flush();
            rounds += 1;
            assert!(rounds < 1000);
        }
    }
}
