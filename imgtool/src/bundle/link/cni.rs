//! Networks by CNI plugins: each is a program that is told by its environment and standard input what to do.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use serde_json::{Value, json};

use super::super::network::Plan;
use crate::error::{Error, Result, Step};
use crate::oci;

/// The network namespace, kept until the container is disconnected: plugins take their address translation off by the addresses
/// that they find in it.
pub(crate) const NAMESPACE: &str = "network-namespace";
/// The container's device.
pub(super) const INTERFACE: &str = "eth0";
/// `NSFS_MAGIC` of the kernel.
const NSFS: i64 = 0x6e73_6673;
/// Where distributions keep CNI's plugins.
const PLUGIN_DIRECTORIES: [&str; 3] = ["/opt/cni/bin", "/usr/libexec/cni", "/usr/lib/cni"];

/// Whether a plugin is installed.
pub(super) fn has_plugin(name: &str) -> bool {
    plugin_directories().iter().any(|dir| dir.join(name).is_file())
}

fn plugin_directories() -> Vec<PathBuf> {
    match std::env::var_os("CNI_PATH") {
        Some(path) => std::env::split_paths(&path).collect(),
        None => PLUGIN_DIRECTORIES.map(PathBuf::from).into(),
    }
}

/// Keeps the network namespace of a process in the bundle's directory.
pub(super) fn keep_namespace(directory: &Path, pid: u32) -> Result<PathBuf> {
    let path = directory.join(NAMESPACE);
    // What a power cut has left of one.
    forget_namespace(directory)?;
    fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let namespace = open_tree(CWD, format!("/proc/{pid}/ns/net"), flags)?;
    if is_own(&namespace)? {
        return Err(Error::other("it is this machine's, which a container is not connected to by plugins"));
    }
    move_mount(namespace, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(path)
}

/// The namespace that was kept; `None` where none is mounted. Nothing else that has its name is one: plugins take the
/// container's device away in it.
pub(super) fn kept_namespace(directory: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let kept = match openat(CWD, directory.join(NAMESPACE), flags, Mode::empty()) {
        Ok(kept) => kept,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    Ok((fstatfs(&kept)?.f_type == NSFS && !is_own(&kept)?).then_some(kept))
}

fn is_own(namespace: &OwnedFd) -> Result<bool> {
    let own = fs::metadata("/proc/self/ns/net")?;
    let stat = fstat(namespace.as_fd())?;
    Ok((stat.st_dev, stat.st_ino) == (own.dev(), own.ino()))
}

pub(super) fn forget_namespace(directory: &Path) -> std::io::Result<()> {
    let path = directory.join(NAMESPACE);
    match unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
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

/// Connects a namespace by all plugins of a list, one after the other; tells `answered` what each of them answered.
pub(super) fn add(
    list: &Value,
    plan: &Plan,
    id: &str,
    netns: &Path,
    mut answered: impl FnMut(&Value) -> Result<()>,
) -> Result<()> {
    let netns = &netns.display().to_string();
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
        result = run_plugin(&plugin, "ADD", id, netns, INTERFACE)?;
        if let Some(result) = &result {
            answered(result)?;
        }
    }
    match result {
        Some(_) => Ok(()),
        None => Err(Error::malformed("the CNI network has no plugins, or they gave no result")),
    }
}

/// Disconnects it again, by as many of the plugins as can. `result` is what `add` gave.
pub(super) fn delete(
    list: &Value,
    plan: &Plan,
    id: &str,
    result: Option<&Value>,
    namespace: Option<&OwnedFd>,
) -> Result<()> {
    // Where it was not kept, plugins must do without (CNI specification, "DEL").
    let own = std::process::id();
    let namespace = namespace.map(|fd| format!("/proc/{own}/fd/{}", fd.as_raw_fd())).unwrap_or_default();
    let mut failed = None;
    for mut plugin in plugins(list, plan).into_iter().rev() {
        if let Some(result) = result {
            plugin["prevResult"] = result.clone();
        }
        if let Err(e) = run_plugin(&plugin, "DEL", id, &namespace, INTERFACE) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_namespace_of_a_containers_is_given_to_plugins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAMESPACE);
        assert!(kept_namespace(dir.path()).unwrap().is_none());
        // A link to the machine's own, in which plugins would take away the machine's device.
        for target in ["/proc/self/ns/net", "/etc/passwd"] {
            std::os::unix::fs::symlink(target, &path).unwrap();
            assert!(kept_namespace(dir.path()).unwrap().is_none(), "{target}");
            forget_namespace(dir.path()).unwrap();
            assert!(Path::new(target).exists());
        }
        fs::write(&path, "").unwrap();
        assert!(kept_namespace(dir.path()).unwrap().is_none());
        if !rustix::process::geteuid().is_root() {
            eprintln!("only root may try to keep the machine's");
            return;
        }
        let refused = keep_namespace(dir.path(), std::process::id()).unwrap_err().to_string();
        assert!(refused.contains("this machine's"), "{refused}");
    }
}
