//! A further process in a container (`exec`): the short story. It enters everything that the container has, its seccomp
//! filter, user namespace and cgroup included.
//!
//! ```text
//!   outside                                inside
//!      |  <------------- NeedsIds ------------|   exists, in all namespaces
//!      |  ---------------- Go(pid) ---------> |   the cgroup is joined, limits are in place
//!      |  <--------- Listener(n) -------------|   where the seccomp profile notifies
//!      |  ----------- Taken, or Send -------> |   Send is followed by Listener with the descriptor itself
//!      |  <------------- Ready ---------------|   all but the program is in place
//!      |  ----------------- Saved ----------> |   the pid file is written
//!      |  <------- Failed, or the end --------|   the end means that the program runs
//! ```
//!
//! A waypoint enters all namespaces, and then makes the process: what the container sees appear among its processes has the
//! container's root and directory, and nothing of the host's open but what the story still needs. Whoever may trace it, with
//! CAP_SYS_PTRACE in the container, finds no way out in it.

use super::{
    link::{self, Inside, Outside, ToOutside},
    network,
    story::{hide_from_others, join_keyring, oci_state, send_listener, set_oom_score},
    undo::Undo,
};
use crate::{
    error::{At, Error, Kind, Result},
    inside::{
        console, descriptors,
        process::{Poised, ProcessPlan},
        procfs::Procfs,
        root::Root,
        selinux,
    },
    outside::{
        cgroup::{Below, Cgroup, Mode as CgroupMode},
        limits,
    },
    process,
    spec::{NamespaceKind, Process, Spec},
    store::State,
    sys::{self, Born, clone3},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
    process::Pid,
};

/// What the caller wants of a visit.
pub struct Visit<'a> {
    /// The process to run.
    pub process: &'a Process,
    /// Connected; the terminal's master is sent here.
    pub console: Option<OwnedFd>,
    /// How many descriptors after standard error the process inherits.
    pub preserve_fds: u32,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Where to run it below the container's cgroup.
    pub cgroups: &'a Below,
    /// Called when the process is ready: pid files and the like; a failure undoes the visit.
    pub announce: &'a mut dyn FnMut(Pid, BorrowedFd<'_>) -> Result<()>,
}

/// A process that runs in a container, as the caller's child.
pub struct Visitor {
    /// As the caller numbers it.
    pub pid: Pid,
    /// Of the process.
    pub pidfd: OwnedFd,
}

/// What the two sides share: made before the clone, copied by it.
struct Prepared {
    plan: ProcessPlan,
    init: OwnedFd,
    /// `CLONE_NEW*` of the container's namespaces, but for pid and user.
    namespaces: u64,
    pid_namespace: bool,
    user_namespace: bool,
    /// Whether the container's user namespace lets setgroups(2) be called.
    may_set_groups: bool,
    privileged: bool,
    console: Option<OwnedFd>,
    preserve_fds: u32,
    keyring: Option<String>,
}

impl Prepared {
    /// Makes sockets that the process has while the container can see it: a way into the container's own network only.
    fn sockets<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.privileged && self.namespaces & libc::CLONE_NEWNET as u64 != 0 {
            return network::inside_that_of(self.init.as_fd(), make);
        }
        make()
    }
}

/// Runs `visit.process` in the container of `state`; `spec` is the configuration that it was made from.
///
/// # Errors
/// [`Kind::NotRunning`] also where the container ended meanwhile, whatever step that made fail.
pub fn exec(state: &State, spec: &Spec, visit: Visit<'_>) -> Result<Visitor> {
    enter(state, spec, visit).map_err(|error| {
        if process::is_ending(state.pid, state.start_time) {
            return Error::new(Kind::NotRunning, STOPPED);
        }
        error
    })
}

const STOPPED: &str = "cannot exec in a stopped container";

fn enter(state: &State, spec: &Spec, visit: Visit<'_>) -> Result<Visitor> {
    let plan = ProcessPlan::of(visit.process, &spec.linux)?;
    plan.check_console(visit.console.as_ref())?;
    if !rustix::process::geteuid().is_root() && !state.namespaces.contains(&NamespaceKind::User) {
        return Err(Error::other("without root, exec needs a container with a user namespace of the caller's"));
    }
    let init = process::open(state.pid, state.start_time).map_err(|_| Error::new(Kind::NotRunning, STOPPED))?;
    let has = |kind| state.namespaces.contains(&kind);
    // The root comes with the mount namespace: without one the process would have the host's.
    if !has(NamespaceKind::Mount) {
        return Err(Error::other("cannot exec in a container that has the host's mount namespace"));
    }
    let cgroup = Cgroup::open_below(&state.cgroup, visit.cgroups).at("error adding pid (new) to cgroups")?;
    let mut prepared = Prepared {
        plan,
        namespaces: state
            .namespaces
            .iter()
            .filter(|kind| !matches!(kind, NamespaceKind::Pid | NamespaceKind::User))
            .fold(0, |flags, kind| flags | super::plan::flag(*kind)),
        pid_namespace: has(NamespaceKind::Pid),
        user_namespace: has(NamespaceKind::User),
        may_set_groups: !has(NamespaceKind::User) || may_set_groups(state.pid)?,
        privileged: rustix::process::geteuid().is_root(),
        console: None,
        preserve_fds: visit.preserve_fds,
        keyring: (!visit.no_new_keyring).then(|| format!("_ses.{}", state.id)),
        init,
    };

    // As in a birth, runc's words for the steps.
    tracing::debug!("nsexec container setup: cgroup and namespaces of {}", state.id);
    let (to_inside, to_outside) = prepared.sockets(link::pair)?;
    // Nor has it the caller's own.
    let mut console = None;
    if let Some(caller) = visit.console {
        let (ours, inner) = prepared.sockets(link::sockets)?;
        prepared.console = Some(inner);
        console = Some((ours, caller));
    }
    let (pid, pidfd) = match prepared.plan.affinity.around(|| clone_into(&cgroup, state, visit.cgroups))? {
        Born::Child => {
            drop((to_inside, cgroup));
            inside(prepared, &to_outside)
        }
        Born::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(to_outside);
    let mut undo = Undo::default();
    undo.processes.push((pid, pidfd));
    let pid = undo.expect_needs_ids(&to_inside)?;
    cgroup.join(pid.as_raw_nonzero().get().cast_unsigned()).at("join cgroup")?;
    if let Some(rdt) = &state.rdt {
        rdt.join(pid.as_raw_nonzero().get())?;
    }
    prepared.plan.affinity.settle(pid)?;
    tracing::debug!("child process in init(): it is {}; limits, user, seccomp", pid.as_raw_nonzero());
    set_oom_score(pid, prepared.plan.oom_score_adj)?;
    // Before the process takes on its user, whom not every caller may limit.
    limits::apply(pid, &prepared.plan.limits)?;
    to_inside.say(Outside::Go, pid.as_raw_nonzero().get())?;

    let oci = oci_state(state, "running");
    if let Some((_, pidfd)) = undo.processes.last() {
        to_inside.expect_ready(pidfd.as_fd(), |listener| send_listener(spec, &listener, pid, &oci))?;
        if let Some((ours, caller)) = &console {
            let master = link::receive_descriptor(ours)?.ok_or_else(|| Error::other("init sent no terminal"))?;
            console::send(caller.as_fd(), master.as_fd()).at("console")?;
        }
        (visit.announce)(pid, pidfd.as_fd())?;
    }
    undo.reap_waypoint()?;
    tracing::debug!("setns_init: about to exec: what is left is the program");
    to_inside.say(Outside::Saved, 0)?;

    to_inside.expect_end()?;
    match undo.disarm().2.pop() {
        Some((pid, pidfd)) => Ok(Visitor { pid, pidfd }),
        None => Err(Error::other("the process is not on record")),
    }
}

/// Clones into the container's cgroup. On v2 that may be gone, or be one that hands out controllers and has no processes of its
/// own (cgroups(7), "no internal processes"): init has moved then, and the process goes where init is.
fn clone_into(cgroup: &Cgroup, state: &State, below: &Below) -> Result<Born> {
    const STEP: &str = "error adding pid (new) to cgroups";
    let pure_v2 = state.cgroup.mode == CgroupMode::V2 && !state.cgroup.hierarchies.is_empty();
    let later = cgroup.is_joined_later();
    let refused = match cgroup.clone_into() {
        None if pure_v2 && !later => Errno::NODEV,
        dir => match clone3(0, dir) {
            Err(errno @ (Errno::BUSY | Errno::OPNOTSUPP | Errno::NODEV)) if pure_v2 => errno,
            born => return born.at("clone3"),
        },
    };
    if !below.is_empty() {
        return Err(refused).at(STEP);
    }
    let inits = Cgroup::of_process(&state.cgroup, state.pid)?;
    let Some(dir) = inits.clone_into() else { return Err(refused).at(STEP) };
    clone3(0, Some(dir)).at(STEP)
}

/// Whether the user namespace of `pid` lets its processes change their groups (user_namespaces(7)).
fn may_set_groups(pid: i32) -> Result<bool> {
    let path = format!("/proc/{pid}/setgroups");
    let text = std::fs::read_to_string(&path).at_with(|| format!("read {path}"))?;
    Ok(text.trim() != "deny")
}

fn inside(prepared: Prepared, link: &ToOutside) -> ! {
    let failed = become_ready(prepared, link).and_then(|poised| poised.enforce().and_then(|()| poised.execute()));
    let Err(error) = failed.map(|never| match never {});
    link.fail(&error);
    sys::exit(1)
}

/// Whoever returns is in all namespaces, as a new process if the pid namespace is another.
fn enter_namespaces(prepared: &Prepared, link: &ToOutside) -> Result<()> {
    let init = prepared.init.as_fd();
    if prepared.plan.has_profile() {
        // Here and not by who becomes the program: a descriptor of the host's procfs leads to every process of the host.
        let procfs = Procfs::open()?;
        prepared.plan.apply_profile(&procfs)?;
        selinux::label_keys(&procfs, &prepared.plan.selinux_label)?;
    }
    let needed = [Some(link.as_fd()), Some(init), prepared.console.as_ref().map(AsFd::as_fd)];
    let needed: Vec<BorrowedFd<'_>> = needed.into_iter().flatten().collect();
    descriptors::close_others(&needed, prepared.preserve_fds)?;
    // All at once, by the pidfd: they are init's, whatever happens to its number. The mount namespace brings its root and
    // directory with it. The user namespace last, which gives away the privilege that the others take.
    let pid = if prepared.pid_namespace { libc::CLONE_NEWPID as u64 } else { 0 };
    if prepared.privileged {
        sys::setns(init, prepared.namespaces | pid).at("join the container's namespaces")?;
    }
    if prepared.user_namespace {
        // Without privilege the others can be joined only with that of the user namespace, which the kernel enters first.
        let others = if prepared.privileged { 0 } else { prepared.namespaces | pid };
        sys::setns(init, libc::CLONE_NEWUSER as u64 | others).at_with(|| {
            let hint =
                if prepared.privileged { "" } else { " (without root: of a container of one's own, that was started)" };
            format!("join the user namespace{hint}")
        })?;
        crate::inside::identity::become_namespace_root(prepared.may_set_groups)?;
    }
    // Before the container can see us: it could look into us by /proc (CVE-2016-9962).
    hide_from_others()?;
    if !prepared.pid_namespace {
        return link.say_needs_ids(None);
    }
    match clone3(libc::CLONE_PARENT as u64, None).at("clone3 from the waypoint")? {
        Born::Child => Ok(()),
        Born::Parent { pid, .. } => {
            link.say_needs_ids(Some(pid))?;
            sys::exit(0)
        }
    }
}

fn become_ready(prepared: Prepared, link: &ToOutside) -> Result<Poised> {
    rustix::process::umask(Mode::empty());
    descriptors::seal_null()?;
    enter_namespaces(&prepared, link)?;

    link.expect(Outside::Go)?;
    let plan = prepared.plan;
    rustix::process::setsid().at("setsid")?;
    if let Some(keyring) = &prepared.keyring {
        join_keyring(keyring)?;
    }
    if let Some(socket) = &prepared.console {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Root::new(rustix::fs::open("/", flags, Mode::empty()).at("open /")?);
        console::set_up(&root, socket.as_fd(), plan.console_size, plan.user.uid).at("console")?;
    } else {
        descriptors::reopen_null()?;
    }
    sys::exit_on(&[]).at("reset signals")?;
    let poised =
        plan.assume(prepared.may_set_groups, prepared.preserve_fds, |listener| link.give_listener(listener))?;
    link.say(Inside::Ready)?;

    link.expect(Outside::Saved)?;
    Ok(poised)
}
