//! `start`: finds or starts the shim for a container and tells containerd its address.
//!
//! Three generations of containerd converse differently, and each must be answered by what it sent:
//!
//! | containerd | stdin | answer on stdout |
//! |---|---|---|
//! | 2.3 and later | `BootstrapParams`, whose id and namespace equal those of the flags | `BootstrapResult`, version 3 |
//! | 1.7 to 2.2 | runtime options or nothing; `MAX_SHIM_VERSION` in the environment | JSON |
//! | 1.6 | runtime options or nothing | the plain address |
//!
//! Containers of one pod share a shim: whoever finds the pod's socket answered just passes its address on.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use rustix::fs::{Mode, fchmod};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::flags::Flags;
use super::options::Options;
use crate::cgroup;
use crate::error::{Context, Error, Result};

/// Tells a shim which version of the protocol its containerd knows at most.
const MAX_VERSION_VARIABLE: &str = "MAX_SHIM_VERSION";
/// Where sockets are unless containerd says otherwise. Short, for a socket's path must stay below 108 bytes.
const SOCKET_DIR: &str = "/run/containerd/s";
/// How many may knock before they are let in, as Rust's standard library has it.
const BACKLOG: i32 = 128;
/// The file in the bundle by which a restarted containerd finds the shim again.
const ADDRESS_FILE: &str = "address";
/// Annotations that name the group of containers that share a shim; the first that is present counts.
const GROUP_ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// No honest message comes near.
const MAX_MESSAGE: u64 = 10 << 20;

/// How the caller wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conversation {
    Plain,
    Json { version: u32 },
    Protobuf,
}

#[derive(Debug)]
struct Request {
    conversation: Conversation,
    options: Options,
    socket_dir: PathBuf,
    debug: bool,
}

impl Request {
    /// Tells from what arrived which conversation this is.
    fn decode(stdin: &[u8], max_version: Option<&str>, flags: &Flags) -> Result<Self> {
        // Options of the older conversations can decode as parameters by accident, so the identity must match.
        if let Ok(parameters) = BootstrapParams::parse_from_bytes(stdin)
            && parameters.instance_id == flags.id
            && parameters.namespace == flags.namespace
        {
            return Self::from_parameters(&parameters, flags);
        }
        let options = Any::parse_from_bytes(stdin);
        let options = options.map_err(|error| Error::invalid(format!("decode the options on stdin: {error}")))?;
        let conversation = match max_version.map(str::parse::<u32>) {
            Some(Ok(version)) if version >= 2 => Conversation::Json { version: version.min(3) },
            _ => Conversation::Plain,
        };
        let options = Options::from_any(&options)?;
        Ok(Self { conversation, options, socket_dir: SOCKET_DIR.into(), debug: flags.debug })
    }

    fn from_parameters(parameters: &BootstrapParams, flags: &Flags) -> Result<Self> {
        let mut options = Options::default();
        for any in parameters.extensions.iter().filter_map(|extension| extension.value.as_ref()) {
            // Extensions of other kinds are for other shims.
            if any.type_url.ends_with("runc.v1.Options") {
                options = Options::from_any(any)?;
            }
        }
        let socket_dir = parameters.socket_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(SOCKET_DIR);
        let debug = flags.debug || parameters.log_level.value() <= -4;
        Ok(Self { conversation: Conversation::Protobuf, options, socket_dir: socket_dir.into(), debug })
    }
}

impl Conversation {
    fn answer(self, address: &str) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Plain => address.as_bytes().to_vec(),
            Self::Json { version } => {
                let answer = serde_json::json!({"version": version, "address": address, "protocol": "ttrpc"});
                answer.to_string().into_bytes()
            }
            Self::Protobuf => {
                let answer = BootstrapResult {
                    version: 3,
                    address: address.into(),
                    protocol: "ttrpc".into(),
                    ..BootstrapResult::default()
                };
                answer.write_to_bytes().map_err(|error| Error::other(format!("encode the answer: {error}")))?
            }
        })
    }
}

/// The socket of the shim of `group`: the same for everybody who asks the same containerd about the same group.
fn socket_path(dir: &Path, containerd: &str, namespace: &str, group: &str) -> PathBuf {
    let path = Path::new(containerd).join(namespace).join(group);
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let hex = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0'));
    dir.join(digest.iter().flat_map(hex).collect::<String>())
}

/// As much of a bundle's config.json as decides who shares a shim.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<std::collections::HashMap<String, String>>,
}

/// The group of the container whose bundle is the working directory.
fn group(id: &str) -> Result<String> {
    let step = || "read the bundle's config.json";
    let text = match fs::read("config.json") {
        // A sandbox may be without one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(id.to_owned()),
        read => read.context(step)?,
    };
    let config: Annotated = serde_json::from_slice(&text).context(step)?;
    let mut annotations = config.annotations.unwrap_or_default();
    let group = GROUP_ANNOTATIONS.iter().find_map(|name| annotations.remove(*name));
    Ok(group.unwrap_or_else(|| id.to_owned()))
}

/// A fresh socket, or `None` if a living shim already answers at `path`.
fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let step = || format!("listen on {}", path.display());
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(|| format!("make {}", dir.display()))?;
    }
    let listener = match bind_private(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(None);
            }
            // Its shim died without cleaning up.
            fs::remove_file(path).context(|| format!("remove the dead socket {}", path.display()))?;
            bind_private(path).context(step)?
        }
        other => other.context(step)?,
    };
    Ok(Some(listener))
}

/// A listening socket that only its owner can connect to, from its first moment on, whatever the umask is.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // What the socket has when it is bound is what its file gets.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Removes the socket of the shim that served the container of `bundle`, if nobody listens there any more: a shim that
/// was killed could not do so itself. Another container of its pod may have a living one at the same address.
pub(crate) fn remove_dead_socket(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join(ADDRESS_FILE)) else {
        return;
    };
    let Some(path) = address.trim().strip_prefix("unix://") else {
        return;
    };
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if UnixStream::connect(path).is_err_and(refused) {
        let _: io::Result<()> = fs::remove_file(path);
    }
}

/// Answers `start`.
pub(crate) fn start(name: &str, flags: &Flags) -> Result<()> {
    let mut message = Vec::new();
    io::stdin().take(MAX_MESSAGE).read_to_end(&mut message).context(|| "read stdin")?;
    let max_version = env::var(MAX_VERSION_VARIABLE).ok();
    let request = Request::decode(&message, max_version.as_deref(), flags)?;
    let group = group(&flags.id)?;
    // A sandbox is created without being told the runtime's options again.
    request.options.save(Path::new(""))?;
    let path = socket_path(&request.socket_dir, &flags.address, &flags.namespace, &group);
    let address = format!("unix://{}", path.display());
    if let Some(listener) = listen(&path)? {
        let mut shim = match spawn(name, flags, &request, &address, listener.into()) {
            Ok(shim) => shim,
            Err(error) => {
                let _: io::Result<()> = fs::remove_file(&path);
                return Err(error);
            }
        };
        let placed = place(&shim, &request.options).and_then(|()| answer(&request, &address));
        if placed.is_err() {
            let _: io::Result<()> = shim.kill();
            let _: io::Result<()> = fs::remove_file(&path);
        }
        return placed;
    }
    answer(&request, &address)
}

fn answer(request: &Request, address: &str) -> Result<()> {
    fs::write(ADDRESS_FILE, address).context(|| "write the bundle's address file")?;
    let answer = request.conversation.answer(address)?;
    io::stdout().write_all(&answer).context(|| "answer containerd")
}

/// Starts the resident shim, which inherits the listening socket as its stdin and nothing else: containerd reads our
/// output to its end, so nobody may keep it open.
fn spawn(name: &str, flags: &Flags, request: &Request, address: &str, listener: OwnedFd) -> Result<Child> {
    let executable = env::current_exe().context(|| "find my own executable")?;
    let mut command = Command::new(executable);
    command.arg0(name);
    command.args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address]);
    command.args(["-publish-binary", &flags.publish_binary, "-socket", address]);
    if request.debug {
        command.arg("-debug");
    }
    command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context(|| "start the resident shim")
}

/// Gives the resident shim its cgroup and makes it a likelier victim of the OOM killer than containerd.
fn place(shim: &Child, options: &Options) -> Result<()> {
    if !options.shim_cgroup.is_empty() {
        cgroup::join(&options.shim_cgroup, shim.id())?;
    }
    let score = |pid: u32| format!("/proc/{pid}/oom_score_adj");
    let parent = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get() as u32);
    let adjusted = fs::read_to_string(score(parent)).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let adjusted = adjusted.map_or(1, |score| (score + 1).min(1000));
    fs::write(score(shim.id()), adjusted.to_string()).context(|| "adjust the shim's OOM score")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::shim::oci::Options as RuncOptions;

    fn flags() -> Flags {
        Flags { id: "c1".into(), namespace: "ns".into(), ..Flags::default() }
    }

    fn options() -> Any {
        let options = RuncOptions { binary_name: "crun".into(), ..RuncOptions::default() };
        let type_url = "containerd.runc.v1.Options".into();
        Any { type_url, value: options.write_to_bytes().unwrap(), ..Any::default() }
    }

    fn parameters(id: &str) -> Vec<u8> {
        let mut parameters = BootstrapParams::new();
        parameters.instance_id = id.into();
        parameters.namespace = "ns".into();
        parameters.socket_dir = Some("/run/x".into());
        let mut extension = Extension::new();
        extension.value = Some(options()).into();
        parameters.extensions.push(extension);
        parameters.write_to_bytes().unwrap()
    }

    #[test]
    fn each_generation_of_containerd_is_recognised() {
        let sent = options().write_to_bytes().unwrap();
        for (stdin, max_version, conversation, binary) in [
            (vec![], None, Conversation::Plain, ""),
            (sent.clone(), None, Conversation::Plain, "crun"),
            (vec![], Some("2"), Conversation::Json { version: 2 }, ""),
            (sent, Some("4"), Conversation::Json { version: 3 }, "crun"),
            (parameters("c1"), Some("2"), Conversation::Protobuf, "crun"),
        ] {
            let request = Request::decode(&stdin, max_version, &flags()).unwrap();
            assert_eq!(request.conversation, conversation);
            assert_eq!(request.options.binary_name, binary);
        }
        let request = Request::decode(&parameters("c1"), None, &flags()).unwrap();
        assert_eq!(request.socket_dir, Path::new("/run/x"));
    }

    #[test]
    fn garbage_and_another_containers_parameters_are_refused() {
        assert!(Request::decode(b"\xff\xff\xff", None, &flags()).is_err());
        assert!(Request::decode(&parameters("other"), None, &flags()).is_err());
    }

    #[test]
    fn answers() {
        let address = "unix:///s";
        assert_eq!(Conversation::Plain.answer(address).unwrap(), b"unix:///s");
        let json: serde_json::Value =
            serde_json::from_slice(&Conversation::Json { version: 2 }.answer(address).unwrap()).unwrap();
        assert_eq!(json, serde_json::json!({"version": 2, "address": "unix:///s", "protocol": "ttrpc"}));
        let result = BootstrapResult::parse_from_bytes(&Conversation::Protobuf.answer(address).unwrap()).unwrap();
        assert_eq!((result.version, result.address.as_str(), result.protocol.as_str()), (3, address, "ttrpc"));
    }

    #[test]
    fn the_socket_is_named_as_containerd_names_it() {
        let path = socket_path(Path::new("/run/containerd/s"), "/run/containerd/containerd.sock", "default", "web");
        // sha256 of "/run/containerd/containerd.sock/default/web"
        let digest = "2cde4450fa38c74f53603e01d2afd903b315a27a596f12a151414cd59897d883";
        assert_eq!(path, Path::new("/run/containerd/s").join(digest));
        assert_ne!(
            path,
            socket_path(Path::new("/run/containerd/s"), "/run/containerd/containerd.sock", "other", "web")
        );
    }

    #[test]
    fn only_dead_sockets_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        fs::write(dir.path().join(ADDRESS_FILE), format!("unix://{}", path.display())).unwrap();
        remove_dead_socket(dir.path());
        let listener = listen(&path).unwrap().unwrap();
        remove_dead_socket(dir.path());
        assert!(path.exists(), "it serves somebody");
        drop(listener);
        remove_dead_socket(dir.path());
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/socket");
        let first = listen(&path).unwrap().expect("nobody was there");
        assert_eq!(MetadataExt::mode(&fs::metadata(&path).unwrap()) & 0o777, 0o600);
        assert!(listen(&path).unwrap().is_none(), "a shim answers");
        drop(first);
        assert!(listen(&path).unwrap().is_some(), "nobody answers any more");
    }

    #[test]
    fn fuzz_shim_bootstrap() {
        let seeds = [parameters("c1"), options().write_to_bytes().unwrap(), Vec::new()];
        crate::fuzz::fuzz("shim_bootstrap", &seeds, |input| {
            if let Ok(request) = Request::decode(input, Some("3"), &flags()) {
                assert!(!request.socket_dir.as_os_str().is_empty());
            }
        });
    }
}
