//! Two processes: one guards, one builds.
//!
//! ```text
//!   guard                                      builder
//!   claim STORE/tmp/build-ID
//!   unshare the pid namespace, start ------->  PID 1 of it; dies with the guard
//!   wait for it, or for a signal               own mount namespace, own /proc; builds
//!        signal: kill it                       (all containers are in its pid namespace, and end with it)
//!   clear away STORE/tmp/build-ID
//! ```
//! However a build ends, the kernel takes its processes and mounts with it; the guard takes the rest. A guard that is
//! killed leaves a directory, which the next build clears away.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsFd as _;

use super::workspace;
use crate::error::{Error, Result, Step};
use crate::layout::Store;

fn signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set
}

/// Starts the builder and waits for its end; gives its exit code. The builder is this program with the same arguments, and
/// the workspace before them.
pub(crate) fn guard(store: &Store, runtime: Option<&Path>, epoch: Option<&str>) -> Result<u8> {
    let claim = workspace::claim(store, runtime)?;
    let directory = claim.directory.clone();
    signals().thread_block().map_err(std::io::Error::from)?;
    // In a thread: once a pid namespace has lost its first process, who unshared it starts no other, and what is left of
    // the build is cleared away by the runtime.
    let result = std::thread::scope(|scope| scope.spawn(|| watch(&directory, epoch)).join());
    let result = result.unwrap_or_else(|_| Err(Error::other("the watch over the builder failed")));
    workspace::clear(&directory, runtime);
    drop(claim);
    result
}

fn watch(directory: &Path, epoch: Option<&str>) -> Result<u8> {
    let signal = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC).map_err(std::io::Error::from)?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(std::io::Error::from).at("make a pid namespace (building needs root)")?;
    let program = std::env::current_exe().at("the path of imgtool")?;
    let mut command = Command::new(program);
    command.arg("--builder").arg(directory).args(std::env::args_os().skip(1));
    if let Some(epoch) = epoch {
        command.env("SOURCE_DATE_EPOCH", epoch);
    }
    let mut child = command.spawn().at("start the builder")?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| Error::other("no pid"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).at("pidfd_open")?;
    let mut ended_by = None;
    loop {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(signal.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(std::io::Error::from(e)).at("poll"),
        }
        let has = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        if has(&fds[1])
            && let Ok(Some(info)) = signal.read_signal()
            && ended_by.is_none()
        {
            ended_by = Some(info.ssi_signo as u8);
            // Its pid namespace dies with it, and every container of the build.
            let _ = child.kill();
        }
        if has(&fds[0]) {
            break;
        }
    }
    let status = child.wait()?;
    match (ended_by, status.code(), status.signal()) {
        (Some(signal), ..) => Ok(128 + signal),
        (None, Some(code), _) => Ok(code as u8),
        (None, None, signal) => Err(Error::other(format!("the builder was killed by signal {}", signal.unwrap_or(0)))),
    }
}

/// What the builder does first.
pub(crate) fn born() -> Result<()> {
    let parent_died = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(parent_died).at("prctl")?;
    signals().thread_unblock().map_err(std::io::Error::from)?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(std::io::Error::from).at("make a mount namespace")
}
