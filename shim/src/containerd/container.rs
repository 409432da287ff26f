//! One container under containerd: its birth, its processes and its end.
//!
//! Order is kept without one big lock. `turn` serializes what changes the container as a whole (start, pause, resume,
//! update, checkpoint, delete). Each process has a gate that puts its start before its end. A kill takes neither, so
//! that nothing can hold it up.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task as event;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;
use tokio::sync::watch;

use super::events::{Events, timestamp};
use super::options::Options;
use super::process::{Process, Status};
use super::rootfs;
use super::spec::owns_pids;
use super::streams::{Owner, Prepared, PreparedTerminal, Streams, Wanted};
use super::watch::{self as readiness, AtWork, Claim};
use super::{flags, log};
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Kind, Result};
use crate::io::console::ConsoleSocket;
use crate::io::file;
use crate::oom::OomWatch;
use crate::reap::Exit;
use crate::runtime::{Call, Runtime, kind_of_complaint};

/// The file in the bundle from which the `delete` helper learns the pid.
pub(crate) const PID_FILE: &str = "init.pid";

/// What all containers of a shim have in common.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) namespace: String,
    pub(crate) events: Events,
    /// A directory of the owner's alone with a short path, for console sockets.
    pub(crate) socket_dir: PathBuf,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) init: Process,
    pub(super) around: Surroundings,
    pub(super) runtime: Runtime,
    pub(super) options: Options,
    pub(super) turn: tokio::sync::Mutex<()>,
    /// A checkpoint to restore at start instead of creating the container.
    pub(super) checkpoint: Option<PathBuf>,
    rootfs: Option<PathBuf>,
    owner: Owner,
    /// Whether the kernel kills the container's processes together with its init.
    owns_pids: bool,
    cgroup: Mutex<Option<Cgroup>>,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    /// Execs that have been started (or are being) and whose end has not been announced.
    running_execs: watch::Sender<usize>,
    /// Set when the init has been collected: nothing more is started then.
    init_ended: Mutex<bool>,
}

/// Runs a call to its end without stopping the event loop.
pub(super) async fn run(call: Call) -> Result<Vec<u8>> {
    let running = call.spawn()?;
    let claim = readiness::claim(running.pid())?;
    claim.ended().await?;
    running.finish()
}

/// Reads a pid file that a runtime has just written.
pub(super) fn read_pid(path: &Path) -> Result<u32> {
    let text = fs::read_to_string(path).context(|| format!("read {}", path.display()))?;
    text.trim().parse().map_err(|_| Error::other(format!("{}: {text:?} is not a pid", path.display())))
}

/// Takes the mounts away again unless the container comes to be.
struct Undo(Option<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.as_deref().map(rootfs::unmount_all) {
            log::warn(&format!("clean up the rootfs: {error}"));
        }
    }
}

impl Container {
    /// Makes the container as far as "created"; its process waits to be started. Announces it.
    pub(crate) async fn create(
        request: &CreateTaskRequest,
        options: Options,
        around: Surroundings,
    ) -> Result<Arc<Self>> {
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(Error::invalid(format!("bundle {:?}: the path must be absolute", request.bundle)));
        }
        let runtime = options.runtime(&around.namespace, &bundle)?;
        let step = || format!("read {}", bundle.join("config.json").display());
        let config = file::read(&bundle.join("config.json")).context(step)?;
        let owns_pids = owns_pids(&config).context(step)?;
        options.save(&bundle)?;

        let rootfs = (!request.rootfs.is_empty()).then(|| rootfs::directory(&bundle)).transpose()?;
        if let Some(path) = &rootfs {
            rootfs::mount_all(&request.rootfs, path)?;
        }
        let mut undo = Undo(rootfs.clone());
        let wanted = Wanted {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let owner = Owner {
            id: request.id.clone(),
            namespace: around.namespace.clone(),
            uid: options.io_uid,
            gid: options.io_gid,
        };
        let container = Arc::new(Self {
            id: request.id.clone(),
            init: Process::new(&request.id, wanted),
            checkpoint: Some(&request.checkpoint).filter(|path| !path.is_empty()).map(PathBuf::from),
            rootfs,
            turn: tokio::sync::Mutex::new(()),
            cgroup: Mutex::new(None),
            execs: Mutex::new(BTreeMap::new()),
            running_execs: watch::Sender::new(0),
            init_ended: Mutex::new(false),
            bundle,
            around,
            runtime,
            options,
            owner,
            owns_pids,
        });
        let gate = container.init.gate.lock().await;
        let claim = match container.checkpoint {
            None => Some(container.bear().await?),
            Some(_) => None,
        };
        undo.0 = None;
        container.announce_creation(request);
        drop(gate);
        if let Some(claim) = claim {
            // From now on, for a started process can run out of memory at once.
            container.watch_memory();
            container.await_init(claim);
        }
        Ok(container)
    }

    fn announce_creation(&self, request: &CreateTaskRequest) {
        let io = event::TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..event::TaskIO::default()
        };
        self.around.events.send(&event::TaskCreate {
            container_id: self.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io).into(),
            checkpoint: request.checkpoint.clone(),
            pid: self.init.pid(),
            ..event::TaskCreate::default()
        });
    }

    /// Has the runtime create the container.
    async fn bear(&self) -> Result<Arc<Claim>> {
        let pid_file = self.bundle.join(PID_FILE);
        let call = self.runtime.call("create").arg("--bundle").arg(&self.bundle).arg("--pid-file").arg(&pid_file);
        let call = call.flag("--no-pivot", self.options.no_pivot_root);
        let call = call.flag("--no-new-keyring", self.options.no_new_keyring);
        let known = || self.runtime.state_dir(&self.id).is_some_and(|dir| dir.exists());
        let known_before = known();
        let born = self.launch(&self.init, call, &pid_file, "OCI runtime create failed").await;
        match &born {
            Ok(claim) => self.remember_cgroup(claim),
            // Half a container may be left, of which nobody else knows. One that was there before is somebody else's.
            Err(_) if !known_before && known() => {
                let _: Result<_> = run(self.runtime.call("delete").args(["--force", &self.id])).await;
            }
            Err(_) => {}
        }
        born
    }

    /// Runs a call that makes `process`, gives it its streams, and takes it over.
    pub(super) async fn launch(
        &self,
        process: &Process,
        call: Call,
        pid_file: &Path,
        failure: &str,
    ) -> Result<Arc<Claim>> {
        let at_work = AtWork::begin();
        let streams = if process.wanted.terminal {
            let prepared = Prepared::terminal(&process.wanted, &self.owner).await?;
            let socket = ConsoleSocket::open(&self.around.socket_dir)?;
            let call = call.arg("--console-socket").arg(socket.path()).arg(&self.id);
            run(call).await.map_err(|error| quote(failure, &error))?;
            serve_terminal(prepared, socket)?
        } else {
            let (prepared, [stdin, stdout, stderr]) = Prepared::pipes(&process.wanted, &self.owner).await?;
            let call = call.arg(&self.id).streams(stdin, stdout, stderr);
            run(call).await.map_err(|error| quote(failure, &error))?;
            prepared.serve()?
        };
        let claim = readiness::claim(read_pid(pid_file)?)?;
        drop(at_work);
        Ok(process.born(claim, streams))
    }

    /// Notes where the init's resources are counted, for it may be gone when somebody asks.
    pub(super) fn remember_cgroup(&self, init: &Claim) {
        *self.cgroup.lock().unwrap_or_else(PoisonError::into_inner) = Cgroup::of(init.pid()).ok();
    }

    /// Announces in the background when the kernel kills in the container for want of memory, until the init has ended.
    pub(super) fn watch_memory(self: &Arc<Self>) {
        let watch = self.cgroup().as_ref().and_then(OomWatch::open);
        let Some(mut watch) = watch.and_then(|watch| readiness::register(watch, Interest::READABLE).ok()) else {
            return;
        };
        let container = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    // The kill may be the end: what is ready first counts first.
                    biased;
                    ready = watch.readable() => match ready {
                        Ok(mut ready) => ready.clear_ready(),
                        Err(_) => return,
                    },
                    _ = container.init.wait() => return,
                }
                if watch.get_mut().check() {
                    let container_id = container.id.clone();
                    container.around.events.send(&event::TaskOOM { container_id, ..event::TaskOOM::default() });
                }
            }
        });
    }

    /// The container's cgroup, once it has one.
    pub(crate) fn cgroup(&self) -> Option<Cgroup> {
        self.cgroup.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds a process by exec id; the empty id is the init.
    pub(crate) fn with_process<T>(&self, exec_id: &str, action: impl FnOnce(&Process) -> Result<T>) -> Result<T> {
        if exec_id.is_empty() { action(&self.init) } else { action(&*self.exec(exec_id)?) }
    }

    /// Finds an exec by its id.
    pub(crate) fn exec(&self, exec_id: &str) -> Result<Arc<Process>> {
        let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || Error::new(Kind::NotFound, format!("process does not exist {exec_id}"));
        execs.get(exec_id).cloned().ok_or_else(missing)
    }

    /// All execs that have not been deleted.
    pub(crate) fn execs(&self) -> Vec<Arc<Process>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds an exec, which waits to be started.
    pub(super) fn add_exec(&self, process: Process) -> Result<()> {
        flags::check_id("exec id", &process.id)?;
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        if execs.contains_key(&process.id) {
            return Err(Error::new(Kind::AlreadyExists, format!("id {}", process.id)));
        }
        execs.insert(process.id.clone(), Arc::new(process));
        Ok(())
    }

    pub(super) fn remove_exec(&self, exec_id: &str) {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(exec_id);
    }

    /// Counts an exec as running, unless the init has ended: then its announcement must stay the last one.
    pub(super) fn count_exec(&self) -> Result<()> {
        if *self.init_ended.lock().unwrap_or_else(PoisonError::into_inner) {
            let text = format!("container {} init process is not running", self.id);
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
        self.running_execs.send_modify(|count| *count += 1);
        Ok(())
    }

    pub(super) fn uncount_exec(&self) {
        self.running_execs.send_modify(|count| *count -= 1);
    }

    /// Waits in the background for the init's end and announces it, after the ends of all execs.
    pub(super) fn await_init(self: &Arc<Self>, claim: Arc<Claim>) {
        let container = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = claim.ended().await {
                log::warn(&format!("wait for container {}: {error}", container.id));
            }
            let gate = container.init.gate.lock().await;
            drop(gate);
            let exit = claim.collect();
            drop(claim);
            *container.init_ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
            if !container.owns_pids {
                let killing = run(container.runtime.call("kill").args(["--all", &container.id, "KILL"])).await;
                if let Err(error) = killing {
                    log::warn(&format!("kill the processes of container {}: {error}", container.id));
                }
            }
            let mut running = container.running_execs.subscribe();
            let _: std::result::Result<_, _> = running.wait_for(|&count| count == 0).await;
            if matches!(container.init.status(), Status::Paused) {
                // What is left in the frozen cgroup can only die when thawed.
                let _: Result<_> = run(container.runtime.call("resume").arg(&container.id)).await;
            }
            container.announce_exit(&container.init, exit);
        });
    }

    /// Records and announces the end of a process.
    pub(super) fn announce_exit(&self, process: &Process, exit: Exit) {
        let pid = process.pid();
        process.ended(exit);
        self.around.events.send(&event::TaskExit {
            container_id: self.id.clone(),
            id: process.id.clone(),
            pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            ..event::TaskExit::default()
        });
    }

    /// Deletes the container, which must not run. Announces it. What never ran has no exit.
    pub(crate) async fn delete(&self) -> Result<(u32, Option<Exit>)> {
        let _turn = self.turn.lock().await;
        self.init.require("delete", &[Status::Created, Status::Stopped])?;
        if self.init.status() == Status::Created {
            self.kill_unstarted().await;
        }
        let streams = self.init.life().streams.take();
        if let Some(streams) = streams
            && !streams.finish().await
        {
            log::warn(&format!("container {}: its output was not read to the end in time", self.id));
        }
        let deletion = run(self.runtime.call("delete").arg(&self.id)).await;
        // After a checkpoint, or a start that failed, the runtime may have forgotten it already.
        if let Err(error) = deletion.as_ref()
            && kind_of_complaint(error.text()) != Kind::NotFound
        {
            return Err(quote("failed to delete task", error));
        }
        if let Some(rootfs) = &self.rootfs {
            rootfs::unmount_all(rootfs)?;
        }
        self.init.life().status = Status::Deleted;
        let (pid, exit) = (self.init.pid(), self.init.exit());
        self.around.events.send(&event::TaskDelete {
            container_id: self.id.clone(),
            pid,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            ..event::TaskDelete::default()
        });
        Ok((pid, exit))
    }

    /// Sends a signal to the init, without the runtime. `false` means that it has ended.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        let claim = self.init.life().claim.clone();
        claim.is_some_and(|claim| pidfd_send_signal(claim.pidfd(), signal).is_ok())
    }

    /// Ends an init that was created but never started, so that every runtime agrees to delete it.
    async fn kill_unstarted(&self) {
        if self.signal(Signal::KILL) {
            self.init.wait().await;
        }
    }
}

fn serve_terminal(prepared: PreparedTerminal, socket: ConsoleSocket) -> Result<Streams> {
    prepared.serve(socket.receive()?)
}

/// A runtime's complaint under the heading that containerd's users know.
pub(super) fn quote(failure: &str, complaint: &Error) -> Error {
    Error::new(complaint.kind, format!("{failure}: {}", complaint.text()))
}
