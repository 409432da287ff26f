//! What happens to a container after its birth: start, signals, pause, deletion.

use crate::{
    birth,
    error::{At, Error, Kind, Result},
    outside::{
        cgroup::{Cgroup, Mode},
        hooks::{self, OciState},
    },
    process,
    spec::{Hooks, Spec},
    store::{Slot, State},
    sys,
};
use rustix::fd::AsFd;
use std::fmt;

/// The status that users see; runc's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Init waits for `start`.
    Created,
    /// Init runs the program.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// Init is gone.
    Stopped,
}

impl Status {
    /// Derived from the process, the start pipe and the cgroup: nothing that could be out of date is stored.
    pub fn of(slot: &Slot, state: &State) -> Self {
        if !process::is_alive(state.pid, state.start_time) {
            Self::Stopped
        } else if slot.waits_for_start() && birth::is_watched(slot.dir()) {
            Self::Created
        } else if Cgroup::open(&state.cgroup.freezer()).and_then(|cgroup| cgroup.is_frozen()).unwrap_or(false) {
            Self::Paused
        } else {
            Self::Running
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The state of an existing, whole container.
///
/// # Errors
/// [`Kind::NotFound`], also while it is being made.
pub fn load(slot: &Slot) -> Result<State> {
    slot.load()?.ok_or_else(|| Error::new(Kind::NotFound, "container does not exist"))
}

/// Runs the program of a created container, then the poststart hooks. `prepare` comes before: nobody else changes the container
/// meanwhile. Returns what it returned.
pub fn start<T>(slot: &Slot, prepare: impl FnOnce(&State) -> Result<T>) -> Result<T> {
    slot.lock()?;
    let state = load(slot)?;
    match Status::of(slot, &state) {
        Status::Created => {}
        Status::Stopped => return Err(Error::new(Kind::NotRunning, "cannot start a container that has stopped")),
        Status::Running | Status::Paused => return Err(Error::other("cannot start an already running container")),
    }
    let prepared = prepare(&state)?;
    open_door(slot, &state).map(|()| prepared)
}

/// The same for a container that the caller has just made, of which there is nothing to find out.
pub fn start_new<T>(slot: &Slot, state: &State, prepare: impl FnOnce(&State) -> Result<T>) -> Result<T> {
    slot.lock()?;
    let prepared = prepare(state)?;
    open_door(slot, state).map(|()| prepared)
}

/// The container runs, and others may change it again: whoever started it may wait for its end now.
fn open_door(slot: &Slot, state: &State) -> Result<()> {
    let opened = birth::start(slot).and_then(|()| run_poststart(slot, state));
    slot.unlock()?;
    opened
}

fn run_poststart(slot: &Slot, state: &State) -> Result<()> {
    let Some(hooks) = late_hooks(slot, state)? else { return Ok(()) };
    let oci = birth::oci_state(state, "running");
    // A container whose poststart hook fails does not go on (runtime-spec `runtime.md`, "Lifecycle").
    hooks::run("poststart", &hooks.poststart, &oci, Some(&state.bundle)).inspect_err(|_| {
        if let Err(error) = kill(slot, state, libc::SIGKILL, false) {
            tracing::warn!("kill after the failed hook: {error}");
        }
    })
}

/// Sends `signal` (any number; 0 asks whether it lives) to init, or with `all` to every process of the container.
pub fn kill(slot: &Slot, state: &State, signal: i32, all: bool) -> Result<()> {
    if all {
        return Cgroup::open(&state.cgroup)?.signal_all(signal);
    }
    let pidfd = process::open(state.pid, state.start_time);
    // Without a pid namespace of its own the rest would live on, and does so when init is gone.
    if signal == libc::SIGKILL && !state.own_pid_namespace {
        let cgroup = Cgroup::open(&state.cgroup)?;
        if pidfd.is_ok() || !cgroup.pids()?.is_empty() {
            return cgroup.kill_all();
        }
    }
    let pidfd = pidfd?;
    sys::send_signal(pidfd.as_fd(), signal).at_with(|| format!("send signal {signal} to {}", slot.id()))?;
    if signal == libc::SIGKILL && state.cgroup.mode == Mode::V1 {
        // What is frozen by v1 does not die.
        let cgroup = Cgroup::open(&state.cgroup.freezer())?;
        if cgroup.is_frozen().unwrap_or(false) {
            cgroup.thaw()?;
        }
    }
    Ok(())
}

/// Stops all processes until [`resume`].
pub fn pause(slot: &Slot) -> Result<()> {
    slot.lock()?;
    let state = load(slot)?;
    match Status::of(slot, &state) {
        Status::Running | Status::Created => Cgroup::open(&state.cgroup)?.freeze(),
        status => Err(Error::new(Kind::NotRunning, format!("container not running: {status}"))),
    }
}

/// Ends a pause.
pub fn resume(slot: &Slot) -> Result<()> {
    slot.lock()?;
    let state = load(slot)?;
    match Status::of(slot, &state) {
        Status::Paused => Cgroup::open(&state.cgroup)?.thaw(),
        status => Err(Error::other(format!("container not paused: {status}"))),
    }
}

/// Removes a container and all that belongs to it. A running one only with `force`, which kills it first; with `force`
/// also what a creator that was killed has left.
pub fn delete(slot: &Slot, force: bool) -> Result<()> {
    slot.lock()?;
    let loaded = match slot.load_any() {
        Err(error) if force => {
            tracing::warn!(
                "{error}: only the container's directory is removed, its processes and cgroup are not known"
            );
            return slot.remove();
        }
        loaded => loaded?,
    };
    let Some(state) = loaded else {
        return if force { slot.remove() } else { Err(Error::new(Kind::NotFound, "container does not exist")) };
    };
    if !state.made && !force {
        return Err(Error::new(Kind::NotFound, "container does not exist"));
    }
    let status = Status::of(slot, &state);
    match status {
        Status::Stopped => {}
        Status::Created => end(slot, &state)?,
        Status::Running | Status::Paused if force => end(slot, &state)?,
        Status::Running | Status::Paused => {
            return Err(Error::other(format!("cannot delete container {} that is not stopped: {status}", slot.id())));
        }
    }
    destroy(slot, &state)
}

/// Kills init and waits for it to be gone.
fn end(slot: &Slot, state: &State) -> Result<()> {
    let pidfd = match process::open(state.pid, state.start_time) {
        Err(error) if error.kind() == Kind::NotRunning => return Ok(()),
        opened => opened?,
    };
    match kill(slot, state, libc::SIGKILL, false) {
        Err(error) if error.kind() == Kind::NotRunning => {}
        killed => killed?,
    }
    process::wait_gone(pidfd.as_fd())
}

fn destroy(slot: &Slot, state: &State) -> Result<()> {
    let hooks = late_hooks(slot, state);
    let cgroup = &state.cgroup;
    if !state.owns_cgroup {
        // Its creator died before it found out whether the cgroup is another container's: what lives in it is not ours. A scope
        // without processes may be there, or come only now, and if it has failed it stays.
        if let Err(error) = cgroup.remove().and_then(|()| cgroup.stop_unit()).and_then(|()| cgroup.remove()) {
            tracing::warn!("leave the cgroup as it is: {error}");
        }
        return slot.remove();
    }
    if !state.own_pid_namespace || !state.made {
        Cgroup::open(cgroup)?.kill_all()?;
    }
    match cgroup.remove() {
        // Processes that outlived init, by joining the cgroup from elsewhere.
        Err(error) if error.errno() == Some(libc::EBUSY) => {
            Cgroup::open(cgroup)?.kill_all().and_then(|()| cgroup.remove())?;
        }
        removed => removed?,
    }
    cgroup.stop_unit()?;
    if let Some(rdt) = &state.rdt {
        rdt.remove()?;
    }
    slot.remove()?;
    if let Some(hooks) = hooks? {
        let oci = OciState { pid: 0, ..birth::oci_state(state, "stopped") };
        // The container is gone: a failure is told, and changes nothing (runtime-spec `runtime.md`, "Lifecycle").
        if let Err(error) = hooks::run("poststop", &hooks.poststop, &oci, Some(&state.bundle)) {
            tracing::warn!("{error}");
        }
    }
    Ok(())
}

fn late_hooks(slot: &Slot, state: &State) -> Result<Option<Hooks>> {
    if !state.late_hooks {
        return Ok(None);
    }
    Ok(Some(Spec::parse(&slot.config()?)?.hooks))
}
