//! Clients of the attach socket: letting them in, hearing them, and seeing them off.

use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::net::{SocketFlags, accept_with};

use super::client::{Client, Heard};
use super::watch::{Doors, FIRST_CLIENT, LISTENER, Watch};
use crate::error::Result;

/// How much input may wait for the container before clients have to wait.
const MAX_INPUT: usize = 64 * 1024;
/// The most clients at a time; others wait in the socket's queue.
const MOST_CLIENTS: usize = 256;

impl Watch<'_> {
    /// Lets one client in. `false` means that nobody waits, or that there is no room.
    pub(super) fn admit(&mut self) -> Result<bool> {
        let Some(listener) = &self.doors.attach else { return Ok(false) };
        if self.clients.iter().flatten().count() >= MOST_CLIENTS {
            // The door is open again when one leaves.
            self.modify(listener, LISTENER, EventFlags::empty());
            return Ok(false);
        }
        // Whoever has gone again, or cannot be served for want of descriptors, is no reason to end.
        let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return Ok(false);
        };
        let slot = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        if slot == self.clients.len() {
            self.clients.push(None);
        }
        let client = Client::new(socket);
        self.add(client.fd(), FIRST_CLIENT + slot as u64, EventFlags::empty())?;
        self.clients[slot] = Some(client);
        self.refresh(slot);
        Ok(true)
    }

    pub(super) fn takes_input(&self) -> bool {
        self.input.len() < MAX_INPUT
    }

    pub(super) fn serve_client(&mut self, slot: usize, flags: EventFlags) {
        let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take) else {
            return;
        };
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        // The last words of one that has gone count, however much waits already.
        while client.speaks && (gone || self.takes_input()) {
            match client.hear() {
                Heard::Nothing => break,
                Heard::Input(bytes) => self.put_input(&bytes),
                Heard::End => self.end_input(),
            }
        }
        client.flush();
        if gone {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, client.fd());
            drop(client);
            if let Some(listener) = &self.doors.attach {
                self.modify(listener, LISTENER, EventFlags::IN);
            }
            self.adjust();
        } else {
            self.clients[slot] = Some(client);
            self.refresh(slot);
        }
    }

    /// Watches a client for what can be done with it now.
    pub(super) fn refresh(&self, slot: usize) {
        if let Some(client) = self.clients.get(slot).and_then(Option::as_ref) {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, client.speaks && self.takes_input());
            flags.set(EventFlags::OUT, client.has_output());
            self.modify(client.fd(), FIRST_CLIENT + slot as u64, flags);
            self.adjust();
        }
    }

    pub(super) fn refresh_all(&self) {
        (0..self.clients.len()).for_each(|slot| self.refresh(slot));
    }

    /// Gives clients what they have not read yet, for so long or for ever.
    pub(super) fn take_leave(&mut self, patience: Option<Duration>) -> Result<()> {
        let watched =
            [self.doors.attach.take(), self.born.stdout.take(), self.born.stderr.take(), self.born.stdin.take()];
        for fd in watched.into_iter().flatten() {
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &fd);
        }
        self.doors = Doors::default();
        self.oom = None;
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, self.signals);
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, &self.born.pidfd);
        let deadline = patience.map(|patience| Instant::now() + patience);
        for slot in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[slot] {
                client.speaks = false;
                client.flush();
                self.refresh(slot);
            }
        }
        self.dismiss_served();
        while !self.clients.iter().all(Option::is_none) {
            let Some(events) = self.wait(deadline)? else { break };
            for (token, flags) in events.into_iter().filter(|&(token, _)| token >= FIRST_CLIENT) {
                self.serve_client((token - FIRST_CLIENT) as usize, flags);
            }
            self.dismiss_served();
        }
        Ok(())
    }

    /// Hangs up on clients that have all output: they wait for that.
    pub(super) fn dismiss_served(&mut self) {
        for client in &mut self.clients {
            if client.as_ref().is_some_and(|client| !client.has_output()) {
                *client = None;
            }
        }
    }
}
