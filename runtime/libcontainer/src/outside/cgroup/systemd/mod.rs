//! The systemd driver: a container's cgroup is that of a transient scope, which systemd makes, limits and removes. What
//! systemd has no property for is written to the cgroup's files, as the fs driver does: the scope is delegated.
//!
//! ```text
//!   create    clone init into the caller's cgroup · StartTransientUnit with its pid · wait for JobRemoved
//!             SetUnitProperties, then the files
//!   update    SetUnitProperties, then the files
//!   delete    remove the cgroup · StopUnit · wait for JobRemoved · ResetFailedUnit
//! ```
//!
//! A scope cannot be made without a process to put in it, so init is not born in its cgroup here, but moved before it does
//! anything.

mod annotation;
mod bus;
mod name;
mod properties;
mod wire;

use super::{Mode, Setting, devices::Rules};
use crate::error::{At, Error, Result};
use bus::Bus;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use wire::Value;

/// A container's scope. Part of the saved state.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// Such as `docker-1234.scope`.
    pub name: String,
    /// The slice that it is in.
    pub slice: String,
    /// It belongs to the user's manager rather than the system's.
    pub user: bool,
}

/// Who makes a container's cgroup.
#[derive(Debug)]
pub enum Driver {
    /// The runtime itself, as directories.
    Fs,
    /// systemd, as a scope with these properties of the user's.
    Systemd(Properties),
}

/// Properties of a unit, checked.
#[derive(Debug, Default)]
pub struct Properties(Vec<(String, Value)>);

impl Driver {
    /// The driver that was asked for; systemd's takes annotations `org.systemd.property.NAME`.
    pub fn of(systemd: bool, annotations: &BTreeMap<String, String>) -> Result<Self> {
        if !systemd {
            return Ok(Self::Fs);
        }
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(Error::other(
                "systemd not running on this host, cannot use systemd cgroups manager; leave out --systemd-cgroup",
            ));
        }
        annotation::properties(annotations).map(|properties| Self::Systemd(Properties(properties)))
    }
}

/// A manager, and where its cgroup is beneath the hierarchy's root.
#[derive(Debug)]
pub(super) struct Manager {
    pub(super) user: bool,
    pub(super) root: PathBuf,
}

impl Manager {
    /// The system's for root, the user's for others. Root of a user namespace is whose the system's socket is: in a
    /// container with a systemd of its own it is root's, in one of an ordinary user's (Podman) it is nobody's.
    pub(super) fn look() -> Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let user = !is_root || std::fs::metadata(bus::PRIVATE).is_ok_and(|it| it.uid() != 0);
        if !user {
            return Ok(Self { user, root: PathBuf::new() });
        }
        let root = connect(user)?.property("ControlGroup")?;
        Ok(Self { user, root: super::clean(root) })
    }

    /// The scope and the path of its cgroup.
    pub(super) fn place(&self, cgroups_path: &str, id: &str) -> Result<(Unit, PathBuf)> {
        let (slice, name) = name::parse(cgroups_path, id, self.user)?;
        let path = self.root.join(name::expand(&slice)?).join(&name);
        Ok((Unit { name, slice, user: self.user }, path))
    }
}

fn connect(user: bool) -> Result<Bus> {
    Bus::connect(user).map_err(|error| {
        let hint = if user {
            " (hint: for rootless containers, maybe you need to install dbus-user-session package)"
        } else {
            ""
        };
        error.at(format!("failed to connect to dbus{hint}"))
    })
}

/// A connection that outlasts one step.
#[derive(Debug)]
pub(super) struct Connection(Bus);

impl Unit {
    /// Has systemd make the scope with this process in it, and waits until it has.
    pub(super) fn start(&self, mode: Mode, own: &Properties, pid: u32) -> Result<Connection> {
        let mut bus = connect(self.user)?;
        let step = || format!("unable to start unit {:?}", self.name);
        let set = |name: &str, value| (name.to_owned(), value);
        let io = if mode == Mode::V2 { "IOAccounting" } else { "BlockIOAccounting" };
        let mut properties = vec![
            set("Description", Value::str(format!("container {}", self.name.trim_end_matches(".scope")))),
            set("Slice", Value::str(&self.slice)),
            set("Delegate", Value::Bool(true)),
            set("PIDs", Value::Array("u".into(), vec![Value::U32(pid)])),
            // Statistics of a container without limits need the controllers, too.
            set("MemoryAccounting", Value::Bool(true)),
            set("CPUAccounting", Value::Bool(true)),
            set(io, Value::Bool(true)),
            set("TasksAccounting", Value::Bool(true)),
            // The scope ends with the container, not with the shutdown's first steps.
            set("DefaultDependencies", Value::Bool(false)),
        ];
        properties.extend(own.0.iter().cloned());
        let body = [
            Value::str(&self.name),
            Value::str("replace"),
            Value::properties(&properties),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let mut answer = bus.manager("StartTransientUnit", &body).at_with(step)?;
        if answer.as_ref().is_err_and(|refusal| refusal.is("UnitExists")) {
            // Perhaps one that failed and was left: systemd forgets it, and the name is free.
            self.reset(&mut bus)?;
            answer = bus.manager("StartTransientUnit", &body).at_with(step)?;
        }
        let result = bus.await_job(&answer.at_with(step)?).at_with(step)?;
        if result != "done" {
            self.reset(&mut bus)?;
            return Err(Error::other(format!("error creating systemd unit `{}`: got `{result}`", self.name)));
        }
        Ok(Connection(bus))
    }

    /// Puts properties in force, for limits of `settings` and for the device rules, and rounds settings to what systemd can
    /// say. Returns when systemd has written what it writes, so that the files have the last word.
    pub(super) fn set(
        &self,
        connection: Option<Connection>,
        mode: Mode,
        settings: &mut [Setting],
        devices: Option<&Rules>,
    ) -> Result<()> {
        let mut connection = connection;
        let mut bus = None;
        let version = || {
            let bus = connected(&mut connection, &mut bus, self.user)?;
            bus.property("Version").map(|text| version_number(&text))
        };
        let mut properties = properties::properties(mode, settings, version)?;
        properties.extend(devices.map(|rules| device_properties(rules, mode)).into_iter().flatten());
        if properties.is_empty() {
            return Ok(());
        }
        // Each becomes a file in a directory of the unit. systemd compares their names in the order in which they were made with
        // the sorted directory, and believes that it must be reloaded when that differs.
        properties.sort_by(|(one, _), (other, _)| one.cmp(other));
        let bus = connected(&mut connection, &mut bus, self.user)?;
        let body = [Value::str(&self.name), Value::Bool(true), Value::properties(&properties)];
        let answer = bus.manager("SetUnitProperties", &body)?;
        answer.map_err(Error::from).at("unable to set unit properties")?;
        bus.fence()
    }

    /// Moves a process into the scope, to the cgroup at `path` of it or below.
    pub(super) fn attach(&self, path: &Path, pid: u32) -> Result<()> {
        let step = || format!("put process {pid} into {}", path.display());
        let below: PathBuf = path.iter().skip_while(|name| *name != self.name.as_str()).skip(1).collect();
        let below = below.to_str().ok_or_else(|| Error::other("systemd takes names in UTF-8 only")).at_with(step)?;
        // Nothing is the scope itself.
        let below = if below.is_empty() { String::new() } else { format!("/{below}") };
        let body = [Value::str(&self.name), Value::Str(below), Value::Array("u".into(), vec![Value::U32(pid)])];
        let answer = connect(self.user)?.manager("AttachProcessesToUnit", &body)?;
        answer.map(drop).map_err(Error::from).at_with(step)
    }

    /// Ends the scope, which must have no live processes any more: systemd would wait for them. One that is gone is fine.
    pub(super) fn stop(&self) -> Result<()> {
        let mut bus = connect(self.user)?;
        let step = || format!("stop unit {}", self.name);
        match bus.manager("StopUnit", &[Value::str(&self.name), Value::str("replace")]).at_with(step)? {
            Ok(answer) => {
                let result = bus.await_job(&answer).at_with(step)?;
                if result != "done" {
                    tracing::warn!("{}: got `{result}`", step());
                }
            }
            Err(refusal) if refusal.is("NoSuchUnit") => return Ok(()),
            Err(refusal) => return Err(Error::from(refusal).at(step())),
        }
        self.reset(&mut bus)
    }

    /// Has systemd forget a unit that failed. One that did not is none to forget.
    fn reset(&self, bus: &mut Bus) -> Result<()> {
        bus.manager("ResetFailedUnit", &[Value::str(&self.name)]).map(drop)
    }
}

fn connected<'a>(kept: &mut Option<Connection>, bus: &'a mut Option<Bus>, user: bool) -> Result<&'a mut Bus> {
    let open = match (bus.take(), kept.take()) {
        (Some(bus), _) | (None, Some(Connection(bus))) => bus,
        (None, None) => connect(user)?,
    };
    Ok(bus.insert(open))
}

/// `v245.4-1.fc32` is 245. An unreadable one is taken for old.
fn version_number(text: &str) -> u32 {
    let digits = text.trim_start_matches(['"', 'v']);
    let end = digits.find(|it: char| !it.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end).and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// The device rules, where systemd can express them: it knows a list of what is allowed, or all. Elsewhere it is told to leave
/// v2 alone, where only the program counts that the runtime attaches, and to deny all on v1, where the runtime's own lines
/// come after.
fn device_properties(rules: &Rules, mode: Mode) -> [(String, Value); 2] {
    let (list, policy) = match (rules.allowed(), mode) {
        (Some(Some(list)), _) => (list, "strict"),
        (Some(None), _) | (None, Mode::V2) => (Vec::new(), "auto"),
        (None, Mode::V1) => (Vec::new(), "strict"),
    };
    let pairs = list.into_iter().map(|(path, access)| Value::Struct(vec![Value::Str(path), Value::Str(access)]));
    [
        ("DevicePolicy".to_owned(), Value::str(policy)),
        ("DeviceAllow".to_owned(), Value::Array("(ss)".into(), pairs.collect())),
    ]
}

#[cfg(test)]
mod tests;
