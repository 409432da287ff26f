//! From a container directory to a running container.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::io::console::{ConsoleSocket, set_nonblocking};
use crate::io::fifo::pipe;
use crate::io::log::Log;
use crate::oom::OomWatch;
use crate::reap;
use crate::runtime::kind_of_start_failure;
use crate::solo::directory::{Directory, private_dir};
use crate::solo::health::Condition;
use crate::solo::record::{Options, State, now, start_ticks};
use crate::solo::sdnotify::Herald;
use crate::solo::verb::rm::forget_in_runtime;

/// Our ends of a container's streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Where the container's input goes: a pipe, or its terminal.
    pub(super) stdin: Option<OwnedFd>,
    /// Where its output comes from: a pipe, or its terminal.
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// A container that has just been started.
#[derive(Debug)]
pub(crate) struct Born {
    pub(super) state: State,
    pub(super) pidfd: OwnedFd,
    pub(super) streams: Streams,
    pub(super) oom: Option<OomWatch>,
}

/// What stays from run to run.
#[derive(Debug)]
pub(crate) struct Home {
    pub(super) log: Log,
    pub(super) listener: UnixListener,
    pub(super) herald: Herald,
}

/// Makes what a container needs besides its runtime.
pub(super) fn settle(directory: &Directory, options: &Options) -> Result<Home> {
    let listener = listen(directory)?;
    let herald = Herald::make(options.sdnotify, directory)?;
    let log = options.log.open(directory, options)?;
    directory.reserve("exit.json")?;
    for former in ["restart.json", "paused"] {
        directory.forget(former)?;
    }
    Ok(Home { log, listener, herald })
}

/// Has the runtime create and start the container. A failure leaves nothing of it.
pub(super) fn bear(directory: &Directory, options: &Options) -> Result<Born> {
    let streams = create(directory, options).inspect_err(|_| {
        // A runtime that was killed at it leaves half a container. The name may also be somebody else's there.
        let _: Result<()> = forget_in_runtime(directory);
    })?;
    start(directory, options, streams).inspect_err(|_| {
        let force = directory.runtime(options).call("delete").args(["--force", &directory.name]);
        let _: Result<_> = force.run();
    })
}

/// Opens the socket for clients, in a directory that only the owner may enter.
fn listen(directory: &Directory) -> Result<UnixListener> {
    let step = || format!("listen on {}", directory.socket().display());
    // We hold the lock, so whatever is there belongs to a monitor that was killed.
    let _: std::io::Result<()> = fs::remove_dir_all(&directory.run);
    private_dir(&directory.run)?;
    let listener = UnixListener::bind(directory.socket()).context(step)?;
    listener.set_nonblocking(true).context(step)?;
    Ok(listener)
}

/// Makes the streams and has the runtime create the container on them.
fn create(directory: &Directory, options: &Options) -> Result<Streams> {
    let runtime = directory.runtime(options);
    let call = runtime.call("create").arg("--bundle").arg(directory.path.join("bundle"));
    let call = call.arg("--pid-file").arg(directory.path.join("pid"));
    let judge = |error: Error| judge(&error, options);
    if options.terminal {
        let socket = ConsoleSocket::open(&directory.run)?;
        call.arg("--console-socket").arg(socket.path()).arg(&directory.name).run().map_err(judge)?;
        let master = socket.receive()?;
        let writer = options.stdin.then(|| master.try_clone()).transpose().context(|| "duplicate the terminal")?;
        return Ok(Streams { stdin: writer, stdout: Some(master), stderr: None });
    }
    let ((stdout, theirs_out), (stderr, theirs_err)) = (pipe()?, pipe()?);
    let mut streams = Streams { stdin: None, stdout: Some(stdout), stderr: Some(stderr) };
    let mut theirs_in = Stdio::null();
    if options.stdin {
        let (reader, writer) = pipe()?;
        theirs_in = reader.into();
        streams.stdin = Some(writer);
    }
    for fd in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten() {
        set_nonblocking(fd)?;
    }
    let call = call.arg(&directory.name).streams(theirs_in, theirs_out.into(), theirs_err.into());
    let mut running = call.spawn()?;
    running.wait()?;
    running.finish().map_err(judge)?;
    Ok(streams)
}

/// Has the runtime start the created container, with a pidfd and a watch over its memory in hand that miss nothing.
fn start(directory: &Directory, options: &Options, streams: Streams) -> Result<Born> {
    let path = directory.path.join("pid");
    let text = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
    let pid = text.trim().parse().map_err(|_| Error::other(format!("{}: {text:?} is not a pid", path.display())))?;
    let pidfd = reap::open(pid)?;
    let oom = Cgroup::of(pid).ok().and_then(|cgroup| OomWatch::open(&cgroup));
    let ticks = start_ticks(pid).ok_or_else(|| Error::other("the container ended before it was started"))?;
    let state = State { pid, start_ticks: ticks, started: now() };
    if options.health.is_some() {
        directory.publish("health.json", &Condition::default())?;
    }
    directory.record("state.json", &state)?;
    let started = directory.runtime(options).call("start").arg(&directory.name).run();
    started.map_err(|error| judge(&error, options))?;
    if let Some(pidfile) = &options.pidfile {
        fs::write(pidfile, pid.to_string()).context(|| format!("write {}", pidfile.display()))?;
    }
    // Until now a former run's end was the latest news.
    directory.forget("exit.json")?;
    Ok(Born { state, pidfd, streams, oom })
}

/// A runtime's complaint, with what it means for the exit code.
fn judge(error: &Error, options: &Options) -> Error {
    let command = options.command.first().map_or("", String::as_str);
    Error::new(kind_of_start_failure(error.text(), command), error.text())
}
