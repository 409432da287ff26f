//! A container from files.

use super::{
    DESCRIPTORS, Dirs, Options, attributes, away, common,
    criu::{self, Criu, Kinds, Notification},
    explain,
    external::{self, text},
    open_dir, read_in,
};
use crate::{
    birth::{Plan, Request, Undo, check_root, first_state, oci_state},
    error::{At, Error, Result},
    inside::{console, root::Root},
    outside::{
        cgroup::{self, Cgroup},
        hooks, rdt,
    },
    process::start_time,
    spec::{NamespaceKind, Spec},
    store::{NOTIFY, NOTIFY_PLACE, Slot, State, Store},
    sys::{self, MountAttr, mount_setattr},
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{fs, path::Path};

const LOG: &str = "restore.log";
const LOGS: [&str; 2] = [LOG, "stats-restore"];
/// An image's list of three names is not longer, in bytes.
const MAX_DESCRIPTORS: u64 = 64 << 10;

/// A container that runs again.
pub struct Revived {
    /// Its directory, not locked any more.
    pub slot: Slot,
    /// As saved.
    pub state: State,
    /// Of init, which is the caller's child.
    pub pidfd: OwnedFd,
}

/// Brings a container back from `options.images`, with the bundle's configuration. On failure nothing is left of it.
pub fn restore(store: Store, spec: &Spec, mut request: Request<'_>, options: &Options) -> Result<Revived> {
    let plan =
        Plan::of(spec, request.bundle, true).at_with(|| request.bundle.join("config.json").display().to_string())?;
    let driver = cgroup::Driver::of(request.systemd_cgroup, &spec.annotations)?;
    let host = cgroup::Host::look(&spec.linux.cgroups_path, &driver)?;
    let placement = cgroup::place(&spec.linux.cgroups_path, request.id, &host)?;
    check_root(&plan)?;
    let rdt = spec.linux.intel_rdt.as_ref().map(|it| rdt::Plan::of(it, request.id, rdt::root())).transpose()?;
    let streams = streams(open_dir(&options.images, "--image-path")?.as_fd())?;

    let mut undo = Undo::default();
    let slot = undo.slot.insert(store.claim(request.id)?);
    drop(store);
    let mut state = first_state(spec, &request, &plan, placement);
    slot.keep_config(request.config)?;
    // Only the images tell whether the container had one.
    slot.make_notify_directory()?;
    slot.save(&state)?;
    let cgroup = undo.cgroup.insert(Cgroup::make(
        state.cgroup.clone(),
        &spec.linux.resources,
        request.rootless != Some(true),
        driver,
    )?);
    state.cgroup = cgroup.placement().clone();
    state.owns_cgroup = cgroup.is_own();
    if let Some(rdt) = rdt {
        state.rdt = Some(undo.rdt.insert(rdt.make()?).clone());
    }
    slot.save(&state)?;
    make_mount_points(spec, &plan.rootfs, request.bundle)?;

    let config = spec.annotations.get("org.criu.config").map(String::as_str);
    let mut opts = common(options, LOG, config);
    opts.root(&text(&plan.rootfs)?);
    opts.flags(&[(criu::EVASIVE_DEVICES, true), (criu::RST_SIBLING, true)]);
    opts.lsm(options.lsm_profile.as_deref(), options.lsm_mount_context.as_deref());
    for mount in external::mounts(spec, &state.cgroup, &plan.rootfs, request.bundle)? {
        opts.external_mount(&mount.destination, &mount.source);
    }
    if !spec.linux.masked_paths.is_empty() {
        opts.external_mount("/dev/null", "/dev/null");
    }
    opts.external_mount(NOTIFY_PLACE, &text(&slot.path()?.join(NOTIFY))?);
    let namespaces = namespaces(spec, &mut opts)?;
    for (fd, name) in streams.iter().enumerate().filter(|(_, name)| name.starts_with("pipe:")) {
        opts.inherit(name, fd as i32);
    }

    let inherited: Vec<BorrowedFd<'_>> = namespaces.iter().map(AsFd::as_fd).collect();
    let (criu, dirs) = start(&plan.rootfs, &inherited, options, slot)?;
    dirs.tell(&mut opts);
    if let Some(cgroup) = &mut undo.cgroup {
        // What it makes is born where it is.
        cgroup.admit(criu.pid().cast_unsigned()).at("unable to apply cgroup configuration")?;
        state.cgroup = cgroup.placement().clone();
        state.owns_cgroup = true;
    }
    for (controller, path) in cgroup_roots(criu.pid())? {
        opts.cgroup_root(&controller, &path);
    }
    let console = request.console.take();
    let restored = criu.serve(Kinds::Restore, &opts, |notification| {
        notified(notification, &plan, spec, &mut state, &mut undo, console.as_ref())
    });
    let restored = restored.map_err(|error| explain(error, &dirs, options, LOG));
    dirs.publish(LOGS);
    restored?;

    let Some((pid, pidfd)) = undo.processes.last() else {
        return Err(Error::other("criu did not say which process it restored"));
    };
    (request.announce)(*pid, pidfd.as_fd())?;
    state.made = true;
    if let Some(slot) = &undo.slot {
        slot.save(&state)?;
        slot.unlock()?;
    }
    match undo.disarm() {
        (Some(slot), _, mut processes) => match processes.pop() {
            Some((_, pidfd)) => Ok(Revived { slot, state, pidfd }),
            None => Err(Error::other("init is not on record")),
        },
        _ => Err(Error::other("the container's directory is not on record")),
    }
}

/// What criu wants done on its way.
fn notified(
    notification: &mut Notification,
    plan: &Plan,
    spec: &Spec,
    state: &mut State,
    undo: &mut Undo,
    console: Option<&OwnedFd>,
) -> Result<()> {
    match notification.script.as_str() {
        "setup-namespaces" => {
            state.pid = notification.pid;
            let oci = oci_state(state, "creating");
            hooks::run("prestart", &spec.hooks.prestart, &oci, Some(&state.bundle))?;
            hooks::run("createRuntime", &spec.hooks.create_runtime, &oci, Some(&state.bundle))
        }
        "post-restore" => {
            let pid = Pid::from_raw(notification.pid).ok_or_else(|| Error::other("criu restored no process"))?;
            // Our child, and stopped: the number is nobody else's.
            undo.processes.push((pid, pidfd_open(pid, PidfdFlags::empty()).at("pidfd_open")?));
            if let Some(rdt) = &undo.rdt {
                rdt.join(notification.pid)?;
            }
            if let Some(cgroup) = &mut undo.cgroup {
                // Not earlier: what was made until now, devices and all, was criu's work and not the container's.
                cgroup.restrict()?;
            }
            state.pid = notification.pid;
            state.start_time = start_time(notification.pid)?;
            add_time_namespace(state);
            attributes::narrow(notification.pid, plan)
        }
        "orphan-pts-master" => {
            let master = notification.fd.take().ok_or_else(|| Error::other("no terminal came with it"))?;
            let socket = console.ok_or_else(|| Error::other("the container has a terminal: use --console-socket"))?;
            console::send(socket.as_fd(), master.as_fd())
        }
        _ => Ok(()),
    }
}

/// criu gives what it restores a time namespace, so that its clocks go on.
fn add_time_namespace(state: &mut State) {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/time")).ok();
    let theirs = of(&state.pid.to_string());
    if theirs.is_some() && theirs != of("self") && !state.namespaces.contains(&NamespaceKind::Time) {
        state.namespaces.push(NamespaceKind::Time);
    }
}

/// Starts criu in a mount namespace where the container's root is a mount, as it demands; the caller's stays as it is. The
/// directories are opened there as well: criu mounts in them.
fn start<'a>(
    rootfs: &Path,
    inherited: &[BorrowedFd<'_>],
    options: &'a Options,
    slot: &Slot,
) -> Result<(Criu<'a>, Dirs)> {
    away(
        || sys::unshare(libc::CLONE_NEWNS as u64).at("unshare the mount namespace"),
        || {
            mount_root(rootfs)?;
            let dirs = Dirs::open(options, slot, LOGS)?;
            Ok((Criu::start(true, inherited, options.interrupt.as_ref())?, dirs))
        },
    )
}

fn mount_root(rootfs: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let all = rustix::fs::open("/", flags, Mode::empty()).at("open /")?;
    // Not private: what the container gets from here is to follow the host as before, and criu takes that from these mounts.
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    mount_setattr(all.as_fd(), true, slave).at("make / a slave")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, rootfs, flags).at_with(|| format!("root.path {}", rootfs.display()))?;
    move_mount(&tree, "", CWD, rootfs, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .at_with(|| format!("mount {}", rootfs.display()))
}

/// On another host the root, or what is bound into it, may lack what `create` made there. What lies on a file system of the
/// container's own comes with its content.
fn make_mount_points(spec: &Spec, rootfs: &Path, bundle: &Path) -> Result<()> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok::<_, Error>(Root::new(rustix::fs::open(path, flags, Mode::empty()).at_with(|| path.display().to_string())?))
    };
    let root = open(rootfs).at("root.path")?;
    for (index, mount) in spec.mounts.iter().enumerate() {
        let path = &mount.destination;
        let is_file = external::is_bind(mount)
            && mount.source.as_ref().is_some_and(|it| fs::metadata(bundle.join(it)).is_ok_and(|found| !found.is_dir()));
        let make = |root: &Root, path: &Path| {
            if is_file { root.make_file(path).map(drop) } else { root.make_dir(path).map(drop) }
        };
        let before = spec.mounts.iter().take(index);
        let above = before.rev().find(|it| it.destination != *path && path.starts_with(&it.destination));
        let made = match above {
            None => make(&root, path),
            Some(above) if external::is_bind(above) => {
                let inside = path.strip_prefix(&above.destination).unwrap_or(path);
                open(&external::source(above, bundle)).and_then(|root| make(&root, inside))
            }
            Some(_) => Ok(()),
        };
        made.at_with(|| format!("mounts[{index}].destination"))?;
    }
    Ok(())
}

/// Tells criu which namespaces exist already. Returns those that it is to inherit.
fn namespaces(spec: &Spec, opts: &mut criu::Request) -> Result<Vec<OwnedFd>> {
    let mut inherited = Vec::new();
    for namespace in &spec.linux.namespaces {
        let Some(path) = &namespace.path else { continue };
        match (namespace.kind, external::key(namespace.kind)) {
            (NamespaceKind::Cgroup, _) => {
                return Err(Error::invalid("linux.namespaces", "criu cannot restore into a cgroup namespace by path"));
            }
            (_, Some((_, key))) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let fd =
                    rustix::fs::open(path, flags, Mode::empty()).at_with(|| format!("namespace {}", path.display()))?;
                opts.inherit(key, fd.as_raw_fd());
                inherited.push(fd);
            }
            (kind, None) => {
                let name = if kind == NamespaceKind::Mount { "mnt".to_owned() } else { kind.to_string() };
                opts.join_namespace(&name, &text(path)?);
            }
        }
    }
    Ok(inherited)
}

fn streams(images: BorrowedFd<'_>) -> Result<Vec<String>> {
    let json = read_in(images, DESCRIPTORS, MAX_DESCRIPTORS).at_with(|| format!("read {DESCRIPTORS} of the images"))?;
    let names: Vec<String> = crate::spec::parse(&json).at(DESCRIPTORS)?;
    // Only what these are: other numbers would be ours.
    Ok(names.into_iter().take(3).collect())
}

/// Where criu is, each controller by itself.
fn cgroup_roots(pid: i32) -> Result<Vec<(String, String)>> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).at("read criu's cgroups")?;
    Ok(parse_roots(&table))
}

fn parse_roots(table: &str) -> Vec<(String, String)> {
    let lines = table.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    lines.flat_map(|(names, path)| names.split(',').map(move |name| (name.to_owned(), path.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_has_its_root() {
        let roots = parse_roots("3:cpu,cpuacct:/c\n1:name=systemd:/a:b\n0::/d\n");
        let roots: Vec<_> = roots.iter().map(|(name, path)| format!("{name}={path}")).collect();
        assert_eq!(roots, ["cpu=/c", "cpuacct=/c", "name=systemd=/a:b", "=/d"]);
    }
}
