//! The shim as Podman and CRI-O know it: conmon's command line, pipes, files and sockets.
//!
//! The caller starts conmon, which starts a copy of itself that stays ([`stay`]) and leaves. The copy has the runtime
//! make the container ([`birth`]), tells the caller its pid ([`pipes`]), keeps its log and serves who attaches
//! ([`watch`]), and after the end records the status and runs the caller's clean-up ([`farewell`]).

mod birth;
mod client;
mod control;
mod farewell;
mod flags;
mod guests;
mod help;
mod logs;
mod notify;
mod pipes;
mod say;
mod socket;
mod streams;
mod watch;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{SocketType, listen};
use rustix::process::{getpid, set_child_subreaper, setsid};

use self::control::Fifo;
use self::flags::Flags;
use self::logs::Logs;
pub(crate) use self::notify::{Notify, send as notify_host};
use self::pipes::Report;
use self::say::{Say, complain};
use self::socket::Link;
use self::watch::{Doors, End, Manner, Watch};
use crate::descriptors;
use crate::error::{Context, Error, Result};
use crate::io::log::Log;

/// The name, and the first argument, that make the program conmon.
pub(crate) const NAME: &str = "conmon";
/// The first argument of the copy that stays.
pub(crate) const STAY: &str = "conmon-monitor";
/// The first argument of the step between conmon and a runtime that needs to know its own pid.
pub(crate) const LAUNCH: &str = "conmon-launch";

/// The version of conmon whose interface this is: callers refuse what is too old.
const VERSION: &str = "2.1.13";
/// How long clients may take to read what is left before the caller's clean-up runs.
const FAREWELL: Duration = Duration::from_secs(10);
/// What a container that was killed for its age is told to have died of.
const TIMED_OUT: &str = "command timed out";
/// The socket's name in the bundle.
const ATTACH: &str = "attach";
/// How many clients may be waiting to be let in.
const BACKLOG: i32 = 10;
/// The kernel kills last what has this score.
const HARDLY_EVER: &str = "-1000";
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Checks everything, and leaves a copy behind that does it.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let inherited = Inherited::list();
    let words: Vec<OsString> = words.collect();
    begin(&words, inherited).unwrap_or_else(|error| {
        complain("e", error.text());
        ExitCode::FAILURE
    })
}

fn begin(words: &[OsString], inherited: Inherited) -> Result<ExitCode> {
    let flags = Flags::parse(words.iter().cloned())?;
    if flags.version {
        let text = format!("conmon version {VERSION}\ncommit: shim {}", env!("CARGO_PKG_VERSION"));
        let _: io::Result<()> = writeln!(io::stdout(), "{text}");
        return Ok(ExitCode::SUCCESS);
    }
    if flags.help {
        let _: io::Result<()> = io::stdout().write_all(help::HELP.as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    let say = Say::new(&flags)?;
    flags.check()?;
    let logs = logs::open(&flags)?;
    if flags.no_container_partial_message && !logs.drivers.iter().any(|log| matches!(log, Log::Journald(_))) {
        say.warn("--no-container-partial-message has no effect without journald log driver");
    }
    if flags.exec_attach && pipes::borrow(pipes::ATTACH)?.is_none() {
        return Err(Error::invalid("--attach specified but _OCI_ATTACHPIPE was not"));
    }
    if let Some(start) = pipes::borrow(pipes::START)? {
        // Not before the caller has put us where the container's accounts are kept.
        pipes::await_word(&start)?;
    }
    if flags.sync {
        if !logs.passthrough {
            disconnect()?;
        }
        return Ok(stay_with(&flags, logs, &say, inherited));
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).arg(STAY).args(words);
    if !logs.passthrough {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    // Nobody waits for it: it outlives us.
    let copy = command.spawn().context(|| "start the copy that stays")?;
    if let Some(path) = &flags.conmon_pidfile {
        farewell::replace(path, &copy.id().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Stays with the container. Arguments: conmon's own.
pub(crate) fn stay(words: impl Iterator<Item = OsString>) -> ExitCode {
    let inherited = Inherited::list();
    let read = Flags::parse(words).and_then(|flags| Ok((logs::open(&flags)?, Say::new(&flags)?, flags)));
    match read {
        Ok((logs, say, flags)) => stay_with(&flags, logs, &say, inherited),
        Err(error) => {
            complain("e", error.text());
            ExitCode::FAILURE
        }
    }
}

/// Becomes the runtime. Arguments: its command line.
pub(crate) fn launch(words: impl Iterator<Item = OsString>) -> ExitCode {
    complain("e", birth::launch(words).text());
    ExitCode::from(127)
}

/// Descriptors that the caller has left open: sockets of published ports, and others for the runtime to pass on.
struct Inherited(Vec<i32>);

impl Inherited {
    /// To be called before anything of our own is open.
    fn list() -> Self {
        let ours = [pipes::SYNC, pipes::START, pipes::ATTACH].map(|variable| pipes::number(variable).ok().flatten());
        Self(descriptors::inherited().into_iter().filter(|&fd| !ours.contains(&Some(fd))).collect())
    }

    /// Closes them: the ports are free as soon as the container's end is known.
    fn close(self) {
        for fd in self.0 {
            let _: nix::Result<()> = nix::unistd::close(fd);
        }
    }
}

fn stay_with(flags: &Flags, logs: Logs, say: &Say, inherited: Inherited) -> ExitCode {
    ExitCode::from(hold(flags, logs, say, inherited).unwrap_or_else(|error| {
        say.error(error.text());
        1
    }))
}

/// Holds the container from before its birth until after its end. Returns the exit code.
fn hold(flags: &Flags, logs: Logs, say: &Say, inherited: Inherited) -> Result<u8> {
    let [sync, start, attach] = [pipes::SYNC, pipes::START, pipes::ATTACH].map(pipes::take);
    let mut report = Report::new(sync?, flags.api_version, flags.exec);
    let (start, attach) = (start?, attach?);
    let bundle = match &flags.bundle {
        None if flags.exec => None,
        bundle => Some(std::path::absolute(bundle.as_deref().unwrap_or(Path::new(".")))?),
    };
    let prepared = prepare(flags, bundle.as_deref(), logs.passthrough);
    let (signals, doors, _link) = prepared.inspect_err(|error| report.tell(-1, Some(error.text())))?;
    if flags.exec_attach {
        Report::new(attach, flags.api_version, flags.exec).tell(0, None);
        if let Some(start) = start {
            // Or the first output would come before who wants it.
            pipes::await_word(&start)?;
        }
    }
    let born = birth::bear(flags, bundle.as_deref(), logs.passthrough, &signals);
    let born = match born {
        Ok(born) => born,
        Err(error) => {
            report.tell(-1, Some(error.text()));
            leave(flags, bundle.as_deref());
            return Err(error);
        }
    };
    if logs.passthrough {
        disconnect()?;
    }
    if flags.api_version || !flags.exec {
        report.tell(born.pid.into(), None);
    }
    let oom_score = fs::read_to_string(OOM_SCORE).unwrap_or_default();
    // Without the privilege nothing changes.
    let _: io::Result<()> = fs::write(OOM_SCORE, HARDLY_EVER);
    let watched = Watch::new(born, doors, logs.drivers, manner(flags, bundle.as_deref()), &signals, say);
    let mut watched = watched.and_then(|mut watch| Ok((watch.serve()?, watch)));
    let (status, message) = match &watched {
        Ok((End::Exited(exit), _)) => (i64::from(exit.status), None),
        Ok((End::TimedOut, _)) => (-1, Some(TIMED_OUT)),
        Err(_) => (-1, None),
    };
    inherited.close();
    if let Ok((_, watch)) = &watched
        && !flags.no_sync_log
    {
        watch.sync_logs();
    }
    let recorded = farewell::record(flags, status);
    if let Ok((_, watch)) = &mut watched {
        let _: Result<()> = watch.take_leave(Some(FAREWELL));
    }
    if flags.exec {
        report.tell(status, message);
    }
    drop(report);
    // What is started from here on is as killable as conmon was to begin with.
    let _: io::Result<()> = fs::write(OOM_SCORE, oom_score.trim());
    let failed = leave(flags, bundle.as_deref());
    if let Ok((_, watch)) = &mut watched {
        // Somebody who reads slowly still gets everything.
        let _: Result<()> = watch.take_leave(None);
    }
    recorded?;
    watched?;
    Ok(failed.unwrap_or(status as u8))
}

/// What must be there before the container is.
fn prepare(flags: &Flags, bundle: Option<&Path>, passthrough: bool) -> Result<(SignalFd, Doors, Option<Link>)> {
    // A process group leader has a session of its own already.
    let _: rustix::io::Result<_> = setsid();
    set_child_subreaper(Some(getpid())).context(|| "Failed to set as subreaper")?;
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
        set.add(signal);
    }
    set.thread_block().context(|| "block signals")?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
    let signals = signals.context(|| "make a signal descriptor")?;
    let mut doors = Doors::default();
    let mut link = None;
    if let Some(bundle) = bundle {
        if let Some(host) = &flags.sdnotify_socket {
            doors.notify = Some(Notify::make(bundle, host.as_os_str())?);
        }
        if !passthrough {
            link = Link::make(flags, bundle)?;
            let attach = socket::make(bundle, ATTACH, SocketType::SEQPACKET, 0o700)?;
            listen(&attach, BACKLOG).context(|| "listen on the attach socket")?;
            doors.attach = Some(attach);
            for kind in [control::Kind::Control, control::Kind::WindowSize] {
                doors.fifos.push(Fifo::make(bundle, kind)?);
            }
        }
    }
    Ok((signals, doors, link))
}

fn manner(flags: &Flags, bundle: Option<&Path>) -> Manner {
    Manner {
        terminal: flags.terminal,
        leave_stdin_open: flags.leave_stdin_open,
        timeout: u64::try_from(flags.timeout).ok().filter(|&seconds| seconds > 0).map(Duration::from_secs),
        oom_dirs: flags.persist_dir.iter().cloned().chain(bundle.map(PathBuf::from)).collect(),
    }
}

/// Removes the attach socket and runs the caller's clean-up.
fn leave(flags: &Flags, bundle: Option<&Path>) -> Option<u8> {
    if let Some(bundle) = bundle {
        let _: Result<()> = socket::remove(&bundle.join(ATTACH));
    }
    farewell::run_exit_command(flags)
}

/// Lets go of the caller's streams: it may be waiting for their end.
fn disconnect() -> Result<()> {
    let step = || "Failed to disconnect from the caller's streams";
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context(step)?;
    rustix::stdio::dup2_stdin(&null).context(step)?;
    rustix::stdio::dup2_stdout(&null).context(step)?;
    rustix::stdio::dup2_stderr(&null).context(step)
}
