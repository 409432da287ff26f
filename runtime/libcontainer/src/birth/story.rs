//! The birth of a container, from both sides: [`create`] is the host's, [`inside`] is init's. The words that they exchange
//! are drawn in [`super::link`].

use super::{
    door::{self, Door},
    entry,
    link::{self, Inside, Outside, ToOutside},
    namespaces,
    network::{Arrival, Home},
    plan::{Plan, UserNamespace},
    root,
    trees::HostTrees,
    undo::Undo,
    user_namespaces::UserNamespaces,
};
use crate::{
    error::{At, Error, Result},
    inside::{console, descriptors, identity, mounts::What, process::Poised, procfs::Procfs, selinux, sysctl},
    outside::{
        affinity,
        cgroup::{self, Cgroup},
        hooks::{self, OciState},
        ids, limits, rdt, seccomp_agent,
    },
    process::start_time,
    spec::{Hooks, Spec},
    store::{Slot, State, Store},
    sys::{self, Born, clone3},
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::Mode,
    process::Pid,
};
use std::{convert::Infallible, path::Path, time::SystemTime};

/// What the caller wants of a birth, besides the configuration.
pub struct Request<'a> {
    /// The container's name.
    pub id: &'a str,
    /// Absolute; where `config.json` was read.
    pub bundle: &'a Path,
    /// `config.json`, to be kept.
    pub config: &'a [u8],
    /// Connected; the terminal's master is sent here.
    pub console: Option<OwnedFd>,
    /// How many descriptors after standard error the container inherits.
    pub preserve_fds: u32,
    /// chroot(2) instead of pivot_root(2), for roots on a ramdisk.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Have systemd make the cgroup, as a scope.
    pub systemd_cgroup: bool,
    /// Whether a cgroup that cannot be had is gone without; not said: where the caller is not root of the host.
    pub rootless: Option<bool>,
    /// Make a directory for notifications.
    pub notify: bool,
    /// Called when init is ready and not yet on record: pid files and the like; a failure undoes the birth.
    pub announce: &'a mut dyn FnMut(Pid, BorrowedFd<'_>) -> Result<()>,
}

/// A container that waits to be started.
pub struct Created {
    /// Its directory, not locked any more.
    pub slot: Slot,
    /// As saved.
    pub state: State,
    /// Of init.
    pub pidfd: OwnedFd,
}

/// What the two sides share: made before the clone, copied by it.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    hooks: Hooks,
    pub(super) state: State,
    procfs: Procfs,
    door: Door,
    /// Where init could not open them itself.
    pub(super) trees: Option<HostTrees>,
    pub(super) user_namespaces: UserNamespaces,
    /// Whether the outside makes the network namespace.
    pub(super) network_follows: bool,
    console: Option<OwnedFd>,
    preserve_fds: u32,
    no_pivot: bool,
    keyring: Option<String>,
}

impl Prepared {
    /// Gives the detached mount of step `index` the ids that it asks for.
    pub(super) fn map_ids(&self, index: usize, mount: BorrowedFd<'_>) -> Result<()> {
        match self.plan.mounts.get(index).map(|step| &step.what) {
            Some(What::Bind { id_map: Some(id_map), .. }) => self.user_namespaces.map(mount, id_map),
            _ => Err(Error::other(format!("mount {index} asks for no ids"))),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Outside

/// Makes a container, up to the point where its init waits for `start`. On failure nothing is left of it.
pub fn create(store: Store, spec: &Spec, mut request: Request<'_>) -> Result<Created> {
    let privileged = rustix::process::geteuid().is_root();
    let is_within = ids::is_within_user_namespace();
    let owns_host = request.rootless.map_or(privileged && !is_within, |rootless| !rootless);
    let mut plan = Plan::of(spec, request.bundle, privileged)
        .at_with(|| request.bundle.join("config.json").display().to_string())?;
    plan.caller_is_within = is_within;
    plan.process.check_console(request.console.as_ref())?;
    let driver = cgroup::Driver::of(request.systemd_cgroup, &spec.annotations)?;
    let host = cgroup::Host::look(&spec.linux.cgroups_path, &driver)?;
    let placement = cgroup::place(&spec.linux.cgroups_path, request.id, &host)?;
    check_root(&plan)?;
    let rdt = spec.linux.intel_rdt.as_ref().map(|it| rdt::Plan::of(it, request.id, rdt::root())).transpose()?;

    tracing::debug!("{}: make the cgroup and the container's directory", request.id);
    let mut undo = Undo::default();
    let slot = undo.slot.insert(store.claim(request.id)?);
    drop(store);
    let mut state = first_state(spec, &request, &plan, placement);
    slot.keep_config(request.config)?;
    if request.notify {
        slot.make_notify_directory()?;
    }
    slot.save(&state)?;
    let door = door::make(slot)?;
    let cgroup = undo.cgroup.insert(Cgroup::make(state.cgroup.clone(), &spec.linux.resources, owns_host, driver)?);
    // Without privilege there may be fewer hierarchies than were asked for.
    state.cgroup = cgroup.placement().clone();
    state.owns_cgroup = cgroup.is_own();
    if let Some(owner) = plan.cgroup_owner.filter(|_| privileged) {
        cgroup.give_to(owner)?;
    }
    if let Some(rdt) = rdt {
        state.rdt = Some(undo.rdt.insert(rdt.make()?).clone());
    }
    slot.save(&state)?;
    let mut prepared = prepare(plan, spec, &mut request, door, &state, privileged)?;

    let (to_inside, to_outside) = link::pair()?;
    let cradle = &prepared.plan.cradle;
    let home = Home::look(cradle);
    prepared.network_follows = home.is_some();
    let kinds = cradle.clone & !if home.is_some() { libc::CLONE_NEWNET as u64 } else { 0 };
    let (pid, pidfd) = match namespaces::around_pid_namespace(cradle, || clone3(kinds, cgroup.clone_into()))? {
        Born::Child => {
            drop(to_inside);
            // Their descriptors, the lock among them, stay with the other side.
            drop(undo.disarm());
            // And the way to the caller's network.
            drop(home);
            inside(prepared, to_outside)
        }
        Born::Parent { pid, pidfd } => {
            drop(to_outside);
            (pid, pidfd)
        }
    };
    // Before anything can fail: what exists can be undone.
    undo.processes.push((pid, pidfd));
    let pid = if cradle.asks_for_ids() { undo.expect_needs_ids(&to_inside)? } else { pid };
    // Init has its own copies.
    prepared.trees = None;

    tracing::debug!("{}: init is {}; id maps, cgroup", request.id, pid.as_raw_nonzero());
    let mut settle = || {
        let plan = &prepared.plan;
        if let Some(maps) = &plan.maps {
            maps.write(pid)?;
        }
        if let Some(cgroup) = &mut undo.cgroup {
            cgroup.settle(pid.as_raw_nonzero().get().cast_unsigned()).at("unable to apply cgroup configuration")?;
            if let (false, Some(slot)) = (state.owns_cgroup, &undo.slot) {
                // The scope is there: from here on whoever finds a dead creator's container may kill what lives in it.
                state.owns_cgroup = true;
                slot.save(&state)?;
                if let Some(owner) = plan.cgroup_owner.filter(|_| privileged) {
                    cgroup.give_to(owner)?;
                }
            }
        }
        if let Some(rdt) = &undo.rdt {
            rdt.join(pid.as_raw_nonzero().get())?;
        }
        set_oom_score(pid, plan.process.oom_score_adj)?;
        to_inside.say(Outside::Go, pid.as_raw_nonzero().get())?;
        // From here to the end of the mounts both sides are at work.
        if let Some(home) = &home {
            to_inside.give_network(home.make_another()?.as_fd())?;
        }
        if let Some(cgroup) = &mut undo.cgroup {
            cgroup.load_filter().at("linux.resources.devices")?;
        }
        state.start_time = start_time(pid.as_raw_nonzero().get())?;
        Ok(())
    };
    settle().map_err(|error| to_inside.last_word().unwrap_or(error))?;

    to_inside.expect_mounts(|index, mount| prepared.map_ids(index, mount))?;
    if let Some(cgroup) = &mut undo.cgroup {
        // Not earlier: what init did until now, devices and all, was the runtime's work and not the container's.
        cgroup.restrict()?;
    }
    affinity::reset(pid);
    undo.devices.give(&prepared.plan.net_devices, pid)?;
    tracing::debug!("{}: mounts are done; prestart and createRuntime hooks", request.id);
    state.pid = pid.as_raw_nonzero().get();
    let oci = oci_state(&state, "creating");
    hooks::run("prestart", &prepared.hooks.prestart, &oci, Some(&state.bundle))
        .and_then(|()| hooks::run("createRuntime", &prepared.hooks.create_runtime, &oci, Some(&state.bundle)))
        // After the mounts, which may need more descriptors; before init takes on its user, whom not every caller may limit.
        .and_then(|()| limits::apply(pid, &prepared.plan.process.limits))
        .and_then(|()| to_inside.say(Outside::HooksDone, 0))
        .and_then(|()| {
            let Some((_, pidfd)) = undo.processes.last() else { return Err(Error::other("init is not on record")) };
            to_inside.expect_ready(pidfd.as_fd(), |listener| send_listener(spec, &listener, pid, &oci))?;
            (request.announce)(pid, pidfd.as_fd())
        })
        .inspect_err(|_| run_poststop(&prepared.hooks, &state))?;
    undo.reap_waypoint()?;
    tracing::debug!("{}: init is ready; save the state", request.id);
    state.made = true;
    if let Some(slot) = &undo.slot {
        slot.save(&state)?;
    }
    to_inside.say(Outside::Saved, 0)?;
    if let Some(slot) = &undo.slot {
        slot.unlock()?;
    }
    match undo.disarm() {
        (Some(slot), _, mut processes) => match processes.pop() {
            Some((_, pidfd)) => Ok(Created { slot, state, pidfd }),
            None => Err(Error::other("init is not on record")),
        },
        _ => Err(Error::other("the container's directory is not on record")),
    }
}

/// A birth that fails after its first hooks ran is followed by the hooks that clean up after them (runtime-spec
/// `runtime.md`, "Lifecycle").
fn run_poststop(hooks: &Hooks, state: &State) {
    let oci = OciState { pid: 0, ..oci_state(state, "stopped") };
    if let Err(error) = hooks::run("poststop", &hooks.poststop, &oci, Some(&state.bundle)) {
        tracing::warn!("{error}");
    }
}

/// The root has to be a directory before anything is made for it.
pub(crate) fn check_root(plan: &Plan) -> Result<()> {
    let stat = rustix::fs::stat(&plan.rootfs).at_with(|| format!("root.path {}", plan.rootfs.display()))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Ok(());
    }
    Err(Error::invalid("root.path", format!("{} is not a directory", plan.rootfs.display())))
}

pub(crate) fn first_state(spec: &Spec, request: &Request<'_>, plan: &Plan, cgroup: cgroup::Placement) -> State {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    State {
        oci_version: spec.oci_version.clone(),
        id: request.id.to_owned(),
        made: false,
        owns_cgroup: false,
        pid: 0,
        bundle: request.bundle.to_owned(),
        annotations: spec.annotations.clone(),
        start_time: 0,
        rootfs: plan.rootfs.clone(),
        created: now,
        owner: rustix::process::geteuid().as_raw(),
        cgroup,
        namespaces: plan.cradle.namespaces.clone(),
        own_pid_namespace: !plan.cradle.shares_pids(),
        late_hooks: !spec.hooks.poststart.is_empty() || !spec.hooks.poststop.is_empty(),
        resources: None,
        rdt: None,
    }
}

fn prepare(
    plan: Plan,
    spec: &Spec,
    request: &mut Request<'_>,
    door: Door,
    state: &State,
    privileged: bool,
) -> Result<Prepared> {
    // Another user's namespace may lack the way to the host's paths; without privilege there is only the way inside.
    let user_namespaces = UserNamespaces::of(&plan.mounts)?;
    let trees =
        if plan.in_user_namespace() && privileged { Some(HostTrees::open(&plan, &user_namespaces)?) } else { None };
    Ok(Prepared {
        user_namespaces,
        hooks: spec.hooks.clone(),
        state: state.clone(),
        network_follows: false,
        procfs: Procfs::open()?,
        door,
        trees,
        console: request.console.take(),
        preserve_fds: request.preserve_fds,
        no_pivot: request.no_pivot,
        keyring: (!request.no_new_keyring).then(|| format!("_ses.{}", request.id)),
        plan,
    })
}

pub(super) fn set_oom_score(pid: Pid, score: Option<i32>) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    std::fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), score.to_string())
        .at_with(|| format!("process.oomScoreAdj: set it to {score} (lowering it takes CAP_SYS_RESOURCE)"))
}

/// Hands the seccomp notification descriptor to the agent that listens for it (runtime-spec `config-linux.md`,
/// "Container Process State").
pub(super) fn send_listener(spec: &Spec, listener: &OwnedFd, pid: Pid, oci: &OciState<'_>) -> Result<()> {
    let Some(seccomp) = &spec.linux.seccomp else { return Ok(()) };
    seccomp_agent::send(seccomp, listener.as_fd(), pid, oci).at("seccomp listenerPath")
}

/// The state that hooks and users see.
pub(crate) fn oci_state<'a>(state: &'a State, status: &'a str) -> OciState<'a> {
    OciState {
        oci_version: &state.oci_version,
        id: &state.id,
        status,
        pid: state.pid,
        bundle: &state.bundle,
        annotations: &state.annotations,
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Inside

/// Init's life up to its program. Ends in the program, or in a last word to the other side.
fn inside(prepared: Prepared, link: ToOutside) -> ! {
    match become_ready(prepared, &link) {
        Ok((waiting, hooks, state)) => {
            // A socket of the caller's network: a process that enters the container may be able to take it from init.
            drop(link);
            run_when_told(&waiting, &hooks, &state);
        }
        Err(error) => link.fail(&error.at("error during container init")),
    }
    sys::exit(1)
}

/// An init that has everything but its program.
struct Waiting {
    poised: Poised,
    door: Door,
}

fn become_ready(mut prepared: Prepared, link: &ToOutside) -> Result<(Waiting, Hooks, State)> {
    let plan = &prepared.plan;
    // runc's words, here and below, for those who look for a step in a debug log.
    tracing::debug!("nsexec container setup: sessions, namespaces, ids");
    rustix::process::umask(Mode::empty());
    if plan.cradle.shares_pids() && plan.cradle.user != UserNamespace::New {
        // Before any namespace is entered that others live in: they could look into us by /proc (CVE-2016-9962).
        hide_from_others()?;
    }
    // A waypoint is not yet the process whose clock is meant.
    let clocks = if plan.cradle.waypoint { None } else { namespaces::open_clocks(plan, &prepared.procfs)? };
    namespaces::enter_namespaces(&plan.cradle, &prepared.procfs, link)?;
    let clocks = if plan.cradle.waypoint { namespaces::open_clocks(plan, &prepared.procfs)? } else { clocks };
    // Not before: what a waypoint has made would be no leader of the session.
    rustix::process::setsid().at("setsid")?;
    prepared.state.pid = link.expect(Outside::Go)?;
    let mut may_set_groups = true;
    if plan.in_user_namespace() {
        // One that was joined may have been made by a user without privilege.
        may_set_groups = prepared.procfs.lets_set_groups()?;
        identity::become_namespace_root(may_set_groups)?;
    }
    namespaces::own_namespaces(plan, &prepared.procfs, clocks, prepared.network_follows)?;
    if let Some(keyring) = &prepared.keyring {
        selinux::label_keys(&prepared.procfs, &plan.process.selinux_label)?;
        join_keyring(keyring)?;
    }

    tracing::debug!("child process in init(): mounts and devices");
    let trees = prepared.trees.take();
    let network = Arrival::new(link, prepared.network_follows);
    let (root, writable, undo) = root::build(&prepared, trees, &network, link)?;
    network.enter()?;
    prepared.user_namespaces = UserNamespaces::default();
    link.say(Inside::MountsDone)?;

    let watched = prepared.hooks.see_the_root();
    // On v1 there is a moment in which all devices are denied.
    let denied = prepared.state.cgroup.mode == cgroup::Mode::V1;
    let stops = watched || (denied && (prepared.console.is_some() || descriptors::has_null()));
    if stops {
        link.expect(Outside::HooksDone)?;
    }
    if watched {
        let oci = oci_state(&prepared.state, "creating");
        // In the root, as with runc; by its descriptor, which a hook of the host can be given no other name for.
        let inside_root = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
        hooks::run("createContainer", &prepared.hooks.create_container, &oci, Some(inside_root.as_ref()))?;
    }
    let plan = prepared.plan;
    if let Some(socket) = &prepared.console {
        let slave =
            console::set_up(&root, socket.as_fd(), plan.process.console_size, plan.process.user.uid).at("console")?;
        if plan.own_dev {
            console::bind_console(&root, slave.as_fd())?;
        }
    }
    root::close(&root, &plan, &writable)?;
    match (plan.own_mounts(), prepared.no_pivot) {
        (true, false) => entry::pivot(&root, plan.root_propagation)?,
        (true, true) => entry::move_and_chroot(&root)?,
        (false, _) => entry::chroot(&root)?,
    }
    if plan.own_dev && prepared.console.is_none() {
        descriptors::reopen_null()?;
    }
    if !stops {
        // Not earlier: there was no need to stop.
        link.expect(Outside::HooksDone)?;
    }
    name_host(&plan.hostname, &plan.domainname)?;
    for sysctl::Setting { key, path, value } in &plan.sysctl {
        prepared.procfs.write(path, value).at_with(|| format!("sysctl {key}"))?;
    }
    // From now on the container can be entered: whoever does must not find the way out in us.
    hide_from_others()?;
    plan.process.apply_profile(&prepared.procfs)?;
    // Not later: the container's seccomp filter may forbid to write.
    tracing::debug!("init: closing the pipe to signal completion: what is left is the program");
    // Pid 1 of a namespace is spared signals that nothing handles.
    sys::exit_on(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM]).at("take signals")?;
    let poised = plan.process.assume(may_set_groups, prepared.preserve_fds, |listener| link.give_listener(listener))?;
    link.say(Inside::Ready)?;

    link.expect(Outside::Saved)?;
    if let Some(undo) = undo {
        undo.disarm();
    }
    Ok((Waiting { poised, door: prepared.door }, prepared.hooks, prepared.state))
}

fn run_when_told(Waiting { poised, door }: &Waiting, hooks: &Hooks, state: &State) {
    if let Err(error) = door.wait() {
        return door.fail(&error);
    }
    let oci = oci_state(state, "created");
    let hooked = poised
        .enforce()
        .and_then(|()| hooks::run_with("startContainer", &hooks.start_container, &oci, None, poised.environment()));
    if let Err(error) = hooked {
        return door.fail(&error);
    }
    let Err(error) = poised.execute().map(|never: Infallible| match never {});
    // The container's own output is where people look first.
    let line = format!("{error}\n");
    // Nobody may be reading it.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
    door.fail_to_execute(&error);
}

/// Nobody may look into init through `/proc/<pid>` or trace it, while it still holds what is the host's.
pub(super) fn hide_from_others() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).at("become non-dumpable")
}

pub(super) fn join_keyring(name: &str) -> Result<()> {
    let name = std::ffi::CString::new(name).map_err(|error| Error::other(error.to_string()))?;
    match sys::join_session_keyring(&name) {
        // A kernel without keys has none to protect.
        Err(rustix::io::Errno::NOSYS) => Ok(()),
        joined => joined.at("join a session keyring of its own (--no-new-keyring keeps the caller's)"),
    }
}

fn name_host(hostname: &str, domainname: &str) -> Result<()> {
    if !hostname.is_empty() {
        rustix::system::sethostname(hostname.as_bytes()).at("hostname")?;
    }
    if !domainname.is_empty() {
        rustix::system::setdomainname(domainname.as_bytes()).at("domainname")?;
    }
    Ok(())
}
