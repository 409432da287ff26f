//! Starting a monitor for a container directory, and clearing up after one that was killed at it.

use std::env;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::retry_on_intr;
use rustix::process::{WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use super::directory::{Directory, Layout};
use super::frames::Type;
use super::monitor;
use super::relay::{OUT_OF_PATIENCE, Signals};
use super::session::{Birth, Session};
use super::tenancy;
use super::verb::rm::forget_in_runtime;
use crate::error::{Context, Error, Kind, Result};

/// Why a container does not run.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) error: Error,
    /// Whether nothing of it is left but its directory, and nobody else has started it.
    pub(crate) clean: bool,
}

impl From<NotStarted> for Error {
    fn from(failed: NotStarted) -> Self {
        failed.error
    }
}

/// Starts the container of `directory` under a monitor of its own and waits until it runs. The session is the
/// starter's: with `signals` it stays in the foreground, and gets all output from the first byte on.
pub(crate) fn launch(
    layout: &Layout,
    directory: &Directory,
    signals: Option<&Signals>,
) -> std::result::Result<Session, NotStarted> {
    let running = || Error::new(Kind::FailedPrecondition, format!("container {} is running already", directory.name));
    let lock = directory.lock().and_then(|lock| lock.ok_or_else(running));
    let lock = lock.map_err(|error| NotStarted { error, clean: false })?;
    let bundle = directory.options().and_then(|options| {
        check_mounted(directory, &options.bundle)?;
        tenancy::claim(layout, directory, &options)
    });
    let spawned = bundle.and_then(|bundle| spawn(directory, signals.is_some(), lock, bundle));
    let (mut session, monitor) = spawned.map_err(|error| NotStarted { error, clean: true })?;
    match session.await_start(signals) {
        Ok(Birth::Runs) => {
            // From now on its orphans are for the machine's init, as those of any daemon.
            let _: rustix::io::Result<()> = set_child_subreaper(None);
            Ok(session)
        }
        Ok(Birth::Failed(error)) => Err(NotStarted { error, clean: true }),
        Ok(Birth::NotAwaited) => {
            let text = format!("{OUT_OF_PATIENCE}: container {} is still being made", directory.name);
            Err(NotStarted { error: Error::other(text), clean: false })
        }
        Err(error) => Err(abandon(directory, monitor, &error)),
    }
}

/// A restart of the machine unmounts the root file system of imgtool's bundles (its README.md, "Contract: the bundle"). What is
/// below has no command to run, which would be all that anybody is told. Those of an ordinary user have a mount for the runtime to
/// make instead.
fn check_mounted(directory: &Directory, bundle: &Path) -> Result<()> {
    let root = bundle.join("rootfs");
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let looks_unmounted =
        || bundle.join("overlay/upper").is_dir() && device(&root).is_some_and(|root| Some(root) == device(bundle));
    let is_for_the_runtime = || {
        let config = directory.config()?;
        let mounts = config["mounts"].as_array();
        Ok::<_, Error>(mounts.into_iter().flatten().any(|mount| mount["destination"] == "/"))
    };
    if looks_unmounted() && !is_for_the_runtime()? {
        let (root, bundle) = (root.display(), bundle.display());
        let text =
            format!("{root} is not mounted, as after a restart of the machine: `imgtool mount {bundle}` does it");
        return Err(Error::new(Kind::FailedPrecondition, text));
    }
    Ok(())
}

fn spawn(directory: &Directory, foreground: bool, lock: OwnedFd, bundle: Option<OwnedFd>) -> Result<(Session, Child)> {
    let (ours, theirs) = UnixStream::pair().context(|| "make a connection for the monitor")?;
    let mut session = Session::over(ours);
    session.send(Type::Hello, &[u8::from(foreground)])?;
    // If the monitor is killed, the runtime that it has called becomes our child: see `await_calls`.
    set_child_subreaper(Some(getpid())).context(|| "become a subreaper")?;
    let executable = env::current_exe().context(|| "find my own executable")?;
    let mut command = Command::new(executable);
    command.arg0("shim").arg(monitor::VERB).arg(&directory.path).arg(&directory.run).current_dir("/");
    command.stdin(OwnedFd::from(theirs)).stdout(lock).stderr(bundle.map_or_else(Stdio::null, Stdio::from));
    // Nobody waits for it once the container runs: it outlives us, or ends right before us.
    let monitor = command.spawn().context(|| "start the container's monitor")?;
    Ok((session, monitor))
}

/// Clears up after a monitor that has hung up without a word.
fn abandon(directory: &Directory, monitor: Child, error: &Error) -> NotStarted {
    match clear(directory, monitor) {
        Ok(()) => {
            let text = "the container's monitor was killed before the container ran: nothing runs, try again";
            NotStarted { error: Error::other(text), clean: true }
        }
        Err(left) => {
            let name = &directory.name;
            let text = format!("{error}; clear up after it: {left} (shim rm -f {name} tries that again)");
            NotStarted { error: Error::other(text), clean: false }
        }
    }
}

fn clear(directory: &Directory, mut monitor: Child) -> Result<()> {
    // It may have hung up and live on. Its lock is free for certain only once it has been collected.
    let ended = monitor.kill().and_then(|()| monitor.wait());
    ended.context(|| "end the monitor")?;
    // Nobody may start the container anew meanwhile: theirs would be deleted.
    let Some(_lock) = directory.lock()? else {
        let text = format!("container {} was started by somebody else", directory.name);
        return Err(Error::new(Kind::FailedPrecondition, text));
    };
    await_calls(directory)?;
    forget_in_runtime(directory).inspect_err(|_| {
        // The end of a former run would hide what is left of this one.
        let _: Result<()> = directory.forget("exit.json");
    })
}

/// Waits for the runtime that the monitor had called when it was killed. A `create` at work would make the container
/// right after we had it deleted.
fn await_calls(directory: &Directory) -> Result<()> {
    while calls_at_work(directory)? {
        // Whoever ended, somebody else may be left: look again.
        match retry_on_intr(|| waitid(WaitId::All, WaitIdOptions::EXITED)) {
            Ok(_) | Err(rustix::io::Errno::CHILD) => {}
            Err(errno) => return Err(errno).context(|| "wait for the runtime"),
        }
    }
    Ok(())
}

/// Whether an orphan of the monitor's is a runtime at work for this container: its `--log` is in our directory. The
/// container's init may still bear the runtime's command line until it is started.
fn calls_at_work(directory: &Directory) -> Result<bool> {
    let children = fs::read_to_string("/proc/thread-self/children").context(|| "list the monitor's orphans")?;
    let init = fs::read_to_string(directory.path.join("pid")).unwrap_or_default();
    let log = directory.path.join("runtime-");
    Ok(children.split_ascii_whitespace().filter(|&pid| pid != init.trim()).any(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word.starts_with(log.as_os_str().as_bytes()))
    }))
}
