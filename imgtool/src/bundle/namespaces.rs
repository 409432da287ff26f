//! `--pid`, `--ipc`, `--uts`, `--cgroupns` and `--network` of others: namespaces that are the host's or another container's.
//!
//! config.json names a namespace by a path. That of a process is another's as soon as its number is, so what a bundle joins is
//! kept in its directory, as a mount: `namespaces/KIND`. A container that is started anew has new ones, which only a bundle that
//! is made anew joins.

use std::fs::{self, DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{CWD, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount};
use serde_json::{Value, json};

use super::containers::Container;
use super::network::Network;
use super::options::Options;
use super::read_record;
use super::userns::UserNs;
use crate::error::{Error, Result, Step};

/// The directory of a bundle with what it joins.
pub(super) const KEPT: &str = "namespaces";
/// The directory of a bundle that is /dev/shm for it and all that join it.
pub(super) const SHM: &str = "shm";
/// `NSFS_MAGIC` of the kernel.
const NSFS: i64 = 0x6e73_6673;

/// Whose a namespace is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The container's own.
    #[default]
    Private,
    Host,
    /// A running container's: by its name at the standalone shim, its id at the runtime, or its bundle's directory.
    Container(String),
    /// The one at this path.
    Path(PathBuf),
}

impl Origin {
    /// `container:WHICH` and `ns:PATH`.
    pub(super) fn joined(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("container", which) if !which.is_empty() => Some(Self::Container(which.to_owned())),
            ("ns", path) if path.starts_with('/') => Some(Self::Path(path.into())),
            _ => None,
        }
    }

    pub(super) fn is_joined(&self) -> bool {
        matches!(self, Self::Container(_) | Self::Path(_))
    }
}

impl FromStr for Origin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "private" => Ok(Self::Private),
            "host" => Ok(Self::Host),
            other => Self::joined(other).ok_or_else(|| {
                Error::malformed(format!("{text:?}: want private, host, container:NAME-or-DIR or ns:/PATH"))
            }),
        }
    }
}

/// `--ipc`: the namespace, and what of /dev/shm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ipc {
    pub(super) origin: Origin,
    pub(super) memory: Memory,
}

/// What shared memory a container with an IPC namespace of its own has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Memory {
    #[default]
    Own,
    None,
    /// Others may join it.
    Shareable,
}

impl FromStr for Ipc {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let memory = match text {
            "none" => Memory::None,
            "shareable" => Memory::Shareable,
            other => {
                let origin = other.parse().map_err(|_| {
                    let want = "private, none, shareable, host, container:NAME-or-DIR or ns:/PATH";
                    Error::malformed(format!("{text:?}: want {want}"))
                })?;
                return Ok(Self { origin, memory: Memory::Own });
            }
        };
        Ok(Self { origin: Origin::Private, memory })
    }
}

/// The kinds that have an origin, with it.
fn origins(options: &Options) -> [(&'static str, Origin); 5] {
    let network = match &options.network {
        Network::Host => Origin::Host,
        Network::Joined(origin) => origin.clone(),
        _ => Origin::Private,
    };
    [
        ("pid", options.pid.clone()),
        ("ipc", options.ipc.origin.clone()),
        ("uts", options.uts.clone()),
        ("cgroup", options.cgroup.clone()),
        ("network", network),
    ]
}

/// `linux.namespaces`; `joined` has the paths of those of others.
pub(super) fn entries(options: &Options, joined: &[(&'static str, PathBuf)]) -> Vec<Value> {
    let mut all = vec![json!({"type": "mount"})];
    for (kind, origin) in origins(options) {
        match joined.iter().find(|(joined, _)| *joined == kind) {
            Some((_, path)) => all.push(json!({"type": kind, "path": path})),
            None if origin == Origin::Private => all.push(json!({"type": kind})),
            None => {}
        }
    }
    all
}

/// What contradicts itself, or cannot be done without the machine's root.
pub(super) fn check(options: &Options, is_root: bool) -> Result<()> {
    if options.hostname.is_some() && options.uts != Origin::Private {
        return Err(Error::other("--hostname: the host name is another's (--uts)"));
    }
    if let Network::Joined(_) = options.network {
        let given = [
            ("--publish", !options.publish.is_empty() || options.publish_all),
            ("--dns", !options.dns.is_empty() || !options.dns_search.is_empty() || !options.resolver.is_empty()),
            ("--add-host", !options.hosts.is_empty()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Error::other(format!(
                "{flag}: the network is another container's, and so is what it says of it"
            )));
        }
    }
    if options.userns != UserNs::Host
        && let Some((kind, _)) =
            origins(options).iter().find(|(kind, origin)| matches!(*kind, "pid" | "ipc") && origin.is_joined())
    {
        // Its /proc, or its queues, are for its own user namespace to mount.
        return Err(Error::other(format!(
            "--{kind}: a container with a user namespace of its own (--userns) cannot join another's"
        )));
    }
    if is_root {
        return Ok(());
    }
    // They belong to the user namespace of whoever made them.
    if let Some((kind, _)) = origins(options).iter().find(|(_, origin)| origin.is_joined()) {
        return Err(Error::other(format!("to join a namespace ({kind}) of another container needs root")));
    }
    if options.ipc.memory == Memory::Shareable {
        return Err(Error::other("--ipc shareable needs root: a mount of an ordinary user's does not outlive imgtool"));
    }
    Ok(())
}

/// What a bundle takes from another container's.
#[derive(Debug, Default)]
pub(super) struct Donor {
    /// Of the container whose network it is, if its bundle is known.
    pub(super) network: Option<PathBuf>,
    /// What is mounted on /dev/shm.
    pub(super) shm: Option<PathBuf>,
}

/// Keeps what is joined in the bundle's directory. Gives the paths for config.json.
pub(super) fn keep(directory: &Path, options: &Options) -> Result<(Vec<(&'static str, PathBuf)>, Donor)> {
    let (mut joined, mut donor) = (Vec::new(), Donor::default());
    for (kind, origin) in origins(options) {
        let flag = if kind == "cgroup" { "cgroupns" } else { kind };
        let (source, container) = match &origin {
            Origin::Private | Origin::Host => continue,
            Origin::Path(path) => (path.clone(), None),
            Origin::Container(text) => {
                let container = Container::find(text).with(|| format!("--{flag} container:{text}"))?;
                let file = if kind == "network" { "net" } else { kind };
                (PathBuf::from(format!("/proc/{}/ns/{file}", container.pid)), Some(container))
            }
        };
        let step = || format!("--{flag} {}", source.display());
        let target = directory.join(KEPT).join(kind);
        let make = || -> Result<()> {
            if joined.is_empty() {
                DirBuilder::new().mode(0o700).create(directory.join(KEPT))?;
            }
            let namespace = clone(&source, kind)?;
            // It was this container's if that still lives: until then nobody else had its number.
            if container.as_ref().is_some_and(|container| !container.lives()) {
                return Err(Error::other("the container ended meanwhile"));
            }
            File::create_new(&target)?;
            Ok(move_mount(namespace, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
        };
        make().with(step)?;
        if let Some(container) = container {
            match kind {
                // Of a bundle that is not imgtool's nothing is read.
                "network" => donor.network = read_record(&container.bundle).is_ok().then_some(container.bundle),
                "ipc" => donor.shm = Some(shared(&container.bundle).with(step)?),
                _ => {}
            }
        }
        joined.push((kind, target));
    }
    Ok((joined, donor))
}

/// A mount of the namespace at `path`, that is one of this kind and not the machine's.
fn clone(path: &Path, kind: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let namespace = match open_tree(CWD, path, flags) {
        // Of mounts that are not ours only those of namespaces can be had.
        Err(Errno::INVAL) => return Err(Error::malformed("not a namespace")),
        opened => opened?,
    };
    if fstatfs(&namespace)?.f_type != NSFS {
        return Err(Error::malformed("not a namespace"));
    }
    let file = if kind == "network" { "net" } else { kind };
    let own = fs::metadata(format!("/proc/self/ns/{file}"))?;
    let stat = fstat(&namespace)?;
    if (stat.st_dev, stat.st_ino) == (own.dev(), own.ino()) {
        return Err(Error::other(format!("it is this machine's own: say host to share its {kind} namespace")));
    }
    Ok(namespace)
}

/// The /dev/shm of a bundle that shares it, in Docker's words where it does not.
fn shared(bundle: &Path) -> Result<PathBuf> {
    let shm = bundle.join(SHM);
    match fs::metadata(&shm) {
        Ok(meta) if meta.is_dir() && read_record(bundle).is_ok() => Ok(shm),
        _ => Err(Error::other("non-shareable IPC (hint: make its bundle with --ipc shareable)")),
    }
}

/// Mounts what a bundle shares, when it is made and after a restart of the machine.
pub(super) fn mount_shm(directory: &Path, size: u64) -> Result<PathBuf> {
    let target = directory.join(SHM);
    let make = || -> Result<()> {
        if !target.exists() {
            DirBuilder::new().mode(0o700).create(&target)?;
        }
        let data = std::ffi::CString::new(format!("mode=1777,size={size}")).map_err(|e| Error::other(e.to_string()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        Ok(mount("shm", &target, "tmpfs", flags, &*data)?)
    };
    make().with(|| format!("mount {}", target.display()))?;
    Ok(target)
}

/// Lets go of all that is kept, and of what is shared.
pub(super) fn forget(directory: &Path) -> Result<()> {
    let mut targets = vec![directory.join(SHM)];
    for entry in fs::read_dir(directory.join(KEPT)).into_iter().flatten().flatten() {
        targets.push(entry.path());
    }
    for target in targets {
        match unmount(&target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => return Err(e).with(|| format!("unmount {}", target.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_namespace_it_is_is_said_in_dockers_words() {
        for (text, want) in [
            ("private", Origin::Private),
            ("host", Origin::Host),
            ("container:web", Origin::Container("web".into())),
            ("container:/b/web", Origin::Container("/b/web".into())),
            ("ns:/proc/1/ns/net", Origin::Path("/proc/1/ns/net".into())),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap(), want, "{text}");
            assert_eq!(text.parse::<Ipc>().unwrap().origin, want, "{text}");
        }
        assert_eq!("none".parse::<Ipc>().unwrap().memory, Memory::None);
        assert_eq!("shareable".parse::<Ipc>().unwrap().memory, Memory::Shareable);
        for bad in ["", "none", "shareable", "container:", "ns:relative", "ns:", "x:y", "pod"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let joined = || Network::Joined(Origin::Container("web".into()));
        let refused = |options: Options| check(&options, true).unwrap_err().to_string();
        let named = Options { hostname: Some("x".into()), uts: Origin::Host, ..Options::default() };
        assert!(refused(named).contains("--hostname"));
        let published = Options { network: joined(), publish: vec!["80".parse().unwrap()], ..Options::default() };
        assert!(refused(published).contains("--publish"));
        let asked = Options { network: joined(), dns_search: vec!["a".into()], ..Options::default() };
        assert!(refused(asked).contains("--dns"));
        let shared = Options { pid: Origin::Container("web".into()), ..Options::default() };
        check(&shared, true).unwrap();
        assert!(check(&shared, false).unwrap_err().to_string().contains("needs root"));
        let mapped = Options { userns: UserNs::Auto(1), ..shared };
        assert!(check(&mapped, true).unwrap_err().to_string().contains("--userns"));
        let ipc = Options { ipc: "shareable".parse().unwrap(), ..Options::default() };
        assert!(check(&ipc, false).unwrap_err().to_string().contains("needs root"));
        let hosts =
            Options { pid: Origin::Host, ipc: "host".parse().unwrap(), uts: Origin::Host, ..Options::default() };
        check(&hosts, false).unwrap();
    }

    #[test]
    fn only_what_is_another_namespace_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let options = |path: &str| Options { uts: Origin::Path(path.into()), ..Options::default() };
        for (path, why) in [
            ("/proc/self/ns/uts", "this machine's own"),
            ("/etc/passwd", "not a namespace"),
            ("/proc/self/status", "not a namespace"),
            ("/absent", "No such file"),
        ] {
            if !rustix::process::geteuid().is_root() {
                println!("skipped: only root may try to mount one");
                return;
            }
            let _ = fs::remove_dir(dir.path().join(KEPT));
            let refused = keep(dir.path(), &options(path)).unwrap_err().to_string();
            assert!(refused.contains(why), "{path}: {refused}");
            assert!(fs::read_dir(dir.path().join(KEPT)).unwrap().next().is_none(), "{path}");
        }
    }
}
