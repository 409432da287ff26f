//! `--security-opt`, `--privileged`, `--device`, `--ulimit`.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};

use super::options::clean_absolute;
use crate::cdi;
use crate::error::{Error, Result, Step};

/// One `--security-opt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecurityOpt {
    NoSeccomp,
    /// A profile as the runtime specification has it, or Docker's form of it with no conditions.
    Seccomp(PathBuf),
    AppArmor(String),
    NoNewPrivileges(bool),
    /// Nothing masked and nothing read-only below /proc and /sys.
    AllPaths,
    /// Without SELinux there are no labels.
    NoLabel,
}

impl FromStr for SecurityOpt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
        match (key, value) {
            ("seccomp", "unconfined") => Ok(Self::NoSeccomp),
            ("seccomp", file) if !file.is_empty() => Ok(Self::Seccomp(file.into())),
            ("apparmor", profile) if !profile.is_empty() => Ok(Self::AppArmor(profile.to_owned())),
            ("no-new-privileges", "" | "true") => Ok(Self::NoNewPrivileges(true)),
            ("no-new-privileges", "false") => Ok(Self::NoNewPrivileges(false)),
            ("systempaths" | "unmask", "unconfined" | "ALL") => Ok(Self::AllPaths),
            ("label", "disable") => Ok(Self::NoLabel),
            _ => Err(Error::malformed(format!(
                "{text:?}: want seccomp=unconfined|FILE, apparmor=PROFILE, no-new-privileges, systempaths=unconfined or label=disable"
            ))),
        }
    }
}

/// A seccomp profile of the user's. Conditions that only a container engine can judge are not guessed at.
pub(super) fn read_seccomp(file: &Path) -> Result<Value> {
    let step = || format!("--security-opt seccomp={}", file.display());
    let value: Value = crate::oci::json(&fs::read(file).with(step)?).with(step)?;
    if !value.get("defaultAction").is_some_and(Value::is_string) {
        return Err(Error::malformed("lacks defaultAction")).with(step);
    }
    let conditional = |rule: &Value| {
        ["includes", "excludes"]
            .iter()
            .any(|key| rule.get(key).is_some_and(|v| v.as_object().is_none_or(|o| !o.is_empty())))
    };
    if value.get("archMap").is_some() || value["syscalls"].as_array().into_iter().flatten().any(conditional) {
        return Err(Error::other("has conditions (archMap, includes, excludes): give a profile without")).with(step);
    }
    Ok(value)
}

/// One `--device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Node {
        host: PathBuf,
        container: String,
        access: String,
    },
    /// By the name of the machine's CDI specifications.
    Named(String),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if cdi::is_name(text) {
            return Ok(Self::Named(text.to_owned()));
        }
        let bad = || Error::malformed(format!("{text:?}: want /HOST[:/CONTAINER][:rwm] or VENDOR/CLASS=NAME"));
        let is_access = |text: &str| !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b));
        let parts: Vec<&str> = text.split(':').collect();
        let (host, container, access) = match parts.as_slice() {
            [host] => (*host, *host, "rwm"),
            [host, access] if is_access(access) => (*host, *host, *access),
            [host, container] => (*host, *container, "rwm"),
            [host, container, access] if is_access(access) => (*host, *container, *access),
            _ => return Err(bad()),
        };
        if !host.starts_with('/') {
            return Err(bad());
        }
        let container = clean_absolute(container).ok_or_else(bad)?;
        Ok(Self::Node { host: host.into(), container, access: access.to_owned() })
    }
}

/// Entries for `linux.devices` and `linux.resources.devices`.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) nodes: Vec<Value>,
    pub(super) rules: Vec<Value>,
    /// Those that have another path in the container, with that of the host.
    pub(super) moved: Vec<(PathBuf, String)>,
}

impl Devices {
    /// Looks the devices up on the host, but for those that have a name.
    pub(super) fn of(asked: &[Device], privileged: bool) -> Result<Self> {
        let mut all = Self::default();
        for device in asked {
            let Device::Node { host, container, access } = device else { continue };
            all.add(host, container, access).with(|| format!("--device {}", host.display()))?;
        }
        if privileged {
            all.rules = vec![json!({"allow": true, "access": "rwm"})];
            all.tree(Path::new("/dev"), 0);
        }
        Ok(all)
    }

    fn add(&mut self, host: &Path, container: &str, access: &str) -> Result<()> {
        let meta = fs::metadata(host)?;
        if meta.is_dir() {
            for entry in fs::read_dir(host)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() || kind.is_char_device() || kind.is_block_device() {
                    let below = format!("{container}/{}", entry.file_name().to_string_lossy());
                    self.add(&entry.path(), &below, access)?;
                }
            }
            return Ok(());
        }
        let node = node(&meta, container).ok_or_else(|| Error::other("is no device"))?;
        self.rules.push(
            json!({"allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access}),
        );
        self.nodes.push(node);
        if host != Path::new(container) {
            self.moved.push((host.to_owned(), container.to_owned()));
        }
        Ok(())
    }

    /// Every device of the host, for a privileged container. What comes and goes meanwhile does not matter.
    fn tree(&mut self, directory: &Path, depth: usize) {
        let Ok(list) = fs::read_dir(directory) else { return };
        for entry in list.flatten() {
            let path = entry.path();
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let name = entry.file_name();
            // The container has its own of these.
            let own =
                ["pts", "shm", "mqueue", "fd", "console", "ptmx", "null", "zero", "full", "random", "urandom", "tty"];
            if depth == 0 && own.iter().any(|own| name == *own) {
                continue;
            }
            if meta.is_dir() && depth < 8 {
                self.tree(&path, depth + 1);
            } else if let Some(node) = node(&meta, &path.to_string_lossy()) {
                self.nodes.push(node);
            }
        }
    }
}

fn node(meta: &fs::Metadata, path: &str) -> Option<Value> {
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    Some(json!({
        "path": path, "type": kind, "major": major, "minor": minor,
        "fileMode": meta.mode() & 0o777, "uid": meta.uid(), "gid": meta.gid(),
    }))
}

/// One `--ulimit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rlimit {
    name: String,
    soft: u64,
    hard: u64,
}

impl Rlimit {
    pub(super) fn entry(&self) -> Value {
        json!({"type": self.name, "soft": self.soft, "hard": self.hard})
    }
}

impl FromStr for Rlimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        const NAMES: [&str; 16] = [
            "as",
            "core",
            "cpu",
            "data",
            "fsize",
            "locks",
            "memlock",
            "msgqueue",
            "nice",
            "nofile",
            "nproc",
            "rss",
            "rtprio",
            "rttime",
            "sigpending",
            "stack",
        ];
        let bad = |why: &str| Error::malformed(format!("{text:?}: {why} (want NAME=SOFT[:HARD])"));
        let (name, values) = text.split_once('=').ok_or_else(|| bad("no limit"))?;
        if !NAMES.contains(&name) {
            return Err(bad("unknown name"));
        }
        let number = |text: &str| match text {
            "-1" | "unlimited" => Some(u64::MAX),
            digits => digits.parse::<u64>().ok(),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = number(soft).zip(number(hard)).ok_or_else(|| bad("no number"))?;
        if soft > hard {
            return Err(bad("the soft limit is above the hard one"));
        }
        Ok(Self { name: format!("RLIMIT_{}", name.to_ascii_uppercase()), soft, hard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options_devices_and_limits() {
        assert_eq!("no-new-privileges:true".parse::<SecurityOpt>().unwrap(), SecurityOpt::NoNewPrivileges(true));
        assert_eq!("seccomp=unconfined".parse::<SecurityOpt>().unwrap(), SecurityOpt::NoSeccomp);
        for bad in ["", "seccomp", "seccomp=", "apparmor", "foo=bar", "no-new-privileges=maybe"] {
            assert!(bad.parse::<SecurityOpt>().is_err(), "{bad}");
        }
        let device: Device = "/dev/null:/dev/other:r".parse().unwrap();
        let found = Devices::of(&[device], false).unwrap();
        assert_eq!(found.nodes[0]["path"], "/dev/other");
        assert_eq!(found.rules[0], json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}));
        assert!(Devices::of(&["/etc/passwd".parse().unwrap()], false).unwrap_err().to_string().contains("no device"));
        for bad in ["", "null", "/dev/null:x:rwx", "/dev/null:rel:r"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
        assert_eq!(
            "nofile=1024:2048".parse::<Rlimit>().unwrap().entry(),
            json!({"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048})
        );
        assert_eq!("core=-1".parse::<Rlimit>().unwrap().hard, u64::MAX);
        for bad in ["nofile", "files=1", "nofile=2:1", "nofile=x", "nofile=1:2:3"] {
            assert!(bad.parse::<Rlimit>().is_err(), "{bad}");
        }
    }
}
