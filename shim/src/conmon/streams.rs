//! The container's streams in conmon's hands.

use rustix::event::epoll::{self, EventFlags};
use rustix::io::{Errno, write};

use super::client::Client;
use super::watch::{JOURNAL, STDERR, STDIN, STDOUT, Watch};
use crate::error::{Context, Result};
use crate::io::intake::{Intake, SMALL};
use crate::io::log::{Log, Stream};

impl Watch<'_> {
    /// Reads the outputs, or does not while a client or the journal does not keep up: what a caller pipes elsewhere must be whole.
    pub(super) fn adjust(&self) {
        let held_up = self.clients.iter().flatten().any(Client::holds_up) || self.logs.iter().any(Log::is_behind);
        for (token, output) in [(STDOUT, &self.born.stdout), (STDERR, &self.born.stderr)] {
            let mut flags = if held_up { EventFlags::empty() } else { EventFlags::IN };
            // That nobody has it open is told however little we ask for.
            flags.set(EventFlags::ET, self.hung && token == STDOUT);
            if let Some(output) = output {
                self.modify(output, token, flags);
            }
        }
    }

    /// Moves what the container has written to the logs and the clients. `false` means that there is no more for now.
    pub(super) fn read_output(&mut self, index: usize) -> Result<bool> {
        let mut intake = std::mem::take(&mut self.intake);
        let more = self.take_in(index, &mut intake);
        self.intake = intake;
        more
    }

    fn take_in(&mut self, index: usize, intake: &mut Intake) -> Result<bool> {
        let output = if index == 0 { &self.born.stdout } else { &self.born.stderr };
        let Some(output) = output else { return Ok(false) };
        let mut buffer = [0_u8; SMALL];
        let bytes = match intake.read(output, &mut buffer) {
            Ok(bytes) => bytes,
            // A terminal that is closed everywhere says EIO. Somebody may open it again.
            Err(Errno::IO) if self.manner.terminal => {
                if !self.hung {
                    self.hung = true;
                    self.adjust();
                }
                return Ok(false);
            }
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno).context(|| "read the container's output"),
        };
        if bytes.is_empty() {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, output);
            if index == 0 {
                self.born.stdout = None;
            } else {
                self.born.stderr = None;
            }
            return Ok(false);
        }
        let stream = if index == 0 { Stream::Stdout } else { Stream::Stderr };
        for log in &mut self.logs {
            log.write(stream, bytes);
        }
        self.follow_logs();
        for slot in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[slot] {
                client.output(stream, bytes);
                client.flush();
                if client.has_output() {
                    self.refresh(slot);
                }
            }
        }
        if self.hung {
            self.hung = false;
            self.adjust();
        }
        Ok(true)
    }

    /// Waits for the journal to have room, or does no more.
    pub(super) fn follow_logs(&mut self) {
        if self.room.follow(&self.epoll, JOURNAL, &self.logs) {
            self.adjust();
        }
    }

    pub(super) fn put_input(&mut self, bytes: &[u8]) {
        if self.born.stdin.is_some() && !self.input_ends {
            self.input.extend_from_slice(bytes);
            self.write_input();
        }
    }

    /// Ends the container's stdin after what still waits, unless others may come with more. A terminal has no end.
    pub(super) fn end_input(&mut self) {
        if !self.manner.leave_stdin_open && !self.manner.terminal {
            self.input_ends = true;
            self.write_input();
        }
    }

    /// Gives the container as much of the waiting input as it takes.
    pub(super) fn write_input(&mut self) {
        let Some(stdin) = &self.born.stdin else { return };
        let mut written = 0;
        let mut gone = false;
        while written < self.input.len() && !gone {
            match write(stdin, &self.input[written..]) {
                Ok(count) => written += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => gone = true,
            }
        }
        self.input.drain(..written);
        if gone && self.manner.terminal {
            // Nobody has the terminal open: what was typed is for nobody.
            self.input.clear();
        } else if gone || (self.input.is_empty() && self.input_ends) {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, stdin);
            self.born.stdin = None;
            self.input.clear();
        }
        if let Some(stdin) = &self.born.stdin
            && self.input_waits == self.input.is_empty()
        {
            // Only when it changes: to be watched anew is to be told anew that nobody has it open.
            self.input_waits = !self.input.is_empty();
            let flags = if self.input_waits { EventFlags::OUT } else { EventFlags::ET };
            self.modify(stdin, STDIN, flags);
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }
}
