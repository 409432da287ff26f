//! Peers on the socket of a shim under containerd that mean harm. They are its owner's, or they would not reach it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, ResizePtyRequest, StartRequest, StateRequest,
    UpdateTaskRequest,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::{self, Code, Request, context};
use containerd_shim_protos::{Client, TaskClient};
use integration::command::{self, LIMIT};
use integration::place::Place;
use integration::processor::used_in_a_second;
use integration::wait;

use crate::containerd::{containerd, status, web};
use crate::shim_killed::{shims, sockets};

#[test]
fn garbage_and_silence_harm_nobody() {
    let place = Place::new();
    let containerd = containerd(&place);
    web(&containerd);
    let pids = shims(&containerd);
    let socket = sockets(&pids).remove(0);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o77, 0, "only its owner reaches the socket");
    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        stream
    };
    // length, stream, type, flags
    let frame = |length: u32, kind: u8, payload: &[u8]| {
        [&length.to_be_bytes()[..], &1_u32.to_be_bytes(), &[kind, 0], payload].concat()
    };
    let hostile = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        frame(u32::MAX, 1, b"x"),
        frame(0x7fff_ffff, 1, b"x"),
        frame(4, 1, &[0xff; 4]),
        frame(0, 9, b""),
        frame(0, 2, b""),
        vec![0xff; 1 << 16],
    ];
    for bytes in &hostile {
        let mut stream = connect();
        let _ = stream.write_all(bytes);
        let mut answer = [0; 4096];
        // An answer, a closed connection or silence: all will do.
        let _ = stream.read(&mut answer);
    }
    let stalled: Vec<_> = (0..100)
        .map(|n| {
            let mut stream = connect();
            let _ = stream.write_all(&frame(1000, 1, &[0; 10])[..n % 20]);
            stream
        })
        .collect();
    // Requests whose answers nobody reads.
    let mut deaf = connect();
    let request = b"\x0a\x1ccontainerd.task.v2.Task\x00\x00\x00\x00\x00";
    for _ in 0..1000 {
        if deaf.write_all(&frame(u32::try_from(request.len()).unwrap(), 1, request)).is_err() {
            break;
        }
    }
    for n in 0..10 {
        let id = format!("e{n}");
        let out = containerd.ctr(&["tasks", "exec", "--exec-id", &id, "web", "/probe", "say", "there"]).ok();
        assert_eq!(out.stdout, "there\n");
    }
    let rollup = fs::read_to_string(format!("/proc/{}/status", pids[0])).unwrap();
    let kib =
        rollup.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(kib.unwrap() < 64 * 1024, "{kib:?} KiB at most");
    drop((stalled, deaf));
    containerd.ctr(&["tasks", "delete", "--force", "web"]).ok();
    containerd.ctr(&["containers", "delete", "web"]).ok();
}

fn patience() -> context::Context {
    context::with_duration(LIMIT)
}

/// The code and the words of a refusal.
#[track_caller]
fn refused<T>(answer: ttrpc::Result<T>) -> (Code, String) {
    match answer {
        Ok(_) => panic!("it is not refused"),
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        Err(other) => panic!("{other}"),
    }
}

fn entries(dir: impl AsRef<Path>) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn requests_that_mean_harm_are_refused() {
    let place = Place::new();
    let containerd = containerd(&place);
    web(&containerd);
    let pid = shims(&containerd)[0];
    let client = Client::connect(&format!("unix://{}", sockets(&[pid])[0].display())).unwrap();
    let tasks = TaskClient::new(client.clone());
    let descriptors = || entries(format!("/proc/{pid}/fd")).len();
    let state = |id: &str| tasks.state(patience(), &StateRequest { id: id.into(), ..StateRequest::default() });
    let bundle = std::path::PathBuf::from(state("web").unwrap().bundle);
    let (before, files) = (descriptors(), entries(&bundle));

    for (service, method) in [("", ""), ("nobody", "Create"), ("containerd.task.v2.Task", "../Create")] {
        let request = Request { service: service.into(), method: method.into(), ..Request::default() };
        let (code, said) = refused(client.request(request));
        assert!(matches!(code, Code::INVALID_ARGUMENT | Code::UNIMPLEMENTED), "{service}/{method}: {code:?} {said}");
    }

    let good = place.dir.join("good");
    fs::create_dir(&good).unwrap();
    fs::write(good.join("config.json"), "{}").unwrap();
    let create = |id: &str, bundle: &Path, change: &dyn Fn(&mut CreateTaskRequest)| {
        let mut request = CreateTaskRequest {
            id: id.into(),
            bundle: bundle.to_str().unwrap().into(),
            ..CreateTaskRequest::default()
        };
        change(&mut request);
        refused(tasks.create(patience(), &request))
    };
    let plain: &dyn Fn(&mut CreateTaskRequest) = &|_| {};
    for id in ["", ".", "..", "a/b", "../web", "/web", "-x", "--help", "a\0b", &"x".repeat(300)] {
        assert_eq!(create(id, &good, plain).0, Code::INVALID_ARGUMENT, "{id}");
    }
    assert_eq!(create("web", &good, plain).0, Code::ALREADY_EXISTS);

    // Bundles: none, one that waits for a writer, one that never ends, and one by another name.
    let odd = |name: &str| {
        let dir = place.dir.join(name);
        fs::create_dir(&dir).unwrap();
        dir
    };
    command::tool("mkfifo", &[odd("fifo").join("config.json")]).ok();
    std::os::unix::fs::symlink("/dev/zero", odd("endless").join("config.json")).unwrap();
    std::os::unix::fs::symlink(&good, place.dir.join("link")).unwrap();
    for (bundle, words) in [
        ("", "must be absolute"),
        ("good", "must be absolute"),
        ("../good", "must be absolute"),
        ("/no/such/bundle", "/no/such/bundle"),
        (place.dir.join("fifo").to_str().unwrap(), "it is not a file"),
        (place.dir.join("endless").to_str().unwrap(), "it is not a file"),
        // The runtime's to judge, and it finds nothing to run.
        (place.dir.join("link").to_str().unwrap(), "OCI runtime create failed"),
    ] {
        let (_, said) = create("new", Path::new(bundle), plain);
        assert!(said.contains(words), "{bundle}: {said}");
    }
    let options = |type_url: &str, value: &[u8]| {
        let any = Any { type_url: type_url.into(), value: value.to_vec(), ..Any::default() };
        create("new", &good, &move |request: &mut CreateTaskRequest| request.options = Some(any.clone()).into())
    };
    for (type_url, value) in [
        ("windows.v1.Options", &b"x"[..]),
        ("containerd.runc.v1.Options", &[0xff; 64]),
        ("runtimeoptions.v1.Options", &[18, 9, b'/', b'd', b'e', b'v', b'/', b'z', b'e', b'r', b'o']),
    ] {
        assert_eq!(options(type_url, value).0, Code::INVALID_ARGUMENT, "{type_url}");
    }
    let output =
        |uri: String| create("new", &good, &move |request: &mut CreateTaskRequest| request.stdout.clone_from(&uri)).1;
    let fifo = place.dir.join("fifo/config.json");
    for (uri, words) in [
        (format!("file://{}", fifo.display()), "nobody reads there"),
        (format!("file://{}", place.dir.display()), "Is a directory"),
        ("http:///x/y".to_owned(), "unknown STDIO scheme"),
        ("/no/such/fifo".to_owned(), "/no/such/fifo"),
        (good.join("config.json").display().to_string(), "not a fifo"),
    ] {
        let said = output(uri.clone());
        assert!(said.contains(words), "{uri}: {said}");
    }

    for id in ["", "..", "../web", "nobody"] {
        let to = || id.to_owned();
        let kill = KillRequest { id: to(), signal: 9, ..KillRequest::default() };
        assert_eq!(refused(tasks.kill(patience(), &kill)).0, Code::NOT_FOUND);
        assert_eq!(refused(state(id)).0, Code::NOT_FOUND);
        let delete = DeleteRequest { id: to(), ..DeleteRequest::default() };
        assert_eq!(refused(tasks.delete(patience(), &delete)).0, Code::NOT_FOUND);
        let start = StartRequest { id: to(), ..StartRequest::default() };
        assert_eq!(refused(tasks.start(patience(), &start)).0, Code::NOT_FOUND);
    }
    let web = || "web".to_owned();
    let exec = |id: &str, spec: &[u8]| {
        let spec = Any { type_url: "x".into(), value: spec.to_vec(), ..Any::default() };
        let exec_id = id.to_owned();
        let request =
            ExecProcessRequest { id: web(), exec_id, spec: Some(spec).into(), ..ExecProcessRequest::default() };
        tasks.exec(patience(), &request)
    };
    for (id, spec) in
        [("..", "{}"), ("a/b", "{}"), ("-e", "{}"), ("", "{}"), ("e", ""), ("e", "[]"), ("e", "{\"args\":")]
    {
        refused(exec(id, spec.as_bytes()));
    }
    for signal in [65, 4096, u32::MAX] {
        refused(tasks.kill(patience(), &KillRequest { id: web(), signal, ..KillRequest::default() }));
    }
    let resources = Any { type_url: "x".into(), value: b"{".to_vec(), ..Any::default() };
    let update = UpdateTaskRequest { id: web(), resources: Some(resources).into(), ..UpdateTaskRequest::default() };
    refused(tasks.update(patience(), &update));
    let resize = ResizePtyRequest { id: web(), width: u32::MAX, height: u32::MAX, ..ResizePtyRequest::default() };
    tasks.resize_pty(patience(), &resize).unwrap();

    // Nothing of all this is left: not in the shim, not in the container's bundle, not in those that were refused.
    drop((tasks, client));
    let settled = wait::until(Duration::from_millis(10), LIMIT, || (descriptors() < before).then_some(()));
    assert!(settled.is_some(), "{} descriptors, {before} before", descriptors());
    assert_eq!(entries(&bundle), files);
    assert_eq!(entries(&good), ["config.json", "options.json"]);
    assert_eq!(status(&containerd, "web"), "RUNNING");
    let exec = ["tasks", "exec", "--exec-id", "last", "web", "/probe", "say", "there"];
    assert_eq!(containerd.ctr(&exec).ok().stdout, "there\n");
    containerd.ctr(&["tasks", "delete", "--force", "web"]).ok();
    containerd.ctr(&["containers", "delete", "web"]).ok();
}

#[test]
fn more_connections_than_descriptors_cost_nothing() {
    let place = Place::new();
    let containerd = containerd(&place);
    web(&containerd);
    let pid = shims(&containerd)[0];
    let socket = sockets(&[pid]).remove(0);
    let say = |id: &str| {
        let out = containerd.ctr(&["tasks", "exec", "--exec-id", id, "web", "/probe", "say", "there"]).ok();
        assert_eq!(out.stdout, "there\n");
    };
    // More than it lets in: those behind the last one wait, and what containerd asks for goes on.
    let many: Vec<_> = (0..300).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    assert!(many.len() > 200);
    say("full");
    let used = used_in_a_second(pid);
    assert!(used < 30, "{used} hundredths of a second");
    drop(many);
    say("empty");
    // Fewer descriptors than those: it does not try again and again to let them in.
    let open = entries(format!("/proc/{pid}/fd")).len();
    let limit = format!("--nofile={}:", open + 2);
    command::tool("prlimit", &["--pid", &pid.to_string(), &limit]).ok();
    let many: Vec<_> = (0..50).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    assert!(many.len() > 10);
    let used = used_in_a_second(pid);
    assert!(used < 30, "{used} hundredths of a second");
    drop(many);
    command::tool("prlimit", &["--pid", &pid.to_string(), "--nofile=1024:"]).ok();
    say("last");
    containerd.ctr(&["tasks", "delete", "--force", "web"]).ok();
    containerd.ctr(&["containers", "delete", "web"]).ok();
}
