//! One health check of a container, as a program of its own: it runs the check's command in the container, ends it when
//! it takes too long, and records what came of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{getpid, set_child_subreaper, setsid};

use super::directory::Directory;
use super::health::{Health, MAX_OUTPUT, Outcome};
use super::record::{Options, State, now};
use super::verb::exec::{self, Begun};
use super::{monitor, offspring};
use crate::cli::Exec;
use crate::descriptors::close_inherited;
use crate::error::{Context, Result};
use crate::io::events::timespec;
use crate::io::time;
use crate::reap::{self, Exit};

/// The first argument that makes the program a check.
pub(crate) const VERB: &str = "health-check";

/// Checks once. Arguments: as a monitor's.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(directory) = monitor::directory(arguments) else {
        return ExitCode::FAILURE;
    };
    close_inherited();
    match check(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn check(directory: &Directory) -> Result<()> {
    setsid().context(|| "leave the monitor's session")?;
    set_child_subreaper(Some(getpid())).context(|| "become a subreaper")?;
    let options = directory.options()?;
    // Frozen, it could not answer.
    let (Some(health), Some(state), false) = (&options.health, directory.state()?, directory.is_paused()) else {
        return Ok(());
    };
    let start = now();
    let (exit_code, output) = match run(directory, &options, &state, health) {
        Ok(result) => result,
        Err(error) => (-1, error.text().to_owned()),
    };
    let outcome = Outcome { start, end: now(), exit_code, output };
    // What ended with the container tells nothing about the next run.
    if directory.state()?.is_none_or(|now| now.start_ticks != state.start_ticks) {
        return Ok(());
    }
    let mut condition = directory.condition()?.unwrap_or_default();
    condition.add(outcome, health, age(&state));
    directory.publish("health.json", &condition)
}

/// How long the container has been running.
pub(super) fn age(state: &State) -> Duration {
    let started = time::parse(&state.started);
    started.and_then(|started| SystemTime::now().duration_since(started).ok()).unwrap_or_default()
}

/// Runs the command. Returns its exit code, -1 if it had to be ended, and the beginning of its output.
fn run(directory: &Directory, options: &Options, state: &State, health: &Health) -> Result<(i32, String)> {
    let command = Exec { name: directory.name.clone(), command: health.command(), ..Exec::default() };
    let deadline = Instant::now() + health.timeout();
    let Begun { pid, pidfd, streams } = exec::begin(directory, options, &command, state.pid)?;
    let mut outputs: BTreeMap<u8, OwnedFd> = [(0, streams.stdout), (1, streams.stderr)]
        .into_iter()
        .filter_map(|(number, output)| Some((number, output?)))
        .collect();
    let mut said = Vec::new();
    let mut exit = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && exit.is_none() {
            // What it has left in the background would only be more with each check.
            offspring::end(pid);
            let text = format!("Health check exceeded timeout ({:?})", health.timeout());
            return Ok((-1, text));
        }
        for output in [0, 1] {
            if outputs.get(&output).is_some_and(|fd| drain(fd, &mut said)) {
                outputs.remove(&output);
            }
        }
        // What the command has left behind may hold its output open for ever.
        if let Some(exit) = exit {
            let Exit { status, .. } = exit;
            return Ok((i32::try_from(status).unwrap_or(-1), String::from_utf8_lossy(&said).into_owned()));
        }
        let mut fds: Vec<_> = outputs.values().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        fds.push(PollFd::new(&pidfd, PollFlags::IN));
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "wait for the check"),
        }
        exit = reap::collect(pidfd.as_fd())?;
    }
}

/// Reads what is there, and keeps the beginning. `true` means that nothing will follow.
fn drain(output: &OwnedFd, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0_u8; MAX_OUTPUT];
    loop {
        match rustix::io::read(output, &mut buffer[..]) {
            Ok(0) => return true,
            Ok(count) => {
                let room = MAX_OUTPUT - said.len();
                said.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
}
