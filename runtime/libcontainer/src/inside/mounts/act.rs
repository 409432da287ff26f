//! Carries out the steps. Each file system is made, configured and given its attributes while it is attached nowhere; then
//! it is moved onto a place that was resolved within the root once. A link that is swapped meanwhile changes nothing
//! (CVE-2021-30465).

use super::{
    bind,
    new::{self, Label},
    step::{Source, Step, What},
};
use crate::{
    error::{At, Error, Result},
    inside::{
        procfs::PROC,
        root::{Root, file_type},
    },
    outside::cgroup::{self, Mode as CgroupMode, Placement, View},
    spec::NamespaceKind,
    sys::{MountAttr, mount_setattr},
};
use libc::MS_RDONLY;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{MoveMountFlags, move_mount},
};
use std::path::Path;

/// What the steps need to know besides themselves.
pub(crate) struct Surroundings<'a> {
    pub(crate) cgroup: &'a Placement,
    pub(crate) namespaces: &'a [NamespaceKind],
    /// For the files of new file systems.
    pub(crate) label: Label<'a>,
    /// Gives the detached mount of the step with this index the ids that it asks for.
    pub(crate) map_ids: &'a dyn Fn(usize, BorrowedFd<'_>) -> Result<()>,
    /// What shows the network, or reaches out by it, is of that of its maker: called before it is made.
    pub(crate) enter_network: &'a dyn Fn() -> Result<()>,
    /// In a user namespace flags of the host's mounts are not to be taken off.
    pub(crate) locked: bool,
}

/// Makes all mounts below `root`, in the order given. `sources` holds the bind sources that were opened outside. A mount on the
/// root itself is the root from then on: bundles of rootless tools have their overlay there. Returns those that [`seal`] makes
/// read-only, once nothing is made in them any more.
pub(crate) fn mount_all(
    root: &mut Root,
    steps: &[Step],
    sources: Vec<Option<OwnedFd>>,
    around: &Surroundings<'_>,
) -> Result<Vec<OwnedFd>> {
    let mut writable = Vec::new();
    let sources = sources.into_iter().chain(std::iter::repeat_with(|| None));
    for ((i, step), source) in steps.iter().enumerate().zip(sources) {
        let mount = mount_one(root, i, step, source, around).at_with(|| step.failing.clone())?;
        if step.is_root() && !matches!(step.what, What::Remount) {
            *root = Root::new(mount.try_clone().at("duplicate the root's descriptor")?);
        }
        if step.sealed_late() {
            writable.push(mount);
        }
    }
    Ok(writable)
}

/// Makes mounts read-only that had to be written to.
pub(crate) fn seal(mounts: &[OwnedFd]) -> Result<()> {
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mounts.iter().try_for_each(|mount| set(mount.as_fd(), false, attr))
}

fn mount_one(
    root: &Root,
    index: usize,
    step: &Step,
    opened: Option<OwnedFd>,
    around: &Surroundings<'_>,
) -> Result<OwnedFd> {
    let mount = match &step.what {
        What::Bind { source, recursive, id_map } => {
            let mount = match (opened, source) {
                (Some(mount), _) => mount,
                (None, Source::Host(path)) => {
                    (around.enter_network)()?;
                    bind::open_source(path, *recursive)?
                }
                (None, Source::Root(path)) => {
                    (around.enter_network)()?;
                    let mount = bind::open_inner(root, path, *recursive)?;
                    if id_map.is_some() {
                        (around.map_ids)(index, mount.as_fd())?;
                    }
                    mount
                }
            };
            bind::apply(mount.as_fd(), step.flags, around.locked && matches!(source, Source::Host(_)))?;
            let place = if file_type(&mount).at("stat the source")?.is_dir() {
                root.make_dir(&step.destination)?
            } else {
                root.make_file(&step.destination)?
            };
            if step.is_proc() && !on_procfs(mount.as_fd())? {
                return Err(Error::other("\"/proc\" cannot be mounted because it is not of type proc"));
            }
            put(step, mount.as_fd(), place.as_fd())?;
            mount
        }
        What::New { kind, source, parameters, copy_up } => {
            // As the destination is now, before it is made.
            let mode =
                if kind == "tmpfs" { root.open(&step.destination).ok().map(|it| new::mode_of(&it)) } else { None };
            let place = if step.what.on_plain_directory() {
                plain_directory(root, &step.destination, kind)?
            } else {
                root.make_dir(&step.destination)?
            };
            let mut flags = step.flags;
            if step.sealed_late() {
                flags.add(MS_RDONLY, false);
            }
            if step.what.may_need_network() {
                (around.enter_network)()?;
            }
            let wanted = new::Wanted { kind, source, parameters, flags, mode: mode.transpose()?, label: around.label };
            let mount = new::mount(&wanted)?;
            if *copy_up {
                super::copy_up::copy(&place, &mount).at("tmpcopyup")?;
            }
            put(step, mount.as_fd(), place.as_fd())?;
            mount
        }
        What::Cgroup => {
            let place = root.make_dir(&step.destination)?;
            mount_cgroup(step, place.as_fd(), around)?
        }
        What::Remount => {
            let place = root.open(&step.destination).at("open")?;
            set(place.as_fd(), false, step.flags.bind())?;
            place
        }
    };
    set(mount.as_fd(), true, step.recursive)?;
    for &(propagation, recursive) in &step.propagation {
        let attr = MountAttr { propagation, ..MountAttr::default() };
        mount_setattr(mount.as_fd(), recursive, attr).at("set the propagation")?;
    }
    Ok(mount)
}

/// A directory that no link of the image stands in for.
fn plain_directory(root: &Root, destination: &Path, kind: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match root.open_for(destination, flags, ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT) => {
            root.make_dir(destination)?;
            root.open_for(destination, flags, ResolveFlags::NO_SYMLINKS).at("open")
        }
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(Error::other(format!("filesystem {kind:?} must be mounted on ordinary directory")))
        }
        opened => opened.at("open"),
    }
}

/// Binds the container's own cgroup directories, which is what its cgroup namespace would show of a fresh mount, for a
/// thousandth of the time. Without such a namespace `/proc/self/cgroup` names whole paths, so v2 is shown from its root.
fn mount_cgroup(step: &Step, place: BorrowedFd<'_>, around: &Surroundings<'_>) -> Result<OwnedFd> {
    // Apart from the host's mounts: criu restores no other.
    let attr = MountAttr { propagation: libc::MS_PRIVATE, ..step.flags.listed() };
    if around.cgroup.mode == CgroupMode::V2 {
        let own = around.namespaces.contains(&NamespaceKind::Cgroup);
        let mount = match around.cgroup.hierarchies.first() {
            Some(hierarchy) => bind::open_source(&if own { hierarchy.dir() } else { hierarchy.mount.clone() }, false)?,
            // An ordinary user's container may have no cgroup of its own: its namespace shows the caller's.
            None if own => {
                let mut flags = step.flags;
                // Of this mount, not of the one file system.
                flags.add(MS_RDONLY, false);
                let (kind, source) = ("cgroup2", "cgroup");
                new::mount(&new::Wanted { kind, source, parameters: &[], flags, mode: None, label: None })?
            }
            None => bind::open_source(Path::new("/sys/fs/cgroup"), false)?,
        };
        set(mount.as_fd(), false, attr)?;
        put(step, mount.as_fd(), place)?;
        return Ok(mount);
    }
    let parameters = [("mode".to_owned(), Some("755".to_owned()))];
    let mut flags = step.flags;
    flags.add(MS_RDONLY, false);
    let wanted = new::Wanted {
        kind: "tmpfs",
        source: "cgroup",
        parameters: &parameters,
        flags,
        mode: None,
        label: around.label,
    };
    let tmpfs = new::mount(&wanted)?;
    put(step, tmpfs.as_fd(), place)?;
    for View { name, source, links } in cgroup::container_view(around.cgroup) {
        rustix::fs::mkdirat(&tmpfs, &*name, Mode::from_raw_mode(0o755)).at_with(|| format!("make {name}"))?;
        let place = rustix::fs::openat(&tmpfs, &*name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .at_with(|| format!("open {name}"))?;
        let mount = bind::open_source(&source, false)?;
        set(mount.as_fd(), false, attr)?;
        attach(mount.as_fd(), place.as_fd())?;
        for link in links {
            rustix::fs::symlinkat(&*name, &tmpfs, &*link).at_with(|| format!("link {link}"))?;
        }
    }
    set(tmpfs.as_fd(), false, attr)?;
    Ok(tmpfs)
}

/// Attaches a step's mount where it was found to belong, unless links of the image led it into procfs.
fn put(step: &Step, mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    if !step.is_proc() && !step.may_cover_proc() && on_procfs(place)? {
        return Err(Error::other("cannot be mounted because it is inside /proc"));
    }
    attach(mount, place)
}

fn on_procfs(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(rustix::fs::fstatfs(fd).at("statfs")?.f_type == PROC)
}

/// Puts a detached mount on top of `place`.
pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags).at("attach the mount")
}

pub(super) fn set(mount: BorrowedFd<'_>, recursive: bool, attr: MountAttr) -> Result<()> {
    if attr == MountAttr::default() {
        return Ok(());
    }
    mount_setattr(mount, recursive, attr).at("set the mount's attributes")
}

/// Makes a detached mount of a file (a terminal, a device) appear at `destination`.
pub(crate) fn put_over(root: &Root, file: BorrowedFd<'_>, destination: &Path) -> Result<()> {
    let place = root.make_file(destination)?;
    if on_procfs(place.as_fd())? {
        return Err(Error::other("cannot be mounted because it is inside /proc"));
    }
    attach(file, place.as_fd())
}
