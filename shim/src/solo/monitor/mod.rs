//! The small process that stays with a container: it holds the container's streams, collects its init, keeps the log
//! and the record of the end, and serves whoever attaches.
//!
//! `shim run` and `shim start` start it as a program of its own, so that it carries nothing of theirs. It inherits one
//! end of a socket pair as stdin, which makes whoever started it the first client, the container's lock as stdout, and
//! its bundle's as stderr.

mod birth;
mod client;
mod door;
mod guests;
mod serve;
mod streams;
mod vitals;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{getpid, set_child_subreaper, setsid};

use self::client::Client;
use self::serve::Monitor;
use super::directory::Directory;
use super::frames::{Type, failure_payload, start_failure_code};
use super::record::{Ended, Options, Restarted};
use crate::descriptors::close_inherited;
use crate::error::{Context, Kind, Result};
use crate::reap::Exit;
use crate::runtime::kind_of_complaint;

/// How long a container rests before it is run again; the pause doubles each time, up to the longest, …
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// … unless the container had run this long.
const HEALTHY: Duration = Duration::from_secs(10);

/// The first argument that makes the program a monitor.
pub(crate) const VERB: &str = "monitor";

/// Watches one container from before its birth until after its end. Arguments: the container directory, the directory
/// of its sockets.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(directory) = directory(arguments) else {
        return ExitCode::FAILURE;
    };
    match watch(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever started it has been told.
        Err(_) => ExitCode::FAILURE,
    }
}

/// The container that these arguments name.
pub(super) fn directory(mut arguments: impl Iterator<Item = OsString>) -> Option<Directory> {
    let mut path = || arguments.next().map(PathBuf::from);
    let (path, run) = (path()?, path()?);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Some(Directory { name, path, run })
}

fn watch(directory: &Directory) -> Result<()> {
    close_inherited();
    // Neither the end of the starter's session nor its signals must reach us.
    setsid().context(|| "leave the starter's session")?;
    set_child_subreaper(Some(getpid())).context(|| "become a subreaper")?;
    let (starter, locks) = inherit()?;
    let mut starter = Client::new(starter, true)?;
    let options = directory.options();
    let born = options.and_then(|options| {
        let home = birth::settle(directory, &options)?;
        Ok((home, birth::bear(directory, &options)?, options))
    });
    let (home, born, mut options) = match born {
        Ok(born) => born,
        Err(error) => {
            let _: io::Result<()> = std::fs::remove_dir_all(&directory.run);
            starter.tell(Type::Failed, &failure_payload(&error));
            // The pair's buffer is empty, so this does not wait.
            let _: Result<bool> = starter.flush();
            return Err(error);
        }
    };
    let mut started = born.state.started.clone();
    let mut monitor = Monitor::new(directory, &options, home, born, starter)?;
    let mut restarts = 0;
    let mut pause = FIRST_PAUSE;
    let (exit, oom_killed) = loop {
        let begun = Instant::now();
        let (exit, oom_killed) = monitor.serve()?;
        // It may have been updated meanwhile.
        options = directory.options().unwrap_or(options);
        if monitor.is_stopped() || !options.restart.wants(exit.status, restarts) {
            break (exit, oom_killed);
        }
        if begun.elapsed() >= HEALTHY {
            pause = FIRST_PAUSE;
        }
        restarts += 1;
        rest(directory, &options, &Restarted { count: restarts, last: Ended::new(exit, oom_killed, &started) })?;
        if !monitor.rest(pause)? {
            break (exit, oom_killed);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        match birth::bear(directory, &options) {
            Ok(born) => {
                started.clone_from(&born.state.started);
                monitor.renew(born)?;
            }
            Err(error) => {
                monitor.note(&format!("[shim: the container could not be run again: {error}]\n"));
                let status = start_failure_code(error.kind).into();
                break (Exit { status, signal: None, at: SystemTime::now() }, false);
            }
        }
    };
    let payload = bury(directory, &options, &Ended::new(exit, oom_killed, &started));
    // A client that is slow to leave must not keep others from starting the container again, or from using its bundle.
    drop(locks);
    monitor.take_leave(&payload?)
}

/// Makes the runtime forget a run, and says that another one will come.
fn rest(directory: &Directory, options: &Options, restarted: &Restarted) -> Result<()> {
    directory.record("restart.json", restarted)?;
    directory.forget("state.json")?;
    directory.forget("paused")?;
    delete(directory, options);
    Ok(())
}

/// Takes over the starter's end of the socket pair and the locks, so that nothing that is started later has them.
///
/// The container's lock comes last, also when they are dropped: who waits for it finds the bundle free.
fn inherit() -> Result<(UnixStream, [OwnedFd; 2])> {
    let step = || "take over what the starter left";
    let starter: OwnedFd = io::stdin().as_fd().try_clone_to_owned().context(step)?;
    let lock = io::stdout().as_fd().try_clone_to_owned().context(step)?;
    let bundle = io::stderr().as_fd().try_clone_to_owned().context(step)?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context(|| "open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context(step)?;
    rustix::stdio::dup2_stdout(&null).context(step)?;
    rustix::stdio::dup2_stderr(&null).context(step)?;
    Ok((UnixStream::from(starter), [bundle, lock]))
}

/// Records the end and has the runtime forget the container. Clients hear of the end after that: they find it recorded
/// and the runtime's id free. Returns what they are told.
fn bury(directory: &Directory, options: &Options, ended: &Ended) -> Result<Vec<u8>> {
    let recorded = directory.record("exit.json", ended);
    delete(directory, options);
    if recorded.is_err() {
        // Perhaps what the runtime has removed has made room.
        let _: Result<()> = directory.record("exit.json", ended);
    }
    let _: io::Result<()> = std::fs::remove_dir_all(&directory.run);
    if let Some(pidfile) = &options.pidfile {
        let _: io::Result<()> = std::fs::remove_file(pidfile);
    }
    if options.remove {
        let _: Result<()> = directory.remove();
    }
    Ok(serde_json::to_vec(ended)?)
}

/// Has the runtime forget the container, by force if it must be.
fn delete(directory: &Directory, options: &Options) {
    let deleted = directory.runtime(options).call("delete").arg(&directory.name).run();
    if let Err(error) = deleted
        && kind_of_complaint(error.text()) != Kind::NotFound
    {
        let force = directory.runtime(options).call("delete").args(["--force", &directory.name]);
        let _: Result<_> = force.run();
    }
}
