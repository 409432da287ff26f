//! Waiting in an event loop for a journal that does not keep up.

use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::Log;

/// Whether the journal behind some logs is watched for room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    watched: bool,
}

impl Room {
    /// Watches the journals of `logs`, under the name `token`, as long as one of them is behind. `true` means that this
    /// has changed: then the container is to wait, or need not any longer.
    pub(crate) fn follow(&mut self, epoll: &OwnedFd, token: u64, logs: &[Log]) -> bool {
        let waits = logs.iter().any(Log::is_behind);
        if waits == self.watched {
            return false;
        }
        for journal in logs.iter().filter_map(Log::journal) {
            // What cannot be watched would wait for ever; the end of the container settles it.
            let _: rustix::io::Result<()> = if waits {
                epoll::add(epoll, journal, EventData::new_u64(token), EventFlags::OUT)
            } else {
                epoll::delete(epoll, journal)
            };
        }
        self.watched = waits;
        true
    }
}
