//! Connects a container with its network, and disconnects it: what the bundle's hooks do.
//!
//! ```text
//! createRuntime: imgtool network up DIR     the container's namespaces are there, its process waits
//! poststop:      imgtool network down DIR   the container is deleted
//! ```
//! What was done is written to network-state.json before it is begun, so that it can be undone whatever happens to us.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, CWD, Mode, OFlags, access, openat, statfs};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::network::Plan;
use crate::error::{Error, Result, Step};
use crate::oci;

pub(super) const PLAN: &str = "network.json";
pub(super) const STATE: &str = "network-state.json";
/// The network namespace, kept until the container is disconnected: plugins take their address translation off by the addresses
/// that they find in it.
pub(super) const NAMESPACE: &str = "network-namespace";
const PASTA_PID: &str = "pasta.pid";
/// Pasta has this time to end.
const PASTA_END: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// A runtime's state on standard input is read up to this size.
const STATE_MAX: u64 = 1 << 20;
/// `NSFS_MAGIC` of the kernel.
const NSFS: i64 = 0x6e73_6673;
/// Where distributions keep CNI's plugins.
const PLUGIN_DIRECTORIES: [&str; 3] = ["/opt/cni/bin", "/usr/libexec/cni", "/usr/lib/cni"];

/// network-state.json.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    id: String,
    /// What the plugins answered last, which they want to see again.
    result: Option<Value>,
}

/// What can connect a container on this machine without being configured first: as the machine's root the bridge, which
/// works without an uplink too, else pasta.
pub(super) fn usable() -> Option<super::Network> {
    let has_bridge = plugin_directories().iter().any(|dir| dir.join("bridge").is_file());
    let is_root = rustix::process::geteuid().is_root() && matches!(crate::rights::user_namespace(), Ok(None));
    if has_bridge && is_root {
        return Some(super::Network::Bridge);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_pasta = std::env::split_paths(&path).any(|dir| dir.join("pasta").is_file());
    has_pasta.then_some(super::Network::Pasta)
}

fn plugin_directories() -> Vec<PathBuf> {
    match std::env::var_os("CNI_PATH") {
        Some(path) => std::env::split_paths(&path).collect(),
        None => PLUGIN_DIRECTORIES.map(PathBuf::from).into(),
    }
}

/// What a runtime tells its hooks.
#[derive(Deserialize)]
struct Container {
    id: String,
    #[serde(default)]
    pid: u32,
}

/// Connects the container that the runtime speaks of on standard input.
pub(crate) fn up(directory: &Path) -> Result<()> {
    let mut text = Vec::new();
    std::io::stdin().take(STATE_MAX).read_to_end(&mut text).at("the runtime's state on standard input")?;
    let container: Container = oci::json(&text).at("the runtime's state on standard input")?;
    if container.pid == 0 {
        return Err(Error::malformed("the runtime's state on standard input: lacks pid"));
    }
    let plan = plan(directory)?;
    if directory.join(STATE).exists() {
        // Of a container that was not deleted, because its runtime was killed: two at a time would share all.
        undo(directory, &plan)?;
    }
    let mut state = State { id: container.id, result: None };
    write(directory, &state)?;
    let mut connect = || -> Result<()> {
        let Some(list) = &plan.cni else {
            return pasta(directory, &plan, container.pid);
        };
        let netns = keep_namespace(directory, container.pid).at("keep the network namespace")?;
        state.result = Some(add(list, &plan, &state.id, &netns.display().to_string())?);
        write(directory, &state)?;
        let mut hosts = plan.hosts.clone();
        let addresses = state.result.iter().filter_map(|result| result["ips"].as_array()).flatten();
        for address in addresses.filter_map(|ip| ip["address"].as_str()?.split('/').next()) {
            hosts.extend([address, "\t", &plan.hostname, "\n"]);
        }
        // In place: the file is bound into the container.
        fs::write(directory.join("etc/hosts"), hosts).at("etc/hosts")
    };
    let result = connect();
    if result.is_err() {
        // The first error is the one to tell.
        let _ = undo(directory, &plan);
    }
    result
}

/// Undoes what `up` did, if anything is left of it.
pub(crate) fn down(directory: &Path) -> Result<()> {
    if directory.join(STATE).exists() { undo(directory, &plan(directory)?) } else { Ok(()) }
}

fn plan(directory: &Path) -> Result<Plan> {
    let path = directory.join(PLAN);
    oci::json(&fs::read(&path).with(|| format!("read {}", path.display()))?).with(|| path.display().to_string())
}

fn write(directory: &Path, state: &State) -> Result<()> {
    let (path, temporary) = (directory.join(STATE), directory.join(".network-state.json"));
    fs::write(&temporary, oci::to_json(state)?)
        .and_then(|()| fs::rename(&temporary, &path))
        .with(|| format!("write {}", path.display()))
}

fn undo(directory: &Path, plan: &Plan) -> Result<()> {
    let path = directory.join(STATE);
    let state: State =
        oci::json(&fs::read(&path).with(|| format!("read {}", path.display()))?).with(|| path.display().to_string())?;
    match &plan.cni {
        Some(list) => {
            let kept = directory.join(NAMESPACE);
            let is_kept = statfs(&kept).is_ok_and(|it| it.f_type == NSFS);
            delete(list, plan, &state, is_kept.then_some(&kept))?;
            forget_namespace(&kept).with(|| format!("unmount {}", kept.display()))?;
        }
        None => end_pasta(directory)?,
    }
    fs::remove_file(&path).with(|| format!("remove {}", path.display()))
}

fn keep_namespace(directory: &Path, pid: u32) -> std::io::Result<PathBuf> {
    let path = directory.join(NAMESPACE);
    // What a power cut has left of one.
    forget_namespace(&path)?;
    fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let namespace = open_tree(CWD, format!("/proc/{pid}/ns/net"), flags)?;
    move_mount(namespace, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(path)
}

fn forget_namespace(path: &Path) -> std::io::Result<()> {
    match unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        // None is mounted there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The plugins of a list, each with what all of them share.
fn plugins(list: &Value, plan: &Plan) -> Vec<Value> {
    let all = list["plugins"].as_array().into_iter().flatten();
    all.map(|plugin| {
        let mut plugin = plugin.clone();
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        if plugin["capabilities"]["portMappings"] == json!(true) && !plan.ports.is_empty() {
            plugin["runtimeConfig"] = json!({"portMappings": plan.ports});
        }
        plugin
    })
    .collect()
}

fn add(list: &Value, plan: &Plan, id: &str, netns: &str) -> Result<Value> {
    let plugins = plugins(list, plan);
    if !plan.ports.is_empty() && !plugins.iter().any(|plugin| plugin.get("runtimeConfig").is_some()) {
        return Err(Error::other("--publish: the CNI network has no plugin that maps ports"));
    }
    let version = list["cniVersion"].as_str().unwrap_or("0.4.0");
    let loopback = json!({"cniVersion": version, "name": "lo", "type": "loopback"});
    run_plugin(&loopback, "ADD", id, netns, "lo")?;
    let mut result: Option<Value> = None;
    for mut plugin in plugins {
        if let Some(previous) = result.take() {
            plugin["prevResult"] = previous;
        }
        result = run_plugin(&plugin, "ADD", id, netns, "eth0")?;
    }
    result.ok_or_else(|| Error::malformed("the CNI network has no plugins, or they gave no result"))
}

fn delete(list: &Value, plan: &Plan, state: &State, namespace: Option<&PathBuf>) -> Result<()> {
    // Where it was not kept, plugins must do without (CNI specification, "DEL").
    let namespace = namespace.map(|path| path.display().to_string()).unwrap_or_default();
    let mut failed = None;
    for mut plugin in plugins(list, plan).into_iter().rev() {
        if let Some(result) = &state.result {
            plugin["prevResult"] = result.clone();
        }
        if let Err(e) = run_plugin(&plugin, "DEL", &state.id, &namespace, "eth0") {
            failed.get_or_insert(e);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn run_plugin(config: &Value, command: &str, id: &str, netns: &str, interface: &str) -> Result<Option<Value>> {
    let name = config["type"].as_str().unwrap_or_default();
    let step = || format!("CNI plugin {name} {command}");
    if name.is_empty() || name.contains('/') {
        return Err(Error::malformed("a plugin without a type")).with(step);
    }
    let directories = plugin_directories();
    let missing =
        || Error::missing(format!("not in {} (install containernetworking-plugins)", PLUGIN_DIRECTORIES.join(", ")));
    let program =
        directories.iter().map(|dir| dir.join(name)).find(|path| path.exists()).ok_or_else(missing).with(step)?;
    let run = || -> Result<Option<Value>> {
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", interface)
            .env("CNI_PATH", std::env::join_paths(&directories).map_err(|e| Error::other(e.to_string()))?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&oci::to_json(config)?)?;
        }
        let out = child.wait_with_output()?;
        let said: Option<Value> = serde_json::from_slice(&out.stdout).ok();
        if out.status.success() {
            return Ok(said);
        }
        let text = said.and_then(|said| Some(said.get("msg")?.as_str()?.to_owned()));
        Err(Error::other(text.unwrap_or_else(|| String::from_utf8_lossy(&out.stderr).trim().to_owned())))
    };
    run().with(step)
}

/// Starts pasta, which goes on in the background as long as the namespace is there.
fn pasta(directory: &Path, plan: &Plan, pid: u32) -> Result<()> {
    let log = directory.join("pasta.log");
    let mut command = Command::new("pasta");
    command.args(["--config-net", "--quiet", "--no-map-gw", "--pid"]).arg(directory.join(PASTA_PID));
    for (flag, protocol) in [("-t", "tcp"), ("-u", "udp")] {
        let ports: Vec<String> = plan
            .ports
            .iter()
            .filter(|port| port.protocol == protocol)
            .map(|port| {
                let address = port.host_ip.map(|ip| format!("{ip}/")).unwrap_or_default();
                format!("{address}{}:{}", port.host, port.container)
            })
            .collect();
        if ports.is_empty() {
            command.args([flag, "none"]);
        }
        for port in ports {
            command.args([flag, &port]);
        }
    }
    command.args(["-T", "none", "-U", "none"]);
    let namespace;
    if rustix::process::geteuid().is_root() {
        // As root it would become nobody. It gives up its capabilities before it looks for the namespace, and could not
        // open it by the path of a process that has more of them: it inherits ours.
        let flags = OFlags::RDONLY; // and not CLOEXEC
        namespace = openat(CWD, format!("/proc/{pid}/ns/net"), flags, Mode::empty()).at("pasta: network namespace")?;
        let inherited = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        command.args(["--runas", "0:0", "--netns-only", "--netns", &inherited]);
    } else {
        access("/dev/net/tun", Access::READ_OK | Access::WRITE_OK).at("pasta: /dev/net/tun")?;
        command.arg(pid.to_string());
    }
    let mut start = || -> Result<()> {
        let out = fs::File::create(&log)?;
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).status()?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(Error::other(format!("{status}: {}", said.trim())))
    };
    start().at("pasta")
}

fn end_pasta(directory: &Path) -> Result<()> {
    let path = directory.join(PASTA_PID);
    let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // The descriptor first: what it names then cannot become another process any more.
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
        if let Ok(process) = process
            && ["pasta", "passt"].iter().any(|ours| name.starts_with(ours))
        {
            match rustix::process::pidfd_send_signal(&process, rustix::process::Signal::TERM) {
                // Its ports are free once it is gone.
                Ok(()) => drop(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&PASTA_END))),
                Err(rustix::io::Errno::SRCH) => {}
                Err(e) => return Err(e).at("end pasta"),
            }
        }
    }
    let _ = fs::remove_file(&path);
    Ok(())
}
