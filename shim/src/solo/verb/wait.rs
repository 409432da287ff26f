//! `shim wait`: waits for a container's end and prints its exit code.

use rustix::event::{PollFd, PollFlags};

use crate::error::{Error, Kind, Result};
use crate::reap::Exit;
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::record::{Ended, open_alive};
use crate::solo::session::Session;
use crate::solo::{relay, say};

/// Waits and prints.
pub(crate) fn wait(layout: &Layout, name: &str) -> Result<()> {
    // One that removes itself may be gone before its end was seen: then there is none of that name.
    let ended = until_ended(&layout.find(name)?).or_else(|error| layout.find(name).and(Err(error)))?;
    say(&ended.code.to_string());
    Ok(())
}

/// Waits for the end of a container, with or without a monitor.
pub(crate) fn until_ended(directory: &Directory) -> Result<Ended> {
    loop {
        let state = match directory.status()? {
            Status::Exited(ended) => {
                directory.await_monitor();
                return Ok(ended);
            }
            Status::Lost => {
                let text = format!("container {}: its monitor was killed, nobody knows how it ended", directory.name);
                return Err(Error::new(Kind::NotFound, text));
            }
            Status::Starting | Status::Restarting(_) => None,
            Status::Running { state, .. } => Some(state),
        };
        if let Some(mut session) = Session::connect(directory, false)? {
            match session.await_end()? {
                Some(ended) => return Ok(ended),
                // It was killed, or has just recorded the end.
                None => continue,
            }
        }
        let Some(state) = state else {
            std::thread::yield_now();
            continue;
        };
        if let Some(pidfd) = open_alive(&state) {
            relay::wait(&mut [PollFd::new(&pidfd, PollFlags::IN)])?;
        }
        if directory.ended()?.is_none() && matches!(directory.status()?, Status::Lost) {
            return Ok(Ended::new(Exit::unknown(), false, &state.started));
        }
    }
}
