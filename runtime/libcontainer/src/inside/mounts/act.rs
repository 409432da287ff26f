//! Carries out the steps. Each file system is made, configured and given its attributes while it is attached nowhere; then
//! it is moved onto a place that was resolved within the root once. A link that is swapped meanwhile changes nothing
//! (CVE-2021-30465).

use super::step::{Step, What};
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
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};
use std::path::Path;

/// What the steps need to know besides themselves.
pub(crate) struct Surroundings<'a> {
    pub(crate) cgroup: &'a Placement,
    pub(crate) namespaces: &'a [NamespaceKind],
}

/// Makes all mounts below `root`, in the order given. `sources` holds the bind sources that were opened outside.
pub(crate) fn mount_all(
    root: &Root,
    steps: &[Step],
    sources: Vec<Option<OwnedFd>>,
    around: &Surroundings<'_>,
) -> Result<()> {
    let sources = sources.into_iter().chain(std::iter::repeat_with(|| None));
    for (step, source) in steps.iter().zip(sources) {
        mount_one(root, step, source, around).at_with(|| step.field.clone())?;
    }
    Ok(())
}

fn mount_one(root: &Root, step: &Step, source: Option<OwnedFd>, around: &Surroundings<'_>) -> Result<()> {
    let mount = match &step.what {
        What::Bind { source: path, recursive } => {
            let mount = match source {
                Some(mount) => mount,
                None => open_bind_source(path, *recursive)?,
            };
            set(mount.as_fd(), false, step.attr)?;
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
            let place = if step.what.on_plain_directory() {
                plain_directory(root, &step.destination, kind)?
            } else {
                root.make_dir(&step.destination)?
            };
            let mount = new_mount(kind, source, parameters, step.attr.set)?;
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
            set(place.as_fd(), false, step.attr)?;
            place
        }
    };
    set(mount.as_fd(), true, step.recursive)?;
    for &(propagation, recursive) in &step.propagation {
        let attr = MountAttr { propagation, ..MountAttr::default() };
        mount_setattr(mount.as_fd(), recursive, attr).at("set the propagation")?;
    }
    Ok(())
}

/// A detached copy of the host's tree at `path`.
pub(crate) fn open_bind_source(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).at_with(|| format!("open the source {}", path.display()))
}

/// A new file system, attached nowhere.
fn new_mount(kind: &str, source: &str, parameters: &[(String, Option<String>)], attr: u64) -> Result<OwnedFd> {
    let context = match fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => {
            return Err(Error::other(format!("type {kind:?}: this kernel has no such file system")));
        }
        context => context.at_with(|| format!("fsopen {kind}"))?,
    };
    let source = if source.is_empty() { kind } else { source };
    // What the kernel says of a refusal is more than its number.
    let checked = |result: rustix::io::Result<()>, step: String| {
        result.map_err(|errno| Error::from(errno).at(format!("{step}{}", kernel_log(&context))))
    };
    checked(fsconfig_set_string(&context, "source", source), format!("source {source}"))?;
    for (key, value) in parameters {
        match value {
            // fsconfig(2) takes 255 bytes a value; overlayfs takes its layers one by one as well.
            Some(layers) if key == "lowerdir" && layers.len() > 255 && !layers.contains("::") => {
                for layer in layers.split(':') {
                    checked(fsconfig_set_string(&context, "lowerdir+", layer), format!("option lowerdir={layer}"))?;
                }
            }
            Some(value) => checked(fsconfig_set_string(&context, &**key, &**value), format!("option {key}={value}"))?,
            None => checked(fsconfig_set_flag(&context, &**key), format!("option {key}"))?,
        }
    }
    checked(fsconfig_create(&context), format!("make the {kind}"))?;
    let attr = MountAttrFlags::from_bits_retain(attr as u32);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr).at_with(|| format!("mount the {kind}"))
}

/// What the kernel says of the last failure on a file-system context, in brackets.
fn kernel_log(context: &OwnedFd) -> String {
    let mut line = [0; 256];
    match rustix::io::read(context, &mut line) {
        // `e ` for an error, then the text.
        Ok(n) if n > 2 => format!(" ({})", String::from_utf8_lossy(&line[2..n]).trim_end()),
        _ => String::new(),
    }
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
    let attr = step.attr;
    if around.cgroup.mode == CgroupMode::V2 {
        let own = around.namespaces.contains(&NamespaceKind::Cgroup);
        let [hierarchy] = around.cgroup.hierarchies.as_slice() else {
            return Err(Error::other("cgroup v2 has one hierarchy"));
        };
        let mount = open_bind_source(&if own { hierarchy.dir() } else { hierarchy.mount.clone() }, false)?;
        set(mount.as_fd(), false, attr)?;
        put(step, mount.as_fd(), place)?;
        return Ok(mount);
    }
    let parameters = [("mode".to_owned(), Some("755".to_owned()))];
    let tmpfs = new_mount("tmpfs", "cgroup", &parameters, attr.set & !libc::MOUNT_ATTR_RDONLY)?;
    put(step, tmpfs.as_fd(), place)?;
    for View { name, source, links } in cgroup::container_view(around.cgroup) {
        rustix::fs::mkdirat(&tmpfs, &*name, Mode::from_raw_mode(0o755)).at_with(|| format!("make {name}"))?;
        let place = rustix::fs::openat(&tmpfs, &*name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .at_with(|| format!("open {name}"))?;
        let mount = open_bind_source(&source, false)?;
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

fn set(mount: BorrowedFd<'_>, recursive: bool, attr: MountAttr) -> Result<()> {
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
