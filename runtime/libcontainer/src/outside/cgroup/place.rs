//! Where a container's cgroup is: `linux.cgroupsPath`, the container's id and the host's hierarchies make a [`Placement`].

use super::{
    host::{Hierarchies, Host},
    systemd::{Manager, Unit},
};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Component, Path, PathBuf},
};

/// Which kind of cgroups a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A hierarchy per controller; the v2 hierarchy beside them ("hybrid") is joined as well.
    V1,
    /// The one unified hierarchy.
    V2,
}

/// Where a container's cgroup is: one directory in each hierarchy. Part of the saved state.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Which kind of cgroups these are.
    pub mode: Mode,
    /// Empty for an unprivileged container that has no cgroup of its own.
    pub hierarchies: Vec<Hierarchy>,
    /// The configuration named the place. An unprivileged caller then gets an error where it cannot have it; without a
    /// name it goes on without a cgroup.
    pub chosen: bool,
    /// The scope whose cgroup this is, with the systemd driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

/// One hierarchy's part of a [`Placement`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Hierarchy {
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The v1 controllers, or `name=systemd`; empty for v2.
    pub controllers: Vec<String>,
    /// The cgroup's path beneath `mount`: never empty, relative and without `..`.
    pub path: PathBuf,
}

impl Hierarchy {
    /// The cgroup's directory.
    pub fn dir(&self) -> PathBuf {
        self.mount.join(&self.path)
    }

    /// Whether this is the v2 hierarchy.
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Whether this is the v1 hierarchy of that controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|it| it == controller)
    }
}

impl Placement {
    /// Each controller with its cgroup's directory, `""` for the v2 hierarchy, as runc's state and hooks name them.
    pub fn paths(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.hierarchies.iter().flat_map(|hierarchy| {
            let unified = hierarchy.is_v2().then_some("");
            unified
                .into_iter()
                .chain(hierarchy.controllers.iter().map(String::as_str))
                .map(|name| (name, hierarchy.dir()))
        })
    }
}

/// Finds the place of a container's cgroup.
///
/// An absolute `linux.cgroupsPath` counts from each hierarchy's root, a relative one from the runtime's own cgroup (v2: from
/// its parent, because a cgroup with processes in it cannot hand controllers to children), and without one the container's
/// id is taken for a relative path. `..` never leads out of what the path counts from.
pub fn place(cgroups_path: &str, id: &str, host: &Host) -> Result<Placement> {
    const FIELD: &str = "linux.cgroupsPath";
    if let Some(manager) = &host.manager {
        return place_unit(cgroups_path, id, host, manager);
    }
    let chosen = !cgroups_path.is_empty();
    let wanted = if chosen { cgroups_path } else { id };
    if wanted.contains(['\0', '\n']) {
        return Err(Error::invalid(FIELD, format!("{wanted:?} has a character that a cgroup's name cannot have")));
    }
    if !wanted.contains('/') && wanted.split(':').count() == 3 {
        return Err(Error::invalid(
            FIELD,
            format!(
                "{wanted:?} has the form slice:prefix:name of the systemd driver; give --systemd-cgroup, or a path such as \
                 /tare/{id}"
            ),
        ));
    }
    let inner = clean(OsStr::new(wanted));
    // The root holds other people's cgroups: limits would hit the host, and deleting the container would remove them.
    if inner.as_os_str().is_empty() {
        return Err(Error::invalid(
            FIELD,
            format!("{wanted:?} is not below anything; give a path such as /tare/{id} that is the container's own"),
        ));
    }
    let absolute = wanted.starts_with('/');
    let (mode, hierarchies) = match &host.hierarchies {
        Hierarchies::V2 { mount, own } => {
            let base = match own {
                _ if absolute => Path::new(""),
                Some(own) => own.parent().unwrap_or(Path::new("")),
                None => return Err(Error::other("/proc/self/cgroup has no line for cgroup v2")),
            };
            (Mode::V2, vec![Hierarchy { mount: mount.clone(), controllers: Vec::new(), path: base.join(inner) }])
        }
        Hierarchies::V1 { mounted, unified } => {
            let v1 = mounted.iter().map(|it| Hierarchy {
                mount: it.mount.clone(),
                controllers: it.controllers.clone(),
                path: if absolute { inner.clone() } else { it.own.join(&inner) },
            });
            let unified = unified.iter().map(|mount| Hierarchy {
                mount: mount.clone(),
                controllers: Vec::new(),
                path: inner.clone(),
            });
            (Mode::V1, v1.chain(unified).collect())
        }
    };
    Ok(Placement { mode, hierarchies, chosen, unit: None })
}

/// A scope's place is the same in each hierarchy.
fn place_unit(cgroups_path: &str, id: &str, host: &Host, manager: &Manager) -> Result<Placement> {
    let (unit, path) = manager.place(cgroups_path, id)?;
    let (mode, hierarchies) = match &host.hierarchies {
        Hierarchies::V2 { mount, .. } => {
            (Mode::V2, vec![Hierarchy { mount: mount.clone(), controllers: Vec::new(), path }])
        }
        Hierarchies::V1 { .. } if manager.user => {
            return Err(Error::other("cannot use rootless systemd cgroups manager on cgroup v1"));
        }
        Hierarchies::V1 { mounted, unified } => {
            let v1 = mounted.iter().map(|it| (&it.mount, it.controllers.clone()));
            let all = v1.chain(unified.iter().map(|mount| (mount, Vec::new())));
            let at = |(mount, controllers): (&PathBuf, _)| Hierarchy {
                mount: mount.clone(),
                controllers,
                path: path.clone(),
            };
            (Mode::V1, all.map(at).collect())
        }
    };
    Ok(Placement { mode, hierarchies, chosen: true, unit: Some(unit) })
}

impl Placement {
    /// Only the hierarchy that stops and resumes processes: to ask whether they stand still need not open all.
    #[must_use]
    pub fn freezer(&self) -> Self {
        let has = |which: &dyn Fn(&Hierarchy) -> bool| self.hierarchies.iter().find(|it| which(it)).cloned();
        let one = has(&|it| it.has("freezer")).or_else(|| has(&Hierarchy::is_v2));
        Self { hierarchies: one.into_iter().collect(), ..self.clone() }
    }
}

/// Cgroups below a container's own, by controller; `""` stands for all hierarchies. `exec --cgroup` names them.
pub type Below = BTreeMap<String, String>;

impl Placement {
    /// The same place, or one below it where `below` says so.
    ///
    /// # Errors
    /// A path that leads out of the container's cgroup, a controller that has no hierarchy here.
    pub fn below(&self, below: &Below) -> Result<Self> {
        const FLAG: &str = "--cgroup";
        for controller in below.keys().filter(|it| !it.is_empty()) {
            if !self.hierarchies.iter().any(|it| it.has(controller)) {
                let rule = match self.mode {
                    Mode::V1 => "it has no hierarchy on this host",
                    Mode::V2 => "cgroup v2 has one hierarchy for all: give a path alone",
                };
                return Err(Error::invalid(FLAG, format!("unknown controller {controller}: {rule}")));
            }
        }
        let mut place = self.clone();
        for hierarchy in &mut place.hierarchies {
            let own = below.iter().find(|(controller, _)| controller.is_empty() || hierarchy.has(controller));
            let Some((_, path)) = own else { continue };
            let inner = stay_below(path).ok_or_else(|| {
                Error::invalid(FLAG, format!("bad sub cgroup path: {path:?} leads out of the container's cgroup"))
            })?;
            // Joining nothing would leave a slash behind.
            if !inner.as_os_str().is_empty() {
                hierarchy.path.push(inner);
            }
        }
        Ok(place)
    }
}

/// The path without `.` and `..`; None where it leads above its start.
fn stay_below(path: &str) -> Option<PathBuf> {
    let mut inner = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::ParentDir if !inner.pop() => return None,
            _ => {}
        }
    }
    (!path.contains(['\0', '\n'])).then_some(inner)
}

/// What a `cgroup` mount inside a container shows: the container's own cgroup directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The directory's name in the mount; empty for v2, where the mount is the directory.
    pub name: String,
    /// The host's directory to bind there.
    pub source: PathBuf,
    /// Names that are symbolic links to `name`: controllers that are mounted together.
    pub links: Vec<String>,
}

/// The directories that a `cgroup` mount inside the container is made of. The v2 hierarchy beside v1 is not among them, as in
/// runc: programs take its presence for pure v2.
pub fn container_view(placement: &Placement) -> Vec<View> {
    if placement.mode == Mode::V2 {
        return placement
            .hierarchies
            .iter()
            .map(|it| View { name: String::new(), source: it.dir(), links: Vec::new() })
            .collect();
    }
    placement
        .hierarchies
        .iter()
        .filter(|hierarchy| !hierarchy.is_v2())
        .filter_map(|hierarchy| {
            let name = hierarchy.mount.file_name()?.to_str()?.to_owned();
            let links = if hierarchy.controllers.len() > 1 {
                hierarchy.controllers.iter().filter(|it| **it != name).cloned().collect()
            } else {
                Vec::new()
            };
            Some(View { name, source: hierarchy.dir(), links })
        })
        .collect()
}

/// The path without a leading slash, `.` and `..`; `..` stops at the start.
pub(super) fn clean(path: impl AsRef<Path>) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.as_ref().components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn v2(own: &str) -> Host {
        let hierarchies = Hierarchies::V2 { mount: "/sys/fs/cgroup".into(), own: Some(clean(own)) };
        Host { hierarchies, manager: None }
    }

    fn v1(unified: bool) -> Host {
        let mountinfo = b"1 2 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            1 2 0:4 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            1 2 0:5 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let mut host = Host::v1(mountinfo, b"3:cpu,cpuacct:/\n2:memory:/own/cgroup\n1:name=systemd:/\n0::/u\n");
        if let Hierarchies::V1 { unified: it, .. } = &mut host.hierarchies {
            *it = unified.then(|| "/sys/fs/cgroup/unified".into());
        }
        host
    }

    #[test]
    fn v2_places() {
        for (path, own, expected) in [
            ("/docker/abc", "/own/me", "/sys/fs/cgroup/docker/abc"),
            ("", "/user.slice/session.scope", "/sys/fs/cgroup/user.slice/web"),
            ("", "/", "/sys/fs/cgroup/web"),
            ("", "/../../outside", "/sys/fs/cgroup/web"),
            ("pods/a", "/a/b/c", "/sys/fs/cgroup/a/b/pods/a"),
            ("../../../etc", "/a/b", "/sys/fs/cgroup/a/etc"),
            ("/../../../proc//x/./y/../z/", "/", "/sys/fs/cgroup/proc/x/z"),
            ("/a:b:c", "/", "/sys/fs/cgroup/a:b:c"),
            ("a:b", "/", "/sys/fs/cgroup/a:b"),
        ] {
            let placement = place(path, "web", &v2(own)).unwrap();
            assert_eq!(placement.mode, Mode::V2);
            let paths: Vec<_> = placement.paths().collect();
            assert_eq!(paths, [("", expected.into())], "{path:?} below {own}");
            assert_eq!(placement.chosen, !path.is_empty());
        }
    }

    #[test]
    fn v1_places_in_every_hierarchy() {
        let placement = place("../x/../y", "web", &v1(true)).unwrap();
        let paths: Vec<_> = placement.paths().map(|(name, path)| (name, path.to_str().unwrap().to_owned())).collect();
        assert_eq!(
            paths,
            [
                ("cpu", "/sys/fs/cgroup/cpu,cpuacct/y".to_owned()),
                ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/y".to_owned()),
                ("memory", "/sys/fs/cgroup/memory/own/cgroup/y".to_owned()),
                ("name=systemd", "/sys/fs/cgroup/systemd/y".to_owned()),
                ("", "/sys/fs/cgroup/unified/y".to_owned()),
            ]
        );
        let placement = place("/y", "web", &v1(false)).unwrap();
        assert!(placement.hierarchies.iter().all(|it| it.path == Path::new("y") && !it.is_v2()));
    }

    #[test]
    fn cgroups_below_stay_below() {
        let below = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let paths = |placement: &Placement| -> Vec<_> {
            placement.hierarchies.iter().map(|it| it.path.to_str().unwrap().to_owned()).collect()
        };
        let container = place("/c", "web", &v1(false)).unwrap();
        for (names, expected) in [
            (&[][..], ["c", "c", "c"]),
            (&[("", "/")], ["c", "c", "c"]),
            (&[("", "a/../b")], ["c/b", "c/b", "c/b"]),
            (&[("memory", "m"), ("cpuacct", "/p/q")], ["c/p/q", "c/m", "c"]),
        ] {
            assert_eq!(paths(&container.below(&below(names)).unwrap()), expected, "{names:?}");
        }
        for (names, expected) in [
            (&[("", "..")][..], "--cgroup: bad sub cgroup path: \"..\" leads out"),
            (&[("memory", "a/../../b")], "--cgroup: bad sub cgroup path"),
            (&[("", "a\0b")], "--cgroup: bad sub cgroup path"),
            (&[("whaaat", "/")], "--cgroup: unknown controller whaaat: it has no"),
        ] {
            let error = container.below(&below(names)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = place("/c", "web", &v2("/")).unwrap().below(&below(&[("cpu", "x")])).unwrap_err().to_string();
        assert!(error.starts_with("--cgroup: unknown controller cpu: cgroup v2"), "{error}");
    }

    #[test]
    fn refuses_what_is_nobodys_own_cgroup() {
        for path in ["/", "//", "/..", ".", "..", "a/..", "/a/../..", "system.slice:runc:web", "::", "/a\0b", "/a\nb"] {
            let error = place(path, "web", &v2("/a/b")).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().starts_with("linux.cgroupsPath: "), "{error}");
        }
    }

    #[test]
    fn survives_the_saved_state() {
        let placement = place("", "web", &v1(true)).unwrap();
        let json = serde_json::to_string(&placement).unwrap();
        assert_eq!(serde_json::from_str::<Placement>(&json).unwrap(), placement);
    }

    #[test]
    fn a_container_sees_its_own_directories() {
        let view = container_view(&place("/c", "web", &v1(true)).unwrap());
        let view: Vec<_> =
            view.iter().map(|it| (it.name.as_str(), it.source.to_str().unwrap(), it.links.join(" "))).collect();
        assert_eq!(
            view,
            [
                ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/c", "cpu cpuacct".to_owned()),
                ("memory", "/sys/fs/cgroup/memory/c", String::new()),
                ("systemd", "/sys/fs/cgroup/systemd/c", String::new()),
            ]
        );
        let view = container_view(&place("/c", "web", &v2("/")).unwrap());
        assert_eq!(view, [View { name: String::new(), source: "/sys/fs/cgroup/c".into(), links: Vec::new() }]);
    }
}
