//! The container's streams in the monitor's hands.

use std::slice;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, write};

use super::client::Client;
use super::serve::{JOURNAL, Monitor, STDERR, STDIN, STDOUT};
use crate::error::{Context, Result};
use crate::io::intake::{Intake, SMALL};
use crate::io::log::Stream;
use crate::solo::frames::Type;

impl Monitor {
    /// Reads the outputs, or does not while the starter or the journal does not keep up.
    pub(super) fn adjust(&self) {
        let held_up = self.log.is_behind() || (!self.draining && self.clients.iter().flatten().any(Client::holds_up));
        let flags = if held_up { EventFlags::empty() } else { EventFlags::IN };
        for (token, output) in [(STDOUT, &self.outputs[0]), (STDERR, &self.outputs[1])] {
            if let Some(output) = output {
                let _: rustix::io::Result<()> = epoll::modify(&self.epoll, output, EventData::new_u64(token), flags);
            }
        }
    }

    /// Moves what the container has written to the log and the clients.
    pub(super) fn read_output(&mut self, index: usize) -> Result<()> {
        let mut intake = std::mem::take(&mut self.intake);
        let taken = self.take_in(index, &mut intake);
        self.intake = intake;
        taken
    }

    fn take_in(&mut self, index: usize, intake: &mut Intake) -> Result<()> {
        let Some(output) = &self.outputs[index] else {
            return Ok(());
        };
        let mut buffer = [0_u8; SMALL];
        let bytes = match intake.read(output, &mut buffer) {
            Ok(bytes) => bytes,
            // A terminal that is closed everywhere says EIO.
            Err(Errno::IO) => &[],
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).context(|| "read the container's output"),
        };
        if bytes.is_empty() {
            self.close_output(index);
            return Ok(());
        }
        let (stream, kind) = if index == 0 { (Stream::Stdout, Type::Stdout) } else { (Stream::Stderr, Type::Stderr) };
        self.log.write(stream, bytes);
        self.follow_log();
        for slot in 0..self.clients.len() {
            let Some(client) = &mut self.clients[slot] else {
                continue;
            };
            client.output(kind, bytes);
            if client.flush().unwrap_or(false) {
                self.refresh(slot);
            } else {
                self.serve_client(slot, true);
            }
        }
        Ok(())
    }

    /// Waits for the journal to have room, or does no more.
    pub(super) fn follow_log(&mut self) {
        if self.room.follow(&self.epoll, JOURNAL, slice::from_ref(&self.log)) {
            self.adjust();
        }
    }

    pub(super) fn close_output(&mut self, index: usize) {
        if let Some(output) = self.outputs[index].take() {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &output);
        }
    }

    /// Gives the container as much of the waiting input as it takes.
    pub(super) fn write_input(&mut self) -> Result<()> {
        let Some(stdin) = &self.stdin else {
            return Ok(());
        };
        let mut written = 0;
        let mut gone = false;
        while written < self.input.len() {
            match write(stdin, &self.input[written..]) {
                Ok(count) => written += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::IO) => {
                    gone = true;
                    break;
                }
                Err(errno) => return Err(errno).context(|| "write the container's input"),
            }
        }
        self.input.drain(..written);
        if gone || (self.input.is_empty() && self.input_ends) {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, stdin);
            self.stdin = None;
            self.input.clear();
        } else if self.input_waits == self.input.is_empty() {
            // Only when it changes: to be watched anew is to be told anew that nobody has it open.
            self.input_waits = !self.input.is_empty();
            let flags = if self.input_waits { EventFlags::OUT } else { EventFlags::ET };
            let modified = epoll::modify(&self.epoll, stdin, EventData::new_u64(STDIN), flags);
            modified.context(|| "watch the container's input")?;
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        for slot in 0..self.clients.len() {
            self.refresh(slot);
        }
        Ok(())
    }

    /// Ends the container's stdin after what still waits. A terminal has no end.
    pub(super) fn end_input(&mut self) -> Result<()> {
        if self.terminal {
            return Ok(());
        }
        self.input_ends = true;
        self.write_input()
    }
}
