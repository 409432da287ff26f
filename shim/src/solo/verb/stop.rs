//! `shim stop`: asks a container to end, and makes it end when it does not listen.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::record::open_alive;
use crate::solo::verb::{kill, pause, rm, wait};
use crate::solo::{say, signal};

const KILL: u8 = 9;

/// Stops a container; one that has ended already is stopped enough.
pub(crate) fn stop(layout: &Layout, name: &str, seconds: Option<u32>) -> Result<()> {
    halt(layout, name, seconds)?;
    say(name);
    Ok(())
}

/// The same without a word.
pub(super) fn halt(layout: &Layout, name: &str, seconds: Option<u32>) -> Result<()> {
    let directory = layout.find(name)?;
    let options = directory.options()?;
    let seconds = seconds.unwrap_or(options.stop_timeout);
    match directory.status()? {
        Status::Exited(_) => directory.await_monitor(),
        Status::Lost => {}
        Status::Starting => {
            return Err(Error::new(Kind::FailedPrecondition, format!("container {name} is just being started")));
        }
        Status::Restarting(_) => {
            forbid(&directory);
            wait::until_ended(&directory)?;
        }
        Status::Running { state, watched } => {
            if let Some(pidfd) = open_alive(&state) {
                kill::end(&directory, signal::parse(&options.stop_signal)?)?;
                // What is frozen hears nothing.
                pause::thaw(&directory);
                if !ends_within(&pidfd, seconds)? {
                    kill::send(&directory, KILL)?;
                }
            } else {
                // It has just ended. Its monitor may be about to run it again.
                forbid(&directory);
            }
            finish(&directory, watched)?;
        }
    }
    Ok(())
}

/// Has the monitor not run the container again, and end what it may have run meanwhile. One that is leaving needs not be told.
fn forbid(directory: &Directory) {
    let _: Result<bool> = kill::end_by_monitor(directory, KILL);
}

/// Waits until the end is recorded. Without a monitor, the runtime must be told to forget the container.
fn finish(directory: &Directory, watched: bool) -> Result<()> {
    let ended = wait::until_ended(directory);
    if watched && ended.is_ok() {
        return Ok(());
    }
    rm::forget_in_runtime(directory)
}

fn ends_within(pidfd: &OwnedFd, seconds: u32) -> Result<bool> {
    let timeout = Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        // Only stopping and continuing us interrupts: do not lose patience earlier than said.
        Err(Errno::INTR) => ends_within(pidfd, seconds),
        Err(errno) => Err(errno).context(|| "wait for the container's end"),
    }
}
