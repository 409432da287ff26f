//! How the monitor treats its clients.

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::{Signal, pidfd_send_signal};

use super::client::{Client, Request};
use super::serve::{FIRST_CLIENT, Monitor};
use crate::error::{Context, Result};
use crate::io::console;
use crate::solo::frames::Type;

/// How much input may wait for the container before clients have to wait.
const MAX_INPUT: usize = 64 * 1024;

impl Monitor {
    pub(super) fn admit(&mut self, client: Client) -> Result<()> {
        let slot = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        let data = EventData::new_u64(FIRST_CLIENT + slot as u64);
        epoll::add(&self.epoll, client.fd(), data, EventFlags::IN).context(|| "watch a client")?;
        if slot == self.clients.len() {
            self.clients.push(None);
        }
        self.clients[slot] = Some(client);
        Ok(())
    }

    /// Hears and answers one client. Trouble with a client is the client's.
    pub(super) fn serve_client(&mut self, slot: usize, gone: bool) {
        let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if self.converse(&mut client, gone).unwrap_or(false) {
            self.clients[slot] = Some(client);
            self.refresh(slot);
        } else {
            self.dismiss(&client);
        }
    }

    /// Obeys what the client has asked for so far. `false` means that it has gone; its last words count.
    fn converse(&mut self, client: &mut Client, gone: bool) -> Result<bool> {
        if !gone && (!self.takes_input() || client.receive()?) {
            while self.takes_input()
                && let Some(request) = client.next_request()?
            {
                self.obey(client, request)?;
            }
            if client.flush()? {
                return Ok(true);
            }
        }
        self.hear_out(client)?;
        Ok(false)
    }

    /// Obeys the last words of a client that has gone. They may have come after we have read what came before: whoever kills a
    /// container says so and goes, and does not wait to be greeted.
    fn hear_out(&mut self, client: &mut Client) -> Result<()> {
        client.receive_last()?;
        while let Some(request) = client.next_request()? {
            self.obey(client, request)?;
        }
        Ok(())
    }

    pub(super) fn takes_input(&self) -> bool {
        self.input.len() < MAX_INPUT
    }

    fn obey(&mut self, client: &mut Client, request: Request) -> Result<()> {
        match request {
            Request::Hello => client.tell(Type::Started, &self.pid.to_le_bytes()),
            Request::Stdin(bytes) => {
                if self.stdin.is_some() && !self.input_ends {
                    self.input.extend_from_slice(&bytes);
                    self.write_input()?;
                }
            }
            // Only whoever ran the container decides that there is no more input.
            Request::EndOfInput if client.is_foreground() => self.end_input()?,
            Request::EndOfInput => {}
            Request::Resize { rows, columns } => {
                if let Some(master) = self.outputs[0].as_ref().filter(|_| self.terminal) {
                    console::resize(master, rows, columns)?;
                }
            }
            Request::Signal(number) => self.signal(number),
            Request::Stop => self.stopped = true,
        }
        Ok(())
    }

    fn signal(&self, number: u8) {
        if let Some(signal) = Signal::from_named_raw(number.into()) {
            // It may have ended already.
            let _: rustix::io::Result<()> = pidfd_send_signal(&self.pidfd, signal);
        } else {
            // Real-time signals have no name, but the runtime takes numbers.
            let _: Result<_> = self.runtime.call("kill").arg(&self.name).arg(number.to_string()).run();
        }
    }

    /// Forgets a client that has gone.
    pub(super) fn dismiss(&mut self, client: &Client) {
        let _: rustix::io::Result<()> = epoll::delete(&self.epoll, client.fd());
        if client.is_foreground() && !self.terminal {
            // As with a shell's pipe, a program that reads from whoever ran it ends with it.
            let _: Result<()> = self.end_input();
        }
        self.door.open(&self.epoll);
        self.adjust();
    }

    /// Watches a client for what can be done with it now.
    pub(super) fn refresh(&self, slot: usize) {
        let Some(client) = self.clients.get(slot).and_then(Option::as_ref) else {
            return;
        };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.takes_input());
        flags.set(EventFlags::OUT, client.has_output());
        let data = EventData::new_u64(FIRST_CLIENT + slot as u64);
        let _: rustix::io::Result<()> = epoll::modify(&self.epoll, client.fd(), data, flags);
        if client.is_foreground() {
            self.adjust();
        }
    }
}
