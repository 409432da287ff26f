//! What is going to be done, as data: decided from the configuration and the host's facts alone, before anything is
//! touched.

use crate::{
    error::{Error, Result},
    inside::{
        devices::{self, Node},
        mounts::{self, Step, propagation},
        process::ProcessPlan,
        selinux, sysctl,
    },
    outside::{
        ids::Maps,
        net_devices::{self, NetDevice},
    },
    spec::{Hook, Linux, Mount, Namespace, NamespaceKind, Spec},
};
use libc::{CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// Everything about a birth.
pub(crate) struct Plan {
    pub(crate) cradle: Cradle,
    /// Whether the caller is in a user namespace already, as in that of an engine without privilege.
    pub(crate) caller_is_within: bool,
    pub(crate) maps: Option<Maps>,
    /// The host's number of the user who gets the container's cgroup (runtime-spec `config-linux.md`, "Cgroup ownership").
    pub(crate) cgroup_owner: Option<u32>,
    /// In the order in which the kernel is to have them: other namespaces' offsets are its format's, one a line.
    pub(crate) time_offsets: String,
    pub(crate) rootfs: PathBuf,
    pub(crate) readonly_root: bool,
    /// Of the container's view of the host's tree; and whether it was asked for.
    pub(crate) propagation: (u64, bool),
    pub(crate) root_propagation: Option<u64>,
    pub(crate) mounts: Vec<Step>,
    pub(crate) mount_label: Option<String>,
    pub(crate) nodes: Vec<Node>,
    /// Whether `/dev` is the container's, so that its links are made.
    pub(crate) own_dev: bool,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) readonly: Vec<PathBuf>,
    pub(crate) sysctl: Vec<sysctl::Setting>,
    pub(crate) hostname: String,
    pub(crate) domainname: String,
    pub(crate) net_devices: Vec<NetDevice>,
    pub(crate) process: ProcessPlan,
}

/// Which namespaces init gets, and how: see the table in [`super`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cradle {
    /// `CLONE_NEW*` for the one clone.
    pub(crate) clone: u64,
    /// `CLONE_NEW*` that init makes for itself, once it has its ids.
    pub(crate) unshare: u64,
    /// Joined by path before the user namespace is entered, in this order.
    pub(crate) joins: Vec<(NamespaceKind, PathBuf)>,
    /// The pid namespace that the caller enters around the clone.
    pub(crate) join_pid: Option<PathBuf>,
    pub(crate) user: UserNamespace,
    /// Whether a process in between is needed: the pid namespace has to be owned by the user namespace, which can be
    /// entered only after the clone.
    pub(crate) waypoint: bool,
    /// All that are not the caller's own.
    pub(crate) namespaces: Vec<NamespaceKind>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum UserNamespace {
    #[default]
    Callers,
    /// Made by the clone.
    New,
    /// Made by init after it has joined others by path, which takes the caller's privilege.
    NewAfterJoins,
    Joined(PathBuf),
}

impl Plan {
    /// Decides everything, or names the field that forbids it.
    pub(crate) fn of(spec: &Spec, bundle: &Path, privileged: bool) -> Result<Self> {
        let process = spec.process.as_ref().ok_or_else(|| Error::invalid("process", "must be set"))?;
        let root = spec.root.as_ref().ok_or_else(|| Error::invalid("root", "must be set"))?;
        if root.path.as_os_str().is_empty() {
            return Err(Error::invalid("root.path", "must not be empty"));
        }
        // Of another major version the fields may mean anything (semver).
        if !spec.oci_version.is_empty() && !spec.oci_version.starts_with("1.") {
            return Err(Error::invalid("ociVersion", format!("{:?} is none of 1.x", spec.oci_version)));
        }
        let linux = &spec.linux;
        let cradle = Cradle::of(&linux.namespaces, privileged)?;
        let new = |kind| linux.namespaces.iter().any(|n| n.kind == kind && n.path.is_none());
        let private = |kind| linux.namespaces.iter().any(|n| n.kind == kind);
        check_mounts(linux, new(NamespaceKind::Mount))?;
        if !spec.hostname.is_empty() && !private(NamespaceKind::Uts) {
            return Err(Error::invalid(
                "hostname",
                "unable to set hostname without a private UTS namespace: add uts to linux.namespaces",
            ));
        }
        if !spec.domainname.is_empty() && !private(NamespaceKind::Uts) {
            return Err(Error::invalid(
                "domainname",
                "unable to set domainname without a private UTS namespace: add uts to linux.namespaces",
            ));
        }
        selinux::check("linux.mountLabel", &linux.mount_label)?;
        for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
            // The kernel takes any byte, and programs read it as a C string. 64 is `__NEW_UTS_LEN`.
            if name.contains('\0') || name.len() > 64 {
                return Err(Error::invalid(field, format!("{name:?} is longer than 64 bytes or has a NUL in it")));
            }
        }
        check_hooks(spec)?;
        let asked_propagation = match &*linux.rootfs_propagation {
            "" => None,
            text => Some(propagation(text).ok_or_else(|| {
                Error::invalid(
                    "linux.rootfsPropagation",
                    format!("{text:?} is none of shared, slave, private, unbindable"),
                )
            })?),
        };
        let rootfs = bundle.join(&root.path);
        Ok(Self {
            maps: maps(linux, &cradle, privileged)?,
            cgroup_owner: cgroup_owner(spec, process.user.uid, &cradle.user, new(NamespaceKind::Cgroup)),
            time_offsets: time_offsets(linux, new(NamespaceKind::Time))?,
            rootfs: rootfs.clone(),
            readonly_root: root.readonly,
            propagation: (asked_propagation.map_or(libc::MS_SLAVE, |(flag, _)| flag), true),
            root_propagation: asked_propagation.map(|(flag, _)| flag),
            mounts: mounts::steps(&spec.mounts, &mounts::Context { bundle, rootfs: &rootfs, linux, privileged })?,
            mount_label: Some(linux.mount_label.clone()).filter(|label| !label.is_empty()),
            nodes: devices::nodes(&linux.devices, &spec.mounts)?,
            own_dev: !devices::dev_is_the_hosts(&spec.mounts),
            masked: linux.masked_paths.clone(),
            readonly: linux.readonly_paths.clone(),
            sysctl: sysctl::settings(linux)?,
            hostname: spec.hostname.clone(),
            domainname: spec.domainname.clone(),
            net_devices: net_devices::devices(linux, privileged)?,
            process: ProcessPlan::of(process, linux)?,
            caller_is_within: false,
            cradle,
        })
    }

    /// Whether the kernel forbids init mknod(2), as it does in every user namespace but the first.
    pub(crate) fn binds_nodes(&self) -> bool {
        self.in_user_namespace() || self.caller_is_within
    }

    /// Whether init is in a user namespace other than the caller's: the kernel then forbids it mknod(2), and paths of the
    /// host may be closed to it.
    pub(crate) fn in_user_namespace(&self) -> bool {
        self.cradle.user != UserNamespace::Callers
    }

    /// Whether the mount namespace is the container's own, and not the host's.
    pub(crate) fn own_mounts(&self) -> bool {
        self.cradle.namespaces.contains(&NamespaceKind::Mount)
    }
}

/// Where the mounts are the host's own, none may be put over what the host uses.
fn check_mounts(linux: &Linux, own_mounts: bool) -> Result<()> {
    if own_mounts {
        return Ok(());
    }
    if linux.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Mount) {
        return Err(Error::invalid(
            "linux.namespaces",
            "a mount namespace cannot be joined: the root is built in a new one",
        ));
    }
    if linux.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::User) {
        return Err(Error::invalid(
            "linux.namespaces",
            "a user namespace needs a mount namespace of its own: add mount",
        ));
    }
    for (field, paths) in [("linux.maskedPaths", &linux.masked_paths), ("linux.readonlyPaths", &linux.readonly_paths)] {
        if !paths.is_empty() {
            return Err(Error::invalid(field, "unable to restrict sys entries without a private MNT namespace"));
        }
    }
    Ok(())
}

impl Cradle {
    fn of(namespaces: &[Namespace], privileged: bool) -> Result<Self> {
        use NamespaceKind::{Cgroup, Pid, Time, User};
        let mut cradle = Self::default();
        for (i, namespace) in namespaces.iter().enumerate() {
            let field = format!("linux.namespaces[{i}]");
            if cradle.namespaces.contains(&namespace.kind) {
                return Err(Error::invalid(field, format!("malformed spec file: duplicated ns {}", namespace.kind)));
            }
            if namespace.path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(Error::invalid(format!("{field}.path"), "must be absolute"));
            }
            cradle.namespaces.push(namespace.kind);
        }
        let find = |kind| namespaces.iter().find(|n| n.kind == kind);
        let path_of = |kind| find(kind).and_then(|n| n.path.clone());
        // Host-owned ones first, the mount namespace never: the root is built in a new one.
        cradle.joins = namespaces
            .iter()
            .filter(|n| !matches!(n.kind, User | Pid))
            .filter_map(|n| Some((n.kind, n.path.clone()?)))
            .collect();
        cradle.user = match (find(User), path_of(User)) {
            (None, _) => UserNamespace::Callers,
            (Some(_), Some(path)) => UserNamespace::Joined(path),
            (Some(_), None) if cradle.joins.is_empty() => UserNamespace::New,
            (Some(_), None) => UserNamespace::NewAfterJoins,
        };
        let new_pid = find(Pid).is_some_and(|n| n.path.is_none());
        cradle.join_pid = path_of(Pid);
        cradle.waypoint = new_pid && matches!(cradle.user, UserNamespace::NewAfterJoins | UserNamespace::Joined(_));
        if cradle.join_pid.is_some() && !privileged {
            return Err(Error::invalid(
                "linux.namespaces",
                "joining a pid namespace takes CAP_SYS_ADMIN in this version",
            ));
        }
        let new = |kinds: &[NamespaceKind]| {
            namespaces
                .iter()
                .filter(|n| n.path.is_none() && kinds.contains(&n.kind))
                .fold(0, |set, n| set | flag(n.kind))
        };
        const OWNED: [NamespaceKind; 4] =
            [NamespaceKind::Mount, NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts];
        // A cgroup namespace is rooted where its maker is, a time namespace takes effect for children: both later.
        match cradle.user {
            UserNamespace::Callers => {
                cradle.clone = new(&OWNED) | new(&[Pid]);
                cradle.unshare = new(&[Cgroup, Time]);
            }
            UserNamespace::New => {
                // The rest after becoming 0: /dev/mqueue would belong to nobody.
                cradle.clone = new(&[User, Pid]);
                cradle.unshare = new(&OWNED) | new(&[Cgroup, Time]);
            }
            UserNamespace::NewAfterJoins | UserNamespace::Joined(_) => {
                // The waypoint, or init itself, makes them.
                cradle.clone = 0;
                cradle.unshare = new(&OWNED) | new(&[Cgroup, Time]);
            }
        }
        Ok(cradle)
    }

    /// Whether the process that is cloned first has to get somewhere by itself, or to make another, before its ids can be
    /// written.
    pub(crate) fn asks_for_ids(&self) -> bool {
        self.waypoint || matches!(self.user, UserNamespace::NewAfterJoins | UserNamespace::Joined(_))
    }

    /// Whether processes that are not the container's share its pid namespace, and with it could look into init.
    pub(crate) fn shares_pids(&self) -> bool {
        let new_pid = (self.clone & CLONE_NEWPID as u64 != 0) || self.waypoint;
        !new_pid
    }
}

/// Whether there is a plan, for tests elsewhere.
#[cfg(test)]
pub(crate) fn plan_of(spec: &Spec, bundle: &Path, privileged: bool) -> Result<()> {
    Plan::of(spec, bundle, privileged).map(drop)
}

/// The `CLONE_NEW*` of a kind.
pub(crate) fn flag(kind: NamespaceKind) -> u64 {
    (match kind {
        NamespaceKind::Pid => CLONE_NEWPID,
        NamespaceKind::Network => CLONE_NEWNET,
        NamespaceKind::Mount => CLONE_NEWNS,
        NamespaceKind::Ipc => CLONE_NEWIPC,
        NamespaceKind::Uts => CLONE_NEWUTS,
        NamespaceKind::User => CLONE_NEWUSER,
        NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        NamespaceKind::Time => CLONE_NEWTIME,
    }) as u64
}

fn check_hooks(spec: &Spec) -> Result<()> {
    for (name, hooks) in spec.hooks.all() {
        for (i, Hook { path, timeout, .. }) in hooks.iter().enumerate() {
            if !path.is_absolute() {
                return Err(Error::invalid(
                    format!("hooks.{name}[{i}].path"),
                    format!("{} must be absolute", path.display()),
                ));
            }
            if timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(Error::invalid(format!("hooks.{name}[{i}].timeout"), "must be greater than zero"));
            }
        }
    }
    Ok(())
}

fn maps(linux: &Linux, cradle: &Cradle, privileged: bool) -> Result<Option<Maps>> {
    let (uids, gids) = (&linux.uid_mappings, &linux.gid_mappings);
    match cradle.user {
        UserNamespace::Callers if !uids.is_empty() || !gids.is_empty() => Err(Error::invalid(
            "linux.uidMappings",
            "user namespace mappings specified, but user namespace isn't enabled in the config",
        )),
        UserNamespace::New | UserNamespace::NewAfterJoins if uids.is_empty() => {
            Err(Error::invalid("linux.uidMappings", "a new user namespace needs mappings"))
        }
        UserNamespace::New | UserNamespace::NewAfterJoins if gids.is_empty() => {
            Err(Error::invalid("linux.gidMappings", "a new user namespace needs mappings"))
        }
        UserNamespace::New | UserNamespace::NewAfterJoins => Ok(Some(Maps::of(uids, gids, privileged))),
        UserNamespace::Callers | UserNamespace::Joined(_) => Ok(None),
    }
}

/// A container that sees its own cgroup, and may write there, owns it.
fn cgroup_owner(spec: &Spec, uid: u32, user: &UserNamespace, own_view: bool) -> Option<u32> {
    let read_only = |mount: &Mount| {
        mount.options.iter().rfind(|it| matches!(&***it, "ro" | "rro" | "rw")).is_some_and(|it| it != "rw")
    };
    let writable = |mount: &Mount| matches!(&*mount.kind, "cgroup" | "cgroup2") && !read_only(mount);
    if !own_view || !spec.mounts.iter().any(writable) {
        return None;
    }
    let host = match user {
        UserNamespace::Callers => uid,
        UserNamespace::New | UserNamespace::NewAfterJoins => spec.linux.uid_mappings.iter().find_map(|map| {
            let offset = uid.checked_sub(map.container_id).filter(|it| *it < map.size)?;
            map.host_id.checked_add(offset)
        })?,
        // Its maps are somebody else's.
        UserNamespace::Joined(_) => return None,
    };
    (host != 0).then_some(host)
}

fn time_offsets(linux: &Linux, new_time: bool) -> Result<String> {
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        let field = format!("linux.timeOffsets.{clock}");
        if !new_time {
            return Err(Error::invalid(field, "needs a new time namespace"));
        }
        if !matches!(&**clock, "monotonic" | "boottime") {
            return Err(Error::invalid(field, "is none of monotonic, boottime"));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cradle(json: &str) -> Cradle {
        let namespaces: Vec<Namespace> = crate::spec::parse(json.as_bytes()).unwrap();
        Cradle::of(&namespaces, true).unwrap()
    }

    #[test]
    fn one_clone_makes_all_but_cgroup_and_time() {
        let c = cradle(r#"[{"type":"pid"},{"type":"network"},{"type":"mount"},{"type":"cgroup"},{"type":"time"}]"#);
        assert_eq!(c.clone, (CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWNS) as u64);
        assert_eq!(c.unshare, (libc::CLONE_NEWCGROUP | CLONE_NEWTIME) as u64);
        assert!(!c.waypoint && !c.shares_pids());
    }

    #[test]
    fn a_new_user_namespace_comes_first() {
        let c = cradle(r#"[{"type":"pid"},{"type":"user"},{"type":"mount"},{"type":"ipc"}]"#);
        assert_eq!(c.clone, (CLONE_NEWPID | CLONE_NEWUSER) as u64);
        assert_eq!(c.unshare, (CLONE_NEWNS | CLONE_NEWIPC) as u64);
        assert_eq!(c.user, UserNamespace::New);
        assert!(!c.waypoint);
    }

    #[test]
    fn only_two_cases_need_a_process_in_between() {
        for (json, waypoint) in [
            (r#"[{"type":"pid"},{"type":"user"},{"type":"mount"},{"type":"network","path":"/n"}]"#, true),
            (r#"[{"type":"pid"},{"type":"user","path":"/u"},{"type":"mount"}]"#, true),
            (r#"[{"type":"user"},{"type":"mount"},{"type":"network","path":"/n"}]"#, false),
            (r#"[{"type":"pid","path":"/p"},{"type":"user","path":"/u"},{"type":"mount"}]"#, false),
            (r#"[{"type":"pid"},{"type":"mount"},{"type":"network","path":"/n"}]"#, false),
        ] {
            assert_eq!(cradle(json).waypoint, waypoint, "{json}");
        }
    }

    #[test]
    fn who_may_write_to_the_own_cgroup_owns_it() {
        const RW: &str = r#"{"destination":"/sys/fs/cgroup","type":"cgroup","source":"c","options":["rw"]}"#;
        const RO: &str = r#"{"destination":"/sys/fs/cgroup","type":"cgroup2","source":"c","options":["rw","ro"]}"#;
        const USER: &str = r#""uidMappings":[{"containerID":0,"hostID":1000,"size":1},{"containerID":1,"hostID":5000,"size":9}],
            "gidMappings":[{"containerID":0,"hostID":1000,"size":1}],"#;
        for (uid, mount, maps, namespaces, expected) in [
            (3, RW, USER, r#"{"type":"user"},{"type":"cgroup"}"#, Some(5002)),
            (0, RW, USER, r#"{"type":"user"},{"type":"cgroup"}"#, Some(1000)),
            (77, RW, USER, r#"{"type":"user"},{"type":"cgroup"}"#, None),
            (3, RO, USER, r#"{"type":"user"},{"type":"cgroup"}"#, None),
            (3, RW, USER, r#"{"type":"user"}"#, None),
            (3, RW, "", r#"{"type":"user","path":"/u"},{"type":"cgroup"}"#, None),
            (3, RW, "", r#"{"type":"cgroup"}"#, Some(3)),
            (0, RW, "", r#"{"type":"cgroup"}"#, None),
        ] {
            let json = format!(
                r#"{{"process":{{"cwd":"/","args":["a"],"user":{{"uid":{uid},"gid":0}}}},"root":{{"path":"r"}},
                    "mounts":[{mount}],"linux":{{{maps}"namespaces":[{{"type":"mount"}},{namespaces}]}}}}"#
            );
            let spec = Spec::parse(json.as_bytes()).unwrap();
            let plan = Plan::of(&spec, Path::new("/b"), true).unwrap();
            assert_eq!(plan.cgroup_owner, expected, "{json}");
        }
    }

    fn refusal(linux: &str, rest: &str) -> String {
        let json =
            format!(r#"{{"process":{{"cwd":"/","args":["a"]}},"root":{{"path":"rootfs"}},"linux":{{{linux}}}{rest}}}"#);
        let spec = Spec::parse(json.as_bytes()).unwrap();
        Plan::of(&spec, Path::new("/b"), true).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn refuses_with_the_field_and_the_rule() {
        const MOUNT: &str = r#""namespaces":[{"type":"mount"}]"#;
        for (linux, rest, expected) in [
            (r#""maskedPaths":["/x"]"#, "", "linux.maskedPaths: unable to restrict sys entries without a private MNT"),
            (
                r#""namespaces":[{"type":"mount","path":"/m"}]"#,
                "",
                "linux.namespaces: a mount namespace cannot be joined",
            ),
            (
                r#""namespaces":[{"type":"mount"},{"type":"mount"}]"#,
                "",
                "linux.namespaces[1]: malformed spec file: duplicated",
            ),
            (MOUNT, r#","hostname":"x""#, "hostname: unable to set hostname without a private UTS"),
            (r#""namespaces":[{"type":"mount"},{"type":"user"}]"#, "", "linux.uidMappings: a new user namespace needs"),
            (
                r#""namespaces":[{"type":"mount"}],"sysctl":{"vm.swappiness":"1"}"#,
                "",
                "linux.sysctl.vm.swappiness: sysctl",
            ),
            (r#""namespaces":[{"type":"mount"}],"sysctl":{"net.core.somaxconn":"1"}"#, "", "linux.sysctl.net.core"),
            (r#""namespaces":[{"type":"mount"}],"rootfsPropagation":"x""#, "", "linux.rootfsPropagation: \"x\""),
            (MOUNT, r#","hooks":{"poststop":[{"path":"a"}]}"#, "hooks.poststop[0].path: a must be absolute"),
            (MOUNT, r#","hooks":{"prestart":[{"path":"/a","timeout":0}]}"#, "hooks.prestart[0].timeout"),
            (MOUNT, "", ""),
        ] {
            let refused = refusal(linux, rest);
            assert!(refused.starts_with(expected) && refused.is_empty() == expected.is_empty(), "{linux}: {refused}");
        }
    }
}
