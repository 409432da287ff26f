//! The mounts as data.

use super::options::Options;
use crate::{
    error::{Error, Result},
    spec::Mount,
    sys::MountAttr,
};
use std::path::{Component, Path, PathBuf};

/// One mount, ready to be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// `mounts[3]`, for errors.
    pub(crate) field: String,
    /// Within the root.
    pub(crate) destination: PathBuf,
    pub(crate) what: What,
    pub(crate) attr: MountAttr,
    pub(crate) recursive: MountAttr,
    pub(crate) propagation: Vec<(u64, bool)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A part of the host's tree.
    Bind { source: PathBuf, recursive: bool },
    /// A file system made for this container.
    New { kind: String, source: String, parameters: Vec<(String, Option<String>)>, copy_up: bool },
    /// The container's own cgroup directories.
    Cgroup,
    /// Other attributes for what is mounted there.
    Remount,
}

impl What {
    /// A file system whose files configure the kernel must lie on a plain directory: through a link of the image it
    /// would come to lie elsewhere and a forgery in its place (CVE-2019-19921, CVE-2023-27561).
    pub(crate) fn on_plain_directory(&self) -> bool {
        matches!(self, What::New { kind, .. } if matches!(kind.as_str(), "proc" | "sysfs"))
    }
}

/// What engines put over files of procfs (LXCFS and the like). Anything else there would make a lie of what is written and
/// read through it (CVE-2019-16884).
const OVER_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

impl Step {
    /// Whether this may lie on a file of procfs.
    pub(crate) fn may_cover_proc(&self) -> bool {
        OVER_PROC.iter().any(|path| clean(&self.destination) == Path::new(path))
    }

    /// Whether this is the container's `/proc` itself.
    pub(crate) fn is_proc(&self) -> bool {
        clean(&self.destination) == Path::new("/proc")
    }
}

/// Without `.`, `..` and double slashes, as the path reads; where links lead is found out when it is opened.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The steps for `mounts`; relative bind sources are the bundle's (runtime-spec `config.md`, `source`).
pub(crate) fn steps(mounts: &[Mount], bundle: &Path) -> Result<Vec<Step>> {
    mounts.iter().enumerate().map(|(i, mount)| step(format!("mounts[{i}]"), mount, bundle)).collect()
}

fn step(field: String, mount: &Mount, bundle: &Path) -> Result<Step> {
    let options = Options::parse(&mount.options);
    if mount.destination.as_os_str().is_empty() {
        return Err(Error::invalid(format!("{field}.destination"), "must not be empty"));
    }
    if options.id_mapped || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::invalid(field, "id-mapped mounts are not supported by this version"));
    }
    let source = mount.source.clone().unwrap_or_default();
    let what = match (&*mount.kind, options.bind) {
        _ if options.remount && options.bind.is_none() => What::Remount,
        ("bind", bind) | (_, bind @ Some(_)) => {
            if source.as_os_str().is_empty() {
                return Err(Error::invalid(format!("{field}.source"), "a bind mount needs a source"));
            }
            if let Some((unknown, _)) = options.parameters.first() {
                return Err(Error::invalid(
                    format!("{field}.options"),
                    format!("{unknown:?} is no option of a bind mount"),
                ));
            }
            What::Bind { source: bundle.join(source), recursive: bind.unwrap_or(false) }
        }
        ("cgroup" | "cgroup2", None) => What::Cgroup,
        ("", None) => {
            return Err(Error::invalid(format!("{field}.type"), "must not be empty unless options have bind"));
        }
        (kind, None) => What::New {
            kind: kind.to_owned(),
            source: source.to_string_lossy().into_owned(),
            parameters: options.parameters,
            copy_up: options.copy_up,
        },
    };
    let step = Step {
        field: format!("{field} {}", mount.destination.display()),
        destination: mount.destination.clone(),
        what,
        attr: options.attr,
        recursive: options.recursive,
        propagation: options.propagation,
    };
    let at = step.destination.display();
    match &step.what {
        What::New { kind, .. } if kind == "proc" => {}
        What::Bind { .. } | What::Remount if step.is_proc() => {}
        _ if step.is_proc() => {
            return Err(Error::invalid(field, format!("{at:?} cannot be mounted because it is not of type proc")));
        }
        _ if clean(&step.destination).starts_with("/proc") && !step.may_cover_proc() => {
            return Err(Error::invalid(field, format!("{at:?} cannot be mounted because it is inside /proc")));
        }
        _ => {}
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Result<Step> {
        let mount: Mount = crate::spec::parse(json.as_bytes())?;
        Ok(steps(&[mount], Path::new("/b"))?.remove(0))
    }

    #[test]
    fn turns_mounts_into_steps() {
        let proc = one(r#"{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]}"#).unwrap();
        assert!(proc.what.on_plain_directory());
        assert_eq!(proc.attr.set, libc::MOUNT_ATTR_NOSUID);
        let bind = one(r#"{"destination":"/d","type":"none","source":"data","options":["rbind","ro"]}"#).unwrap();
        assert_eq!(bind.what, What::Bind { source: "/b/data".into(), recursive: true });
        let bind = one(r#"{"destination":"/d","type":"bind","source":"/data"}"#).unwrap();
        assert_eq!(bind.what, What::Bind { source: "/data".into(), recursive: false });
        assert_eq!(one(r#"{"destination":"/d","type":"cgroup2"}"#).unwrap().what, What::Cgroup);
    }

    #[test]
    fn refuses_what_cannot_be_done() {
        for (json, expected) in [
            (r#"{"destination":"","type":"proc"}"#, "mounts[0].destination: must not be empty"),
            (r#"{"destination":"/d"}"#, "mounts[0].type: must not be empty unless options have bind"),
            (r#"{"destination":"/proc","type":"tmpfs"}"#, "mounts[0]: \"/proc\" cannot be mounted because it is not"),
            (r#"{"destination":"/x/../proc/self","type":"tmpfs"}"#, "mounts[0]: \"/x/../proc/self\" cannot be mounted"),
            (r#"{"destination":"/d","type":"bind"}"#, "mounts[0].source: a bind mount needs a source"),
            (r#"{"destination":"/d","source":"/x","options":["bind","size=1"]}"#, "mounts[0].options: \"size\""),
        ] {
            let error = one(json).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }
}
