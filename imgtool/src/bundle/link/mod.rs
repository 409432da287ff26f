//! Connects a container with its network, and disconnects it: what the bundle's hooks do.
//!
//! ```text
//! createRuntime: imgtool network up DIR     the container's namespaces are there, its process waits
//! poststop:      imgtool network down DIR   the container is deleted
//! ```
//! What was done is written to network-state.json before it is begun, so that it can be undone whatever happens to us.

mod cni;
mod pasta;
mod ports;
mod stand_in;

use std::fs;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub(super) use cni::NAMESPACE;
pub(super) use ports::{is_taken, overlap, refused};

use super::network::Plan;
use super::publish::Port;
use crate::error::{Error, Result, Step, tell};
use crate::layout::{boot_id, check_ours, if_there};
use crate::{oci, regular};

pub(super) const PLAN: &str = "network.json";
pub(super) const STATE: &str = "network-state.json";
/// A runtime's state on standard input is read up to this size.
const STATE_MAX: u64 = 1 << 20;

/// network-state.json.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    id: String,
    /// The start of the machine that it is of.
    #[serde(default)]
    boot: String,
    /// What the plugins answered last, which they want to see again.
    result: Option<Value>,
}

/// What can connect a container on this machine without being configured first: as the machine's root the bridge, which
/// works without an uplink too, else pasta.
pub(super) fn usable() -> Option<super::Network> {
    let is_root = rustix::process::geteuid().is_root() && matches!(crate::rights::user_namespace(), Ok(None));
    if cni::has_plugin("bridge") && is_root {
        return Some(super::Network::Bridge);
    }
    pasta::is_there().then_some(super::Network::Pasta)
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
    let mut state = State { id: container.id, boot: boot_id()?, result: None };
    write(directory, &state)?;
    if let Err(e) = ports::take(directory, &state.id, container.pid, &plan.ports) {
        // Nothing else was done yet.
        let _ = fs::remove_file(directory.join(STATE));
        return Err(e);
    }
    let mut connect = || -> Result<()> {
        let Some(list) = &plan.cni else {
            return pasta::start(directory, &plan, container.pid);
        };
        let netns = cni::keep_namespace(directory, container.pid).at("keep the network namespace")?;
        let id = state.id.clone();
        // After each of them: who is killed in the middle leaves the addresses by which the first ones can undo theirs.
        cni::add(list, &plan, &id, &netns, |result| {
            state.result = Some(result.clone());
            write(directory, &state)
        })?;
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

/// Undoes what `up` did for a container whose processes and mounts are all gone, and with them its network namespace.
pub(crate) fn down_after_death(directory: &Path) -> Result<()> {
    // Pasta has died too, and its number may be another's.
    if directory.join(STATE).exists() && plan(directory)?.cni.is_some() { down(directory) } else { Ok(()) }
}

/// The ports of the bundle at `directory`, be its container connected or not.
pub(crate) fn published(directory: &Path) -> Result<Vec<Port>> {
    super::read_record(directory)?;
    Ok(if_there(plan(directory))?.map(|plan| plan.ports).unwrap_or_default())
}

fn plan(directory: &Path) -> Result<Plan> {
    read(&directory.join(PLAN))
}

/// What we wrote. Programs are run by what it says, so that nobody else may have put it there: a bundle in a directory of another
/// user's can be exchanged.
fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let name = || path.display().to_string();
    let mut file = regular::open(path).with(|| format!("read {}", path.display()))?;
    file.metadata().map_err(Error::from).and_then(|meta| check_ours(&meta)).with(name)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with(|| format!("read {}", path.display()))?;
    oci::json(&bytes).with(name)
}

fn write(directory: &Path, state: &State) -> Result<()> {
    let (path, temporary) = (directory.join(STATE), directory.join(".network-state.json"));
    fs::write(&temporary, oci::to_json(state)?)
        .and_then(|()| fs::rename(&temporary, &path))
        .with(|| format!("write {}", path.display()))
}

fn undo(directory: &Path, plan: &Plan) -> Result<()> {
    let path = directory.join(STATE);
    let state: State = read(&path)?;
    // Of another start of the machine there are no rules left, which plugins would fail to take off, and no processes: but addresses
    // are kept on a disk.
    let is_there = state.boot.is_empty() || state.boot == boot_id()?;
    match &plan.cni {
        Some(list) => {
            let mut kept = cni::kept_namespace(directory).at(NAMESPACE)?;
            if let (None, Some(result), true) = (&kept, &state.result, is_there) {
                // Without one plugins do what they can.
                kept = stand_in::make(cni::INTERFACE, result)
                    .inspect_err(|e| tell(format_args!("imgtool: a network namespace for the one that is gone: {e}")))
                    .ok();
            }
            cni::delete(list, plan, &state.id, state.result.as_ref(), kept.as_ref())?;
            cni::forget_namespace(directory).with(|| format!("unmount {NAMESPACE}"))?;
        }
        None if is_there => pasta::end(directory)?,
        None => {}
    }
    if !plan.ports.is_empty() {
        ports::release(directory)?;
    }
    match fs::remove_file(&path) {
        // Who wants the ports of a container that is dead may be faster than its runtime.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with(|| format!("remove {}", path.display())),
    }
}
