//! The task service: containerd's seventeen calls. The same service answers under its names of version 2 and 3.
//!
//! A call that changes something runs as a task of its own. containerd may hang up or lose patience at any moment; what
//! it has begun is finished all the same, so that no container is left half-made.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, Status as WireStatus, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task, create_task};
use containerd_shim_protos::ttrpc::r#async::{Service, TtrpcContext};
use containerd_shim_protos::ttrpc::{self, Code, get_status};
use rustix::process::Signal;
use tokio::sync::watch;

use super::container::{Container, Surroundings};
use super::events::timestamp;
use super::options::Options;
use super::process::Status;
use super::serve::SocketName;
use super::{flags, log, metrics};
use crate::error::{Error, Kind, Result};

/// The name of the same service before containerd 2.0.
const SERVICE_V2: &str = "containerd.task.v2.Task";

type Reply<T> = ttrpc::Result<T>;

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        let code = match error.kind {
            Kind::NotFound => Code::NOT_FOUND,
            Kind::AlreadyExists => Code::ALREADY_EXISTS,
            Kind::FailedPrecondition => Code::FAILED_PRECONDITION,
            Kind::InvalidArgument => Code::INVALID_ARGUMENT,
            Kind::Other | Kind::NotExecutable | Kind::NoCommand => Code::UNKNOWN,
        };
        Self::RpcStatus(get_status(code, error.text()))
    }
}

/// The containers of this shim.
#[derive(Debug)]
pub(crate) struct TaskService {
    around: Surroundings,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// Ids of containers that are being created.
    reserved: Mutex<BTreeSet<String>>,
    shutdown: watch::Sender<bool>,
    name: Arc<SocketName>,
    /// A sandbox keeps the shim even without containers.
    sandboxed: AtomicBool,
}

/// An id that nobody else may create meanwhile.
struct Reservation(Arc<TaskService>, String);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Runs `operation` to its end even if the caller goes away.
pub(super) async fn complete<T: Send + 'static>(
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Reply<T> {
    let done = tokio::spawn(operation).await;
    Ok(done.unwrap_or_else(|error| Err(Error::other(format!("operation ended early: {error}"))))?)
}

/// What ttrpc sees: a handle of the service.
struct Handle(Arc<TaskService>);

impl TaskService {
    pub(crate) fn new(around: Surroundings, shutdown: watch::Sender<bool>, name: Arc<SocketName>) -> Arc<Self> {
        let (containers, reserved) = (Mutex::new(HashMap::new()), Mutex::new(BTreeSet::new()));
        Arc::new(Self { around, containers, reserved, shutdown, name, sandboxed: AtomicBool::new(false) })
    }

    /// The service under both its names.
    pub(crate) fn register(self: &Arc<Self>) -> HashMap<String, Service> {
        let service = || create_task(Arc::new(Handle(Arc::clone(self))));
        let mut services = service();
        services.extend(service().into_values().map(|same| (SERVICE_V2.to_owned(), same)));
        services
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        containers.get(id).cloned().ok_or_else(|| Error::new(Kind::NotFound, "container not created"))
    }

    /// Notes that a sandbox is there.
    pub(super) fn keep(&self) {
        self.sandboxed.store(true, Ordering::Relaxed);
    }

    /// Ends and deletes all containers, and then the shim.
    pub(super) async fn end(&self) {
        let all = self.containers.lock().unwrap_or_else(PoisonError::into_inner).drain().collect::<Vec<_>>();
        for (id, container) in all {
            let killed = container.kill(Signal::KILL.as_raw().unsigned_abs(), true).await;
            if killed.is_ok() {
                container.init.wait().await;
            }
            if let Err(error) = container.delete().await {
                log::warn(&format!("delete container {id} with its sandbox: {error}"));
            }
        }
        self.go();
    }

    /// Ends the shim.
    fn go(&self) {
        self.name.remove();
        self.shutdown.send_replace(true);
    }

    fn reserve(self: &Arc<Self>, id: &str) -> Result<Reservation> {
        flags::check_id("container id", id)?;
        let exists = || Error::new(Kind::AlreadyExists, format!("container {id} already exists"));
        if self.container(id).is_ok() {
            return Err(exists());
        }
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if !reserved.insert(id.to_owned()) {
            return Err(exists());
        }
        drop(reserved);
        Ok(Reservation(Arc::clone(self), id.to_owned()))
    }

    async fn create(self: Arc<Self>, request: CreateTaskRequest) -> Result<u32> {
        let _reservation = self.reserve(&request.id)?;
        let options = request.options.as_ref().map(Options::from_any).transpose()?.unwrap_or_default();
        let container = Container::create(&request, options, self.around.clone()).await?;
        let pid = container.init.pid();
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).insert(request.id, container);
        Ok(pid)
    }

    async fn delete(self: Arc<Self>, request: DeleteRequest) -> Result<DeleteResponse> {
        let container = self.container(&request.id)?;
        let (pid, exit) = if request.exec_id.is_empty() {
            let ended = container.delete().await?;
            self.containers.lock().unwrap_or_else(PoisonError::into_inner).remove(&request.id);
            ended
        } else {
            container.delete_exec(&request.exec_id).await?
        };
        let exited_at = exit.map(|exit| timestamp(exit.at)).into();
        let exit_status = exit.map_or(0, |exit| exit.status);
        Ok(DeleteResponse { pid, exit_status, exited_at, ..DeleteResponse::default() })
    }

    fn state(&self, request: &StateRequest) -> Result<StateResponse> {
        let container = self.container(&request.id)?;
        container.with_process(&request.exec_id, |process| {
            // A frozen container's processes are all frozen.
            let whole = container.init.status();
            let status = match (whole, process.status()) {
                (Status::Paused | Status::Pausing, Status::Created | Status::Running) => whole,
                (_, own) => own,
            };
            let status = match status {
                Status::Created => WireStatus::CREATED,
                Status::Running => WireStatus::RUNNING,
                Status::Pausing => WireStatus::PAUSING,
                Status::Paused => WireStatus::PAUSED,
                Status::Stopped | Status::Deleted => WireStatus::STOPPED,
            };
            let exit = process.exit();
            Ok(StateResponse {
                id: process.id.clone(),
                bundle: container.bundle.display().to_string(),
                pid: process.pid(),
                status: status.into(),
                stdin: process.wanted.stdin.clone(),
                stdout: process.wanted.stdout.clone(),
                stderr: process.wanted.stderr.clone(),
                terminal: process.wanted.terminal,
                exit_status: exit.map_or(0, |exit| exit.status),
                exited_at: exit.map(|exit| timestamp(exit.at)).into(),
                exec_id: request.exec_id.clone(),
                ..StateResponse::default()
            })
        })
    }

    async fn pids(&self, id: &str) -> Result<PidsResponse> {
        let mut response = PidsResponse::new();
        for (pid, exec_id) in self.container(id)?.pids().await? {
            let mut info = ProcessInfo { pid, ..ProcessInfo::default() };
            if let Some(exec_id) = exec_id {
                let details = ProcessDetails { exec_id, ..ProcessDetails::default() };
                let value = details.write_to_bytes().map_err(|error| Error::other(error.to_string()))?;
                info.info = Some(any("containerd.runc.v1.ProcessDetails", value)).into();
            }
            response.processes.push(info);
        }
        Ok(response)
    }
}

fn any(type_url: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_url.to_owned(), value, ..Any::default() }
}

#[async_trait]
impl Task for Handle {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Reply<StateResponse> {
        Ok(self.0.state(&request)?)
    }

    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Reply<CreateTaskResponse> {
        let pid = complete(Arc::clone(&self.0).create(request)).await?;
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Reply<StartResponse> {
        let container = self.0.container(&request.id)?;
        let pid = complete(async move {
            if request.exec_id.is_empty() {
                container.start().await
            } else {
                container.start_exec(&request.exec_id).await
            }
        });
        Ok(StartResponse { pid: pid.await?, ..StartResponse::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Reply<DeleteResponse> {
        complete(Arc::clone(&self.0).delete(request)).await
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Reply<PidsResponse> {
        Ok(self.0.pids(&request.id).await?)
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        complete(async move { container.pause().await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        complete(async move { container.resume().await }).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        complete(async move { container.checkpoint(&request).await }).await?;
        Ok(Empty::new())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        if request.exec_id.is_empty() {
            complete(async move { container.kill(request.signal, request.all).await }).await?;
        } else {
            container.kill_exec(&request.exec_id, request.signal)?;
        }
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Reply<Empty> {
        self.0.container(&request.id)?.add(&request)?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Reply<Empty> {
        let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        self.0.container(&request.id)?.with_process(&request.exec_id, |process| {
            let life = process.life();
            let resize = |streams: &super::streams::Streams| streams.resize(size(request.height), size(request.width));
            life.streams.as_ref().map_or(Ok(()), resize)
        })?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Reply<Empty> {
        self.0.container(&request.id)?.with_process(&request.exec_id, |process| {
            if let Some(streams) = process.life().streams.as_ref().filter(|_| request.stdin) {
                streams.close_stdin();
            }
            Ok(())
        })?;
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        let resources = request.resources.into_option();
        let resources = resources.ok_or_else(|| Error::invalid("update: no resources given"))?;
        complete(async move { container.update(&resources).await }).await?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Reply<WaitResponse> {
        let container = self.0.container(&request.id)?;
        let exit = if request.exec_id.is_empty() {
            container.init.wait().await
        } else {
            container.exec(&request.exec_id)?.wait().await
        };
        let exited_at = Some(timestamp(exit.at)).into();
        Ok(WaitResponse { exit_status: exit.status, exited_at, ..WaitResponse::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Reply<StatsResponse> {
        let cgroup = self.0.container(&request.id)?.cgroup();
        let cgroup = cgroup.ok_or_else(|| Error::new(Kind::NotFound, "cgroup does not exist"))?;
        Ok(StatsResponse { stats: Some(metrics::collect(&cgroup)?).into(), ..StatsResponse::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Reply<ConnectResponse> {
        let task_pid = self.0.container(&request.id).map_or(0, |container| container.init.pid());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version, ..ConnectResponse::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Reply<Empty> {
        let busy = |busy: bool| busy || !self.0.reserved.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let containers = self.0.containers.lock().unwrap_or_else(PoisonError::into_inner);
        // Others of the pod may still need this shim.
        if !busy(!containers.is_empty()) && !self.0.sandboxed.load(Ordering::Relaxed) {
            self.0.go();
        }
        Ok(Empty::new())
    }
}
