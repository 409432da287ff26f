//! Waiting in the foreground: signals go on to the container, its terminal is shown, orphans are reaped.

use crate::{systemd::Relay, terminal::Picture};
use libcontainer::{At, Error, Result, Signals, send_signal};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, BorrowedFd},
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus, wait},
};

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;

/// Waits for the end of our child `pid`; returns its exit code, 128 and the number for a signal.
pub(crate) fn foreground(
    pid: Pid,
    pidfd: BorrowedFd<'_>,
    signals: &Signals,
    mut picture: Option<Picture>,
    mut relay: Option<Relay>,
) -> Result<u8> {
    let mut ended = reap(pid)?;
    let mut typing = true;
    let mut showing = picture.is_some();
    // What was written before the end is shown to the end.
    while ended.is_none() || showing {
        let stdin = rustix::stdio::stdin();
        let (mut stdin_at, mut relay_at) = (None, None);
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        if let Some(picture) = &picture {
            let typed = if picture.has_typed() { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::new(picture, if showing { PollFlags::IN | typed } else { PollFlags::empty() }));
            // One buffer full is enough to keep.
            if typing && showing && !picture.has_typed() {
                stdin_at = Some(fds.len());
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
        }
        if let Some(relay) = &relay {
            relay_at = Some(fds.len());
            fds.push(PollFd::new(relay, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            polled => polled.at("poll")?,
        };
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        let is_ready = |at: Option<usize>| at.is_some_and(|at| !ready[at].is_empty());
        if is_ready(relay_at) {
            relay = relay.filter(|relay| {
                // A manager that is gone is no reason to leave the container alone.
                let heard = relay.hear(pid.as_raw_nonzero().get());
                let over = heard.inspect_err(|error| tracing::warn!("{error}")).unwrap_or(true);
                !over
            });
        }
        if let Some(picture) = &mut picture {
            if ready[1].intersects(PollFlags::OUT) {
                picture.write_typed()?;
            }
            if ready[1].intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                showing = picture.show()?;
            }
            if is_ready(stdin_at) {
                typing = picture.read_typed()?;
            }
        }
        while let Some(signal) = signals.next() {
            match signal {
                SIGCHLD => ended = ended.or(reap(pid)?),
                SIGWINCH => {
                    if let Some(picture) = &picture {
                        picture.resize();
                    }
                }
                // It may have ended this moment.
                _ => drop(send_signal(pidfd.as_fd(), signal)),
            }
        }
    }
    ended.ok_or_else(|| Error::other("the process ended unseen"))
}

/// Reaps every child that has ended; returns the code of `pid` if it was among them.
fn reap(pid: Pid) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((ended, status))) if ended == pid => code = Some(exit_code(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(code),
            Err(error) => return Err(error).at("wait"),
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => (128 + signal) as u8,
        (None, None) => 255,
    }
}
