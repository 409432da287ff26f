//! The sandbox service, spoken to as containerd 2 speaks to it. No containerd that Debian 12 has knows it.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, KillRequest, Mount, ShutdownRequest, StartRequest, StateRequest, WaitRequest,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest, SandboxStatusRequest,
    ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest, WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::ttrpc::{self, Code, context};
use containerd_shim_protos::{Client, TaskClient};
use integration::case;
use integration::command::LIMIT;
use integration::place::Place;
use integration::programs::{self, Runtime};
use integration::{spec, wait};

/// A shim for the pod `pod`, started as containerd 2.3 starts it.
struct Shim {
    place: Place,
    sandboxes: SandboxClient,
    tasks: TaskClient,
}

fn context() -> context::Context {
    context::with_duration(LIMIT)
}

impl Shim {
    fn start() -> Self {
        let place = Place::new();
        let link = place.dir.join("containerd-shim-tare-v2");
        std::os::unix::fs::symlink(programs::ours("shim"), &link).unwrap();
        let bundle = place.dir.join("pod");
        fs::create_dir(&bundle).unwrap();
        let mut parameters = BootstrapParams::new();
        parameters.instance_id = "pod".into();
        parameters.namespace.clone_from(&place.id);
        parameters.socket_dir = Some(place.dir.join("s").to_str().unwrap().to_owned());
        let mut command = Command::new(&link);
        command.args([
            "-namespace",
            &place.id,
            "-id",
            "pod",
            "-address",
            "/nowhere",
            "-publish-binary",
            "/bin/true",
            "start",
        ]);
        command.env("TARE_RUNTIME", &Runtime::under_test().binary).env("TARE_TEST", &place.id).current_dir(&bundle);
        let mut start = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        start.stdin.take().unwrap().write_all(&parameters.write_to_bytes().unwrap()).unwrap();
        let answer = start.wait_with_output().unwrap();
        assert!(answer.status.success());
        let answer = BootstrapResult::parse_from_bytes(&answer.stdout).unwrap();
        assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
        let client = Client::connect(&answer.address).unwrap();
        Self { place, sandboxes: SandboxClient::new(client.clone()), tasks: TaskClient::new(client) }
    }

    /// Creates and starts the sandbox, in the host's network. Returns its pid.
    fn pod(&self) -> u32 {
        // namespace_options.network = NODE, in CRI's numbers.
        let network = [8, 2];
        let security = [&[10, 2][..], &network].concat();
        let linux = [&[18, 4][..], &security].concat();
        let value = [&[66, 6][..], &linux].concat();
        let options = Any { type_url: "runtime.v1.PodSandboxConfig".into(), value, ..Any::default() };
        let request = CreateSandboxRequest {
            sandbox_id: "pod".into(),
            bundle_path: self.place.dir.join("pod").to_str().unwrap().into(),
            options: Some(options).into(),
            ..CreateSandboxRequest::default()
        };
        self.sandboxes.create_sandbox(context(), &request).unwrap();
        let again = self.sandboxes.create_sandbox(context(), &request).unwrap_err();
        assert_eq!(code(&again), Code::ALREADY_EXISTS);
        let request = StartSandboxRequest { sandbox_id: "pod".into(), ..StartSandboxRequest::default() };
        let started = self.sandboxes.start_sandbox(context(), &request).unwrap();
        assert!(started.spec.type_url.ends_with("/Spec"));
        started.pid
    }

    fn state(&self) -> String {
        let request =
            SandboxStatusRequest { sandbox_id: "pod".into(), verbose: true, ..SandboxStatusRequest::default() };
        let status = self.sandboxes.sandbox_status(context(), &request).unwrap();
        let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
        assert_eq!(info["pid"], status.pid);
        status.state
    }

    fn shutdown(&self) {
        let request = ShutdownSandboxRequest { sandbox_id: "pod".into(), ..ShutdownSandboxRequest::default() };
        self.sandboxes.shutdown_sandbox(context(), &request).unwrap();
        let gone = wait::until(Duration::from_millis(10), LIMIT, || {
            integration::leak::processes(&self.place.id).is_empty().then_some(())
        });
        assert!(gone.is_some(), "{:?}", integration::leak::find(&self.place.id));
        // Cgroups and the state directory of the namespace outlive its containers, as with other shims.
        for cgroup in integration::leak::cgroups(&self.place.id) {
            fs::remove_dir(cgroup).unwrap();
        }
        let _ = fs::remove_dir(std::path::Path::new("/run/containerd/tare").join(&self.place.id));
    }

    /// Runs the probe's `hold` in the pod as container `web`.
    fn container(&self, pid: u32) {
        let bundle = self.place.dir.join("web");
        case::fill(&bundle.join("rootfs"));
        let mut config = spec::ordinary(&format!("{}-web", self.place.id), &["/probe", "hold"]);
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "ipc" || namespace["type"] == "pid" {
                namespace["path"] = format!("/proc/{pid}/ns/{}", namespace["type"].as_str().unwrap()).into();
            }
        }
        config["process"]["terminal"] = false.into();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let request = CreateTaskRequest {
            id: "web".into(),
            bundle: bundle.to_str().unwrap().into(),
            stdout: format!("file://{}", self.place.dir.join("web.log").display()),
            ..CreateTaskRequest::default()
        };
        self.tasks.create(context(), &request).unwrap();
        self.tasks.start(context(), &StartRequest { id: "web".into(), ..StartRequest::default() }).unwrap();
        assert!(wait::file(&self.place.dir.join("web.log"), LIMIT, |text| text.contains("ready")));
    }
}

fn code(error: &ttrpc::Error) -> Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_pod_from_its_creation_to_its_end() {
    let shim = Shim::start();
    let nobody = PingRequest { sandbox_id: "pod".into(), ..PingRequest::default() };
    assert_eq!(code(&shim.sandboxes.ping_sandbox(context(), &nobody).unwrap_err()), Code::NOT_FOUND);
    let pid = shim.pod();
    assert_eq!(shim.state(), "SANDBOX_READY");
    shim.sandboxes.ping_sandbox(context(), &nobody).unwrap();
    let request = PlatformRequest { sandbox_id: "pod".into(), ..PlatformRequest::default() };
    assert_eq!(shim.sandboxes.platform(context(), &request).unwrap().platform.os, "linux");
    let request = SandboxMetricsRequest { sandbox_id: "pod".into(), ..SandboxMetricsRequest::default() };
    let metrics = shim.sandboxes.sandbox_metrics(context(), &request).unwrap().metrics;
    assert!(metrics.data.type_url.contains("cgroups"));

    shim.container(pid);
    let ns = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let request = StateRequest { id: "web".into(), ..StateRequest::default() };
    let web = shim.tasks.state(context(), &request).unwrap().pid;
    assert_eq!(ns(web, "ipc"), ns(pid, "ipc"));
    assert_eq!(ns(web, "pid"), ns(pid, "pid"));
    assert_eq!(ns(pid, "net"), ns(std::process::id(), "net"), "the host's network, as was asked for");

    // The end of its last container does not end the pod.
    let kill = KillRequest { id: "web".into(), signal: 9, ..KillRequest::default() };
    shim.tasks.kill(context(), &kill).unwrap();
    let exit = shim.tasks.wait(context(), &WaitRequest { id: "web".into(), ..WaitRequest::default() }).unwrap();
    assert_eq!(exit.exit_status, 137);
    shim.tasks.delete(context(), &DeleteRequest { id: "web".into(), ..DeleteRequest::default() }).unwrap();
    shim.tasks.shutdown(context(), &ShutdownRequest { id: "web".into(), ..ShutdownRequest::default() }).unwrap();
    assert_eq!(shim.state(), "SANDBOX_READY");

    let request = StopSandboxRequest { sandbox_id: "pod".into(), timeout_secs: 5, ..StopSandboxRequest::default() };
    shim.sandboxes.stop_sandbox(context(), &request).unwrap();
    shim.sandboxes.stop_sandbox(context(), &request).unwrap();
    let request = WaitSandboxRequest { sandbox_id: "pod".into(), ..WaitSandboxRequest::default() };
    assert_eq!(shim.sandboxes.wait_sandbox(context(), &request).unwrap().exit_status, 0, "TERM was enough");
    assert_eq!(shim.state(), "SANDBOX_NOTREADY");
    shim.shutdown();
}

/// As the snapshotter hands over the layers of a pod with a user namespace.
#[test]
fn the_files_of_an_image_belong_to_the_users_of_a_user_namespace() {
    let shim = Shim::start();
    shim.pod();
    let at = |name: &str| shim.place.dir.join(name);
    for dir in ["layers/1", "layers/2", "upper", "work", "mapped/rootfs"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    case::fill(&at("layers/1"));
    fs::write(at("layers/2/above"), "").unwrap();
    std::os::unix::fs::chown(at("layers/2/above"), Some(7), Some(8)).unwrap();
    case::give(&at("upper"), 100_000);
    let tries = ["/probe", "try", "stat /probe", "stat /above", "create /new", "stat /new"];
    let mut config = spec::ordinary(&format!("{}-mapped", shim.place.id), &tries);
    let map = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    config["linux"]["namespaces"].as_array_mut().unwrap().push(serde_json::json!({"type": "user"}));
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["process"]["terminal"] = false.into();
    config["root"]["readonly"] = false.into();
    fs::write(at("mapped/config.json"), config.to_string()).unwrap();
    let path = |name: &str| at(name).to_str().unwrap().to_owned();
    let rootfs = Mount {
        type_: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("lowerdir={}:{}", path("layers/2"), path("layers/1")),
            format!("upperdir={}", path("upper")),
            format!("workdir={}", path("work")),
            "uidmap=0:100000:65536".into(),
            "gidmap=0:100000:65536".into(),
        ],
        ..Mount::default()
    };
    let request = CreateTaskRequest {
        id: "mapped".into(),
        bundle: path("mapped"),
        rootfs: vec![rootfs],
        stdout: format!("file://{}", path("mapped.log")),
        ..CreateTaskRequest::default()
    };
    shim.tasks.create(context(), &request).unwrap();
    shim.tasks.start(context(), &StartRequest { id: "mapped".into(), ..StartRequest::default() }).unwrap();
    let wait = WaitRequest { id: "mapped".into(), ..WaitRequest::default() };
    assert_eq!(shim.tasks.wait(context(), &wait).unwrap().exit_status, 0);
    shim.tasks.delete(context(), &DeleteRequest { id: "mapped".into(), ..DeleteRequest::default() }).unwrap();
    let said = fs::read_to_string(at("mapped.log")).unwrap();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let outcomes: Vec<integration::report::Outcome> = serde_json::from_str(&said).unwrap();
    let owner = |n: usize| {
        assert_eq!(outcomes[n].errno, None, "{said}");
        outcomes[n].value.split(' ').skip(2).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((owner(0), owner(1), owner(3)), (words("0 0"), words("7 8"), words("0 0")), "{said}");
    let new = fs::metadata(at("upper/new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&new), 100_000);
    assert!(integration::leak::mounts(&shim.place.id).is_empty(), "nothing stays mounted");
    shim.shutdown();
}

#[test]
fn a_pod_that_is_shut_down_takes_its_containers_with_it() {
    let shim = Shim::start();
    let pid = shim.pod();
    shim.container(pid);
    shim.shutdown();
    assert!(wait::exited(i32::try_from(pid).unwrap(), LIMIT));
}

#[test]
fn a_pod_that_cannot_be_made_is_refused_and_the_shim_goes() {
    let shim = Shim::start();
    let options = Any { type_url: "some.other.Config".into(), value: vec![1], ..Any::default() };
    let request = CreateSandboxRequest {
        sandbox_id: "pod".into(),
        bundle_path: shim.place.dir.join("pod").to_str().unwrap().into(),
        options: Some(options).into(),
        ..CreateSandboxRequest::default()
    };
    let refused = shim.sandboxes.create_sandbox(context(), &request).unwrap_err();
    assert_eq!(code(&refused), Code::INVALID_ARGUMENT);
    shim.shutdown();
}
