//! The mounts as data.

use super::{flags::Flags, options::Options};
use crate::{
    error::{Error, Result},
    spec::{IdMapping, Linux, Mount, NamespaceKind},
    sys::MountAttr,
};
use std::path::{Component, Path, PathBuf};

/// One mount, ready to be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// For errors: what fails, in runc's words, and the field that asks for it.
    pub(crate) failing: String,
    /// Within the root.
    pub(crate) destination: PathBuf,
    pub(crate) what: What,
    pub(crate) flags: Flags,
    pub(crate) recursive: MountAttr,
    pub(crate) propagation: Vec<(u64, bool)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A part of the host's tree.
    Bind { source: Source, recursive: bool, id_map: Option<IdMap> },
    /// A file system made for this container.
    New { kind: String, source: String, parameters: Vec<(String, Option<String>)>, copy_up: bool },
    /// The container's own cgroup directories.
    Cgroup,
    /// Other attributes for what is mounted there.
    Remount,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// As the host sees it, before anything was mounted.
    Host(PathBuf),
    /// Below the container's root, with what was mounted there before this step.
    Root(PathBuf),
}

/// The files of a bind mount belong to other ids in the container than on the disk (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap {
    /// Also those of the mounts below.
    pub(crate) recursive: bool,
    pub(crate) ids: Ids,
}

/// The user namespace whose maps are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// One that is made for it.
    Maps { uids: Vec<IdMapping>, gids: Vec<IdMapping> },
    /// An existing one.
    Namespace(PathBuf),
}

impl What {
    /// A file system whose files configure the kernel must lie on a plain directory: through a link of the image it
    /// would come to lie elsewhere and a forgery in its place (CVE-2019-19921, CVE-2023-27561).
    pub(crate) fn on_plain_directory(&self) -> bool {
        matches!(self, What::New { kind, .. } if matches!(kind.as_str(), "proc" | "sysfs"))
    }

    /// Whether the network namespace of who makes it may matter, as it does for sysfs and for network file systems.
    pub(crate) fn may_need_network(&self) -> bool {
        const NEVER: [&str; 5] = ["proc", "tmpfs", "devpts", "mqueue", "overlay"];
        matches!(self, What::New { kind, .. } if !NEVER.contains(&kind.as_str()))
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

    /// Whether a read-only file system has to be written to first: places for further mounts, devices.
    pub(crate) fn sealed_late(&self) -> bool {
        let What::New { kind, .. } = &self.what else { return false };
        self.flags.has(libc::MS_RDONLY) && (kind == "tmpfs" || clean(&self.destination) == Path::new("/dev"))
    }

    /// Whether this is the container's `/proc` itself.
    pub(crate) fn is_proc(&self) -> bool {
        clean(&self.destination) == Path::new("/proc")
    }

    /// Whether this lies over the container's root itself.
    pub(crate) fn is_root(&self) -> bool {
        clean(&self.destination) == Path::new("/")
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

/// What decides how a mount is meant, besides the mount.
pub(crate) struct Context<'a> {
    pub(crate) bundle: &'a Path,
    /// Absolute.
    pub(crate) rootfs: &'a Path,
    pub(crate) linux: &'a Linux,
    pub(crate) privileged: bool,
}

/// The steps for `mounts`; relative bind sources are the bundle's (runtime-spec `config.md`, `source`).
pub(crate) fn steps(mounts: &[Mount], context: &Context<'_>) -> Result<Vec<Step>> {
    mounts.iter().enumerate().map(|(i, mount)| step(format!("mounts[{i}]"), mount, context)).collect()
}

fn step(field: String, mount: &Mount, context: &Context<'_>) -> Result<Step> {
    let options = Options::parse(&mount.options);
    if mount.destination.as_os_str().is_empty() {
        return Err(Error::invalid(format!("{field}.destination"), "must not be empty"));
    }
    let id_map = id_map(mount, &options, context).map_err(|rule| Error::invalid(&field, rule))?;
    let source = mount.source.clone().unwrap_or_default();
    let shown = source.display().to_string();
    let what = match (&*mount.kind, options.bind) {
        _ if options.remount && options.bind.is_none() => What::Remount,
        ("bind", bind) | (_, bind @ Some(_)) => {
            if source.as_os_str().is_empty() {
                return Err(Error::invalid(format!("{field}.source"), "a bind mount needs a source"));
            }
            if let Some((unknown, _)) = options.parameters.first() {
                return Err(Error::invalid(
                    format!("{field}.options"),
                    format!("{unknown:?}: bind mounts cannot have any filesystem-specific options applied"),
                ));
            }
            let source = context.bundle.join(source);
            let source = below(context.rootfs, &source).map_or(Source::Host(source), Source::Root);
            What::Bind { source, recursive: bind.unwrap_or(false), id_map }
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
        failing: format!(
            "error mounting {shown:?} to rootfs at {:?}: {field}",
            mount.destination.display().to_string()
        ),
        // Some write the host's path of the place.
        destination: below(context.rootfs, &mount.destination).unwrap_or_else(|| mount.destination.clone()),
        what,
        flags: options.flags,
        recursive: options.recursive,
        propagation: options.propagation,
    };
    check_proc(field, &step)?;
    Ok(step)
}

/// `path` below `rootfs`, if it reads so.
fn below(rootfs: &Path, path: &Path) -> Option<PathBuf> {
    let rootfs = clean(rootfs);
    if !path.is_absolute() || rootfs == Path::new("/") {
        return None;
    }
    let inner = clean(path).strip_prefix(rootfs).ok()?.to_owned();
    Some(Path::new("/").join(inner))
}

/// Nothing is put into procfs, and no other file system in its place.
fn check_proc(field: String, step: &Step) -> Result<()> {
    let at = step.destination.display();
    match &step.what {
        What::New { kind, .. } if kind == "proc" => Ok(()),
        What::Bind { .. } | What::Remount if step.is_proc() => Ok(()),
        _ if step.is_proc() => {
            Err(Error::invalid(field, format!("{at:?} cannot be mounted because it is not of type proc")))
        }
        _ if clean(&step.destination).starts_with("/proc") && !step.may_cover_proc() => {
            Err(Error::invalid(field, format!("{at:?} cannot be mounted because it is inside /proc")))
        }
        _ => Ok(()),
    }
}

/// The mapping that a mount asks for, by its own fields or by an option; the option alone means that of the container.
fn id_map(mount: &Mount, options: &Options, context: &Context<'_>) -> Result<Option<IdMap>, &'static str> {
    let (uids, gids) = (&mount.uid_mappings, &mount.gid_mappings);
    let own = !uids.is_empty() || !gids.is_empty();
    if options.id_map.is_none() && !own {
        return Ok(None);
    }
    if mount.kind != "bind" && options.bind.is_none() {
        return Err("id-mapped mounts are only supported for bind-mounts");
    }
    if !context.privileged {
        return Err("id-mapped mounts are not supported for rootless containers");
    }
    let linux = context.linux;
    let user = linux.namespaces.iter().find(|namespace| namespace.kind == NamespaceKind::User);
    let ids = match user.map(|namespace| &namespace.path) {
        Some(Some(path)) if !own => Ids::Namespace(path.clone()),
        Some(None) if !own => Ids::Maps { uids: linux.uid_mappings.clone(), gids: linux.gid_mappings.clone() },
        _ if uids.is_empty() || gids.is_empty() => {
            return Err("id-mapped mounts must have both uid and gid mappings specified");
        }
        _ => Ids::Maps { uids: uids.clone(), gids: gids.clone() },
    };
    Ok(Some(IdMap { recursive: options.id_map.unwrap_or(false), ids }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Result<Step> {
        one_of("{}", json)
    }

    fn one_of(linux: &str, json: &str) -> Result<Step> {
        let mount: Mount = crate::spec::parse(json.as_bytes())?;
        let linux: Linux = crate::spec::parse(linux.as_bytes())?;
        let context =
            Context { bundle: Path::new("/b"), rootfs: Path::new("/b/./rootfs"), linux: &linux, privileged: true };
        Ok(steps(&[mount], &context)?.remove(0))
    }

    fn bind(path: &str, recursive: bool) -> What {
        What::Bind { source: Source::Host(path.into()), recursive, id_map: None }
    }

    #[test]
    fn turns_mounts_into_steps() {
        let proc = one(r#"{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]}"#).unwrap();
        assert!(proc.what.on_plain_directory());
        assert_eq!(proc.flags.set, libc::MS_NOSUID);
        let step = one(r#"{"destination":"/d","type":"none","source":"data","options":["rbind","ro"]}"#).unwrap();
        assert_eq!(step.what, bind("/b/data", true));
        let step = one(r#"{"destination":"/d","type":"bind","source":"/data"}"#).unwrap();
        assert_eq!(step.what, bind("/data", false));
        assert_eq!(one(r#"{"destination":"/d","type":"cgroup2"}"#).unwrap().what, What::Cgroup);
    }

    #[test]
    fn what_is_named_below_the_root_is_the_containers() {
        let json = r#"{"destination":"/b/rootfs/final","source":"rootfs/mnt/x/","options":["rbind"]}"#;
        let step = one(json).unwrap();
        assert_eq!(step.destination, Path::new("/final"));
        assert_eq!(step.what, What::Bind { source: Source::Root("/mnt/x".into()), recursive: true, id_map: None });
        assert_eq!(
            one(r#"{"destination":"/d","source":"/b/rootfs2","options":["bind"]}"#).unwrap().what,
            bind("/b/rootfs2", false)
        );
    }

    #[test]
    fn a_mapping_is_the_mounts_own_or_the_containers() {
        const MAP: &str = r#"[{"containerID":0,"hostID":5,"size":9}]"#;
        let own = format!(
            r#"{{"destination":"/d","source":"/s","options":["bind"],"uidMappings":{MAP},"gidMappings":{MAP}}}"#
        );
        let new = format!(r#"{{"namespaces":[{{"type":"user"}}],"uidMappings":{MAP},"gidMappings":{MAP}}}"#);
        let joined = r#"{"namespaces":[{"type":"user","path":"/u"}]}"#;
        let option = r#"{"destination":"/d","source":"/s","options":["rbind","ridmap"]}"#;
        let map = IdMapping { container_id: 0, host_id: 5, size: 9 };
        let maps = Ids::Maps { uids: vec![map], gids: vec![map] };
        for (linux, mount, recursive, ids) in [
            ("{}", own.as_str(), false, maps.clone()),
            (joined, &own, false, maps.clone()),
            (&new, option, true, maps),
            (joined, option, true, Ids::Namespace("/u".into())),
        ] {
            let What::Bind { id_map, .. } = one_of(linux, mount).unwrap().what else { panic!("{mount}") };
            assert_eq!(id_map, Some(IdMap { recursive, ids }), "{linux} {mount}");
        }
        let both = "mounts[0]: id-mapped mounts must have both uid and gid mappings specified";
        assert_eq!(one(option).unwrap_err().to_string(), both);
        let half = format!(r#"{{"destination":"/d","source":"/s","options":["bind"],"uidMappings":{MAP}}}"#);
        assert_eq!(one(&half).unwrap_err().to_string(), both);
        let tmpfs = one(r#"{"destination":"/d","type":"tmpfs","options":["idmap"]}"#).unwrap_err().to_string();
        assert_eq!(tmpfs, "mounts[0]: id-mapped mounts are only supported for bind-mounts");
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
