//! The sandbox service: a pod as containerd's `shim` sandbox controller knows it.
//!
//! A sandbox is a process that holds the namespaces that the pod's containers share. Whoever made the bundle may bring a
//! configuration and a root file system for it; otherwise it is this very binary ([`super::pause`]) in an empty root, for
//! which no image is needed. Either way the runtime makes it, like any container, but no task call and no event knows it.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest, PlatformResponse,
    SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse, ShutdownSandboxRequest,
    ShutdownSandboxResponse, StartSandboxRequest, StartSandboxResponse, StopSandboxRequest, StopSandboxResponse,
    WaitSandboxRequest, WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::{Sandbox as SandboxApi, create_sandbox};
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::r#async::{Service, TtrpcContext};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::container::{Container, Surroundings};
use super::events::{Events, timestamp};
use super::metrics;
use super::options::Options;
use super::pod::{PAUSE, Pod, ROOT};
use super::process::Status;
use super::task::{TaskService, complete};
use crate::error::{Context, Error, Kind, Result};

/// CRI's words for the state of a sandbox.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";
/// The type under which a configuration travels, as JSON.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

type Reply<T> = ttrpc::Result<T>;

/// The sandbox of this shim: at most one.
pub(crate) struct SandboxService {
    around: Surroundings,
    tasks: Arc<TaskService>,
    sandbox: Mutex<Slot>,
}

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    /// Being created.
    Taken,
    Made(Arc<Sandbox>),
}

struct Sandbox {
    /// The process that holds the namespaces.
    holder: Arc<Container>,
    created: SystemTime,
}

/// Gives the slot back unless the sandbox comes to be.
struct Reservation<'a>(&'a Mutex<Slot>, bool);

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.1 {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        }
    }
}

impl SandboxService {
    pub(crate) fn new(around: &Surroundings, tasks: Arc<TaskService>) -> Arc<Self> {
        let around = Surroundings { events: Events::nowhere(), ..around.clone() };
        Arc::new(Self { around, tasks, sandbox: Mutex::new(Slot::Empty) })
    }

    pub(crate) fn register(self: &Arc<Self>) -> HashMap<String, Service> {
        create_sandbox(Arc::new(Handle(Arc::clone(self))))
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        match &*self.sandbox.lock().unwrap_or_else(PoisonError::into_inner) {
            Slot::Made(sandbox) if sandbox.holder.id == id => Ok(Arc::clone(sandbox)),
            _ => Err(Error::new(Kind::NotFound, format!("sandbox {id} does not exist"))),
        }
    }

    fn reserve(&self) -> Result<Reservation<'_>> {
        let mut slot = self.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*slot, Slot::Empty) {
            return Err(Error::new(Kind::AlreadyExists, "this shim has a sandbox already"));
        }
        *slot = Slot::Taken;
        Ok(Reservation(&self.sandbox, false))
    }

    async fn create(self: Arc<Self>, request: CreateSandboxRequest) -> Result<()> {
        super::flags::check_id("sandbox id", &request.sandbox_id)?;
        let mut reservation = self.reserve()?;
        let pod = Pod::from_any(request.options.as_ref())?;
        let bundle = PathBuf::from(&request.bundle_path);
        // The helper that started this shim has kept the runtime's options there.
        let options = Options::load(&bundle)?;
        if !bundle.join("config.json").exists() {
            write_bundle(&bundle, &pod, &request, &self.around.namespace, options.systemd_cgroup)?;
        }
        let create = CreateTaskRequest {
            id: request.sandbox_id,
            bundle: request.bundle_path,
            rootfs: request.rootfs,
            ..CreateTaskRequest::default()
        };
        let holder = Container::create(&create, options, self.around.clone()).await?;
        let sandbox = Sandbox { holder, created: SystemTime::now() };
        *self.sandbox.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Made(Arc::new(sandbox));
        reservation.1 = true;
        self.tasks.keep();
        Ok(())
    }

    /// Ends the sandbox, the containers in it, and the shim.
    async fn shutdown(self: Arc<Self>, id: String) -> Result<()> {
        // A sandbox that could not be created is shut down too: then only the shim must go.
        if let Ok(sandbox) = self.sandbox(&id) {
            sandbox.stop(Duration::ZERO).await;
            sandbox.holder.delete().await?;
            *self.sandbox.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
        }
        self.tasks.end().await;
        Ok(())
    }
}

impl Sandbox {
    /// The holder's configuration.
    fn config(&self) -> Result<Value> {
        let path = self.holder.bundle.join("config.json");
        let text = fs::read(&path).context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).context(|| format!("read {}", path.display()))
    }

    fn is_running(&self) -> bool {
        matches!(self.holder.init.status(), Status::Running | Status::Paused | Status::Pausing)
    }

    /// Asks the holder to go, and after `patience` makes it go.
    async fn stop(&self, patience: Duration) {
        if self.is_running() && !patience.is_zero() && self.holder.signal(Signal::TERM) {
            let _: std::result::Result<_, _> = timeout(patience, self.holder.init.wait()).await;
        }
        if self.holder.signal(Signal::KILL) {
            self.holder.init.wait().await;
        }
    }
}

/// Makes the bundle of a holder that is this very binary.
fn write_bundle(
    bundle: &Path,
    pod: &Pod,
    request: &CreateSandboxRequest,
    namespace: &str,
    systemd: bool,
) -> Result<()> {
    let executable = std::env::current_exe().context(|| "find my own executable")?;
    let config = pod.config(&request.sandbox_id, namespace, &request.netns_path, &executable, systemd);
    let root = bundle.join(ROOT);
    // The root is read-only to the runtime: what is mounted on must be there.
    for dir in [root.clone(), root.join("proc")] {
        DirBuilder::new().recursive(true).mode(0o755).create(&dir).context(|| format!("make {}", dir.display()))?;
    }
    let files = [(root.join(&PAUSE[1..]), String::new()), (bundle.join("config.json"), config.to_string())];
    for (path, text) in files {
        fs::write(&path, text).context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// What ttrpc sees: a handle of the service.
struct Handle(Arc<SandboxService>);

#[async_trait]
impl SandboxApi for Handle {
    async fn create_sandbox(&self, _: &TtrpcContext, request: CreateSandboxRequest) -> Reply<CreateSandboxResponse> {
        complete(Arc::clone(&self.0).create(request)).await?;
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(&self, _: &TtrpcContext, request: StartSandboxRequest) -> Reply<StartSandboxResponse> {
        let sandbox = self.0.sandbox(&request.sandbox_id)?;
        let created_at = Some(timestamp(sandbox.created)).into();
        let holder = Arc::clone(&sandbox.holder);
        let pid = complete(async move { holder.start().await }).await?;
        let value = sandbox.config()?.to_string().into_bytes();
        let spec = Some(Any { type_url: SPEC_TYPE.to_owned(), value, ..Any::default() }).into();
        Ok(StartSandboxResponse { pid, created_at, spec, ..StartSandboxResponse::default() })
    }

    async fn platform(&self, _: &TtrpcContext, request: PlatformRequest) -> Reply<PlatformResponse> {
        self.0.sandbox(&request.sandbox_id)?;
        let mut response = PlatformResponse::new();
        let platform = response.platform.mut_or_insert_default();
        platform.os.push_str("linux");
        platform.architecture.push_str(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        });
        Ok(response)
    }

    async fn stop_sandbox(&self, _: &TtrpcContext, request: StopSandboxRequest) -> Reply<StopSandboxResponse> {
        let sandbox = self.0.sandbox(&request.sandbox_id)?;
        let patience = Duration::from_secs(request.timeout_secs.into());
        let stopped = async move {
            sandbox.stop(patience).await;
            Ok(())
        };
        complete(stopped).await?;
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(&self, _: &TtrpcContext, request: WaitSandboxRequest) -> Reply<WaitSandboxResponse> {
        let exit = self.0.sandbox(&request.sandbox_id)?.holder.init.wait().await;
        let exited_at = Some(timestamp(exit.at)).into();
        Ok(WaitSandboxResponse { exit_status: exit.status, exited_at, ..WaitSandboxResponse::default() })
    }

    async fn sandbox_status(&self, _: &TtrpcContext, request: SandboxStatusRequest) -> Reply<SandboxStatusResponse> {
        let sandbox = self.0.sandbox(&request.sandbox_id)?;
        let mut response = SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: sandbox.holder.init.pid(),
            state: if sandbox.is_running() { READY } else { NOT_READY }.to_owned(),
            created_at: Some(timestamp(sandbox.created)).into(),
            exited_at: sandbox.holder.init.exit().map(|exit| timestamp(exit.at)).into(),
            ..SandboxStatusResponse::default()
        };
        if request.verbose {
            let info = json!({
                "pid": response.pid,
                "processStatus": sandbox.holder.init.status().name(),
                "shimPid": std::process::id(),
                "bundle": sandbox.holder.bundle,
                "runtimeSpec": sandbox.config()?,
            });
            response.info.insert("info".to_owned(), info.to_string());
        }
        Ok(response)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> Reply<PingResponse> {
        self.0.sandbox(&request.sandbox_id)?;
        Ok(PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> Reply<ShutdownSandboxResponse> {
        complete(Arc::clone(&self.0).shutdown(request.sandbox_id)).await?;
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(&self, _: &TtrpcContext, request: SandboxMetricsRequest) -> Reply<SandboxMetricsResponse> {
        let sandbox = self.0.sandbox(&request.sandbox_id)?;
        let cgroup = sandbox.holder.cgroup().ok_or_else(|| Error::new(Kind::NotFound, "cgroup does not exist"))?;
        let mut response = SandboxMetricsResponse::new();
        let metric = response.metrics.mut_or_insert_default();
        metric.id = request.sandbox_id;
        metric.timestamp = Some(timestamp(SystemTime::now())).into();
        metric.data = Some(metrics::collect(&cgroup)?).into();
        Ok(response)
    }
}
