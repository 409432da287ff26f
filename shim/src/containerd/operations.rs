//! What can be done to a container after its creation.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use containerd_shim_protos::api::{CheckpointTaskRequest, ExecProcessRequest};
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, UnknownValueRef};
use containerd_shim_protos::shim::oci::CheckpointOptions;
use rustix::process::{Signal, pidfd_send_signal};

use super::container::{Container, PID_FILE, quote, run};
use super::log;
use super::process::{Process, Status};
use super::streams::Wanted;
use crate::error::{Context, Error, Kind, Result};
use crate::reap::Exit;
use crate::runtime::kind_of_complaint;

impl Container {
    /// Starts the container's init. Announces it. Returns its pid.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<u32> {
        let _turn = self.turn.lock().await;
        let gate = self.init.gate.lock().await;
        self.init.require("start", &[Status::Created])?;
        if self.checkpoint.is_some() {
            self.restore().await?;
        } else {
            let started = run(self.runtime.call("start").arg(&self.id)).await;
            started.map_err(|error| quote("OCI runtime start failed", &error))?;
        }
        self.init.life().status = Status::Running;
        let pid = self.init.pid();
        let container_id = self.id.clone();
        self.around.events.send(&event::TaskStart { container_id, pid, ..event::TaskStart::default() });
        drop(gate);
        Ok(pid)
    }

    /// Has the runtime restore the container from its checkpoint.
    async fn restore(self: &Arc<Self>) -> Result<()> {
        let Some(checkpoint) = &self.checkpoint else {
            return Ok(());
        };
        let work = match self.options.criu_work_path.as_str() {
            "" => self.bundle.join("work"),
            path => PathBuf::from(path),
        };
        let pid_file = self.bundle.join(PID_FILE);
        let call = self.runtime.call("restore").arg("--image-path").arg(checkpoint).arg("--work-path").arg(work);
        let call = call.arg("--bundle").arg(&self.bundle).arg("--pid-file").arg(&pid_file);
        let call = call.args(["--detach", "--no-subreaper"]).flag("--no-pivot", self.options.no_pivot_root);
        let claim = self.launch(&self.init, call, &pid_file, "OCI runtime restore failed").await?;
        self.remember_cgroup(&claim);
        self.watch_memory();
        self.await_init(claim);
        Ok(())
    }

    /// Adds an exec. Announces it.
    pub(crate) fn add(&self, request: &ExecProcessRequest) -> Result<()> {
        self.init.require("exec", &[Status::Created, Status::Running, Status::Pausing])?;
        let spec = request.spec.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let mut spec: serde_json::Value = serde_json::from_slice(spec).context(|| "exec: read the process spec")?;
        let Some(fields) = spec.as_object_mut() else {
            return Err(Error::invalid("exec: the process spec is not an object"));
        };
        fields.insert("terminal".to_owned(), request.terminal.into());
        let wanted = Wanted {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        self.add_exec(Process::new(&request.exec_id, wanted))?;
        let path = self.spec_file(&request.exec_id);
        if let Err(error) = fs::write(&path, spec.to_string()).context(|| format!("write {}", path.display())) {
            self.remove_exec(&request.exec_id);
            return Err(error);
        }
        self.around.events.send(&event::TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: request.exec_id.clone(),
            ..event::TaskExecAdded::default()
        });
        Ok(())
    }

    /// Where the spec of an exec waits for its start.
    fn spec_file(&self, exec_id: &str) -> PathBuf {
        self.bundle.join(format!("{exec_id}.process.json"))
    }

    fn exec_pid_file(&self, exec_id: &str) -> PathBuf {
        self.bundle.join(format!("{exec_id}.pid"))
    }

    /// Starts an exec. Announces it. Returns its pid.
    pub(crate) async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<u32> {
        let process = self.exec(exec_id)?;
        let gate = process.gate.lock().await;
        process.require("start", &[Status::Created])?;
        self.count_exec()?;
        let (spec, pid_file) = (self.spec_file(exec_id), self.exec_pid_file(exec_id));
        let call = self.runtime.call("exec").arg("--process").arg(&spec).arg("--detach");
        let call = call.arg("--pid-file").arg(&pid_file);
        let launched = self.launch(&process, call, &pid_file, "OCI runtime exec failed").await;
        let _: std::io::Result<()> = fs::remove_file(&spec);
        let claim = match launched {
            Ok(claim) => claim,
            Err(error) => {
                // Whoever waits for it already must not wait for ever.
                process.failed();
                self.uncount_exec();
                return Err(error);
            }
        };
        let pid = claim.pid();
        process.life().status = Status::Running;
        self.around.events.send(&event::TaskExecStarted {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            pid,
            ..event::TaskExecStarted::default()
        });
        drop(gate);
        let container = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = claim.ended().await {
                log::warn(&format!("wait for exec {}: {error}", process.id));
            }
            let exit = claim.collect();
            drop(claim);
            container.announce_exit(&process, exit);
            container.uncount_exec();
        });
        Ok(pid)
    }

    /// Deletes an exec, which must not run.
    pub(crate) async fn delete_exec(&self, exec_id: &str) -> Result<(u32, Option<Exit>)> {
        let process = self.exec(exec_id)?;
        process.require("delete", &[Status::Created, Status::Stopped])?;
        let streams = process.life().streams.take();
        if let Some(streams) = streams
            && !streams.finish().await
        {
            log::warn(&format!("exec {exec_id}: its output was not read to the end in time"));
        }
        for path in [self.spec_file(exec_id), self.exec_pid_file(exec_id)] {
            let _: std::io::Result<()> = fs::remove_file(path);
        }
        process.life().status = Status::Deleted;
        self.remove_exec(exec_id);
        Ok((process.pid(), process.exit()))
    }

    /// Sends a signal to the init, or to every process of the container.
    pub(crate) async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let call = self.runtime.call("kill").flag("--all", all).arg(&self.id).arg(signal.to_string());
        run(call).await.map(drop).map_err(|error| match kind_of_complaint(error.text()) {
            Kind::NotFound if error.text().contains("does not exist") => {
                Error::new(Kind::NotFound, "no such container")
            }
            Kind::NotFound => finished(),
            _ => quote("unknown error after kill", &error),
        })
    }

    /// Sends a signal to an exec.
    pub(crate) fn kill_exec(&self, exec_id: &str, signal: u32) -> Result<()> {
        let process = self.exec(exec_id)?;
        let claim = process.life().claim.clone();
        let Some(claim) = claim else {
            return Err(match process.status() {
                Status::Created => Error::new(Kind::FailedPrecondition, "process not created"),
                _ => finished(),
            });
        };
        let Some(signal) = i32::try_from(signal).ok().and_then(Signal::from_named_raw) else {
            return kill_real_time(claim.pid(), signal);
        };
        match pidfd_send_signal(claim.pidfd(), signal) {
            Err(rustix::io::Errno::SRCH) => Err(finished()),
            other => other.context(|| format!("kill exec {exec_id}")),
        }
    }

    /// Freezes the container. Announces it.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.init.require("pause", &[Status::Running])?;
        self.init.life().status = Status::Pausing;
        let paused = run(self.runtime.call("pause").arg(&self.id)).await;
        let mut life = self.init.life();
        // It may have ended meanwhile.
        if life.status == Status::Pausing {
            life.status = if paused.is_ok() { Status::Paused } else { Status::Running };
        }
        drop(life);
        paused.map_err(|error| quote("OCI runtime pause failed", &error))?;
        let container_id = self.id.clone();
        self.around.events.send(&event::TaskPaused { container_id, ..event::TaskPaused::default() });
        Ok(())
    }

    /// Thaws the container. Announces it.
    pub(crate) async fn resume(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.init.require("resume", &[Status::Paused])?;
        let resumed = run(self.runtime.call("resume").arg(&self.id)).await;
        resumed.map_err(|error| quote("OCI runtime resume failed", &error))?;
        let mut life = self.init.life();
        if life.status == Status::Paused {
            life.status = Status::Running;
        }
        drop(life);
        let container_id = self.id.clone();
        self.around.events.send(&event::TaskResumed { container_id, ..event::TaskResumed::default() });
        Ok(())
    }

    /// Changes the container's resource limits.
    pub(crate) async fn update(&self, resources: &Any) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.init.require("update", &[Status::Created, Status::Running, Status::Paused])?;
        // Only the runtime judges the contents, but it must be JSON to be named in an error.
        let parsed: serde_json::Value =
            serde_json::from_slice(&resources.value).context(|| "update: read resources")?;
        let path = self.bundle.join("resources.json");
        fs::write(&path, parsed.to_string()).context(|| format!("write {}", path.display()))?;
        let updated = run(self.runtime.call("update").arg("--resources").arg(&path).arg(&self.id)).await;
        let _: std::io::Result<()> = fs::remove_file(&path);
        updated.map(drop).map_err(|error| quote("OCI runtime update failed", &error))
    }

    /// Writes a checkpoint of the container. Announces it.
    pub(crate) async fn checkpoint(&self, request: &CheckpointTaskRequest) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.init.require("checkpoint", &[Status::Running, Status::Paused])?;
        let options = request.options.as_ref().map(|any| CheckpointOptions::parse_from_bytes(&any.value)).transpose();
        let options = options.map_err(|error| Error::invalid(format!("decode checkpoint options: {error}")))?;
        let options = options.unwrap_or_default();
        let work = match options.work_path.as_str() {
            "" => self.bundle.join("criu-work"),
            path => PathBuf::from(path),
        };
        let call = self.runtime.call("checkpoint").arg("--image-path").arg(&request.path);
        let call = call.arg("--work-path").arg(&work).flag("--leave-running", !options.exit);
        let call = call.flag("--tcp-established", options.open_tcp);
        let call = call.flag("--ext-unix-sk", options.external_unix_sockets);
        let call = call.flag("--shell-job", options.terminal).flag("--file-locks", options.file_locks);
        let call = parent_path(&options).into_iter().fold(call, |call, parent| call.arg("--parent-path").arg(parent));
        let namespaces = options.empty_namespaces.iter().flat_map(|name| ["--empty-ns", name]);
        let written = run(call.args(namespaces).arg(&self.id)).await;
        if let Err(error) = written {
            let log = self.bundle.join("criu-dump.log");
            let _: std::io::Result<u64> = fs::copy(work.join("dump.log"), &log);
            let line = error.text().lines().next().unwrap_or_default();
            return Err(Error::other(format!("{line} path= {}", log.display())));
        }
        if options.work_path.is_empty() {
            let _: std::io::Result<()> = fs::remove_dir_all(&work);
        }
        self.around.events.send(&event::TaskCheckpointed {
            container_id: self.id.clone(),
            checkpoint: request.path.clone(),
            ..event::TaskCheckpointed::default()
        });
        Ok(())
    }

    /// The pids of all processes in the container, with the exec id of those that have one.
    pub(crate) async fn pids(&self) -> Result<Vec<(u32, Option<String>)>> {
        let listed = run(self.runtime.call("ps").args(["--format", "json", &self.id])).await?;
        let pids: Option<Vec<u32>> = serde_json::from_slice(&listed).context(|| "read the runtime's list of pids")?;
        let execs = self.execs();
        let name = |pid| execs.iter().find(|exec| exec.pid() == pid).map(|exec| exec.id.clone());
        Ok(pids.unwrap_or_default().into_iter().map(|pid| (pid, name(pid))).collect())
    }
}

/// The checkpoint that a further one builds on: field 10, younger than the published messages.
fn parent_path(options: &CheckpointOptions) -> Option<OsString> {
    match options.special_fields.unknown_fields().get(10)? {
        UnknownValueRef::LengthDelimited(path) if !path.is_empty() => Some(OsString::from_vec(path.to_vec())),
        _ => None,
    }
}

/// Sends a signal that has a number only, which safe wrappers of the system call do not take. The pid is of a child that
/// has not been collected: it cannot be anybody else's.
fn kill_real_time(pid: u32, signal: u32) -> Result<()> {
    if !(1..=64).contains(&signal) {
        return Err(Error::invalid(format!("there is no signal {signal}")));
    }
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", "kill -s \"$1\" \"$2\"", "sh", &signal.to_string(), &pid.to_string()]);
    let sent = kill.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if sent.context(|| format!("send signal {signal}: start /bin/sh"))?.success() { Ok(()) } else { Err(finished()) }
}

fn finished() -> Error {
    Error::new(Kind::NotFound, "process already finished")
}
