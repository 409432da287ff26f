//! Making a container's cgroup, in two steps: a place to be born in, and the limits that are in force before its program runs.

use super::{
    Cgroup, Driver, Hierarchy, Mode, Placement, Setting, devices::Rules, file, freeze, setting, settings_v1,
    settings_v2, systemd::Properties, tree, v1, v2,
};
use crate::{
    error::{At, Error, Result},
    spec::Resources,
};
use rustix::{
    fs::{Access, AtFlags, accessat, mkdir},
    io::Errno,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// What [`Cgroup::restrict`] is still to do.
#[derive(Debug)]
pub(super) struct Restrictions {
    settings: Vec<Setting>,
    rules: Rules,
    /// The rules as a program, once loaded.
    filter: Option<OwnedFd>,
    /// For each hierarchy whether the directory is new.
    is_new: Vec<bool>,
    privileged: bool,
}

pub(super) fn settings(mode: Mode, resources: &Resources) -> Result<Vec<Setting>> {
    match mode {
        Mode::V1 => settings_v1(resources),
        Mode::V2 => settings_v2(resources),
    }
}

impl Cgroup {
    /// Makes the cgroup, so that a process can be born in it or join it, and leaves nothing behind where it fails. Everything
    /// that can be refused in `resources` is refused here, before anything is touched; [`Cgroup::restrict`] acts on them.
    ///
    /// A cgroup that exists must be empty and not frozen. A container of an unprivileged caller that neither names its cgroup
    /// nor has limits does without the hierarchies that the caller may not write to: then [`Cgroup::placement`] has fewer, or
    /// none.
    ///
    /// With the systemd driver nothing is made yet: the scope is made by [`Cgroup::settle`], with its first process.
    pub fn make(placement: Placement, resources: &Resources, privileged: bool, driver: Driver) -> Result<Self> {
        let settings = settings(placement.mode, resources)?;
        let rules = Rules::of(&resources.devices)?;
        rules.check(placement.mode)?;
        if privileged && placement.mode == Mode::V1 && !placement.hierarchies.iter().any(|it| it.has("devices")) {
            return Err(Error::other(
                "the devices hierarchy is not mounted, and without it a container could open every device: mount it on \
                 /sys/fs/cgroup/devices",
            ));
        }
        // A process can join neither a v1 cpuset that is empty nor, with a real-time policy, a cgroup without time for it.
        let (early, settings) =
            settings.into_iter().partition(|it: &Setting| placement.mode == Mode::V1 && is_early(it));
        if let Driver::Systemd(properties) = driver {
            let mut settings: Vec<Setting> = settings;
            settings.splice(0..0, early);
            return Self::await_unit(placement, settings, rules, privileged, properties);
        }
        let hierarchies = placement.hierarchies;
        let mut cgroup = Self {
            placement: Placement { hierarchies: Vec::new(), ..placement },
            dirs: Vec::new(),
            made: Vec::new(),
            restrictions: Some(Restrictions { settings, rules, filter: None, is_new: Vec::new(), privileged }),
            awaited: None,
            manager: None,
        };
        match cgroup.make_dirs(hierarchies, &early).and_then(|()| cgroup.make_joinable(&early)) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // The first failure is what the caller needs to know.
                let _ = cgroup.undo();
                Err(error)
            }
        }
    }

    fn await_unit(
        placement: Placement,
        settings: Vec<Setting>,
        rules: Rules,
        privileged: bool,
        properties: Properties,
    ) -> Result<Self> {
        for hierarchy in &placement.hierarchies {
            match file::open_dir(&hierarchy.dir()) {
                Ok(dir) => refuse_lived_in(hierarchy, dir.as_fd())?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::from(errno).at(format!("open cgroup {}", hierarchy.dir().display()))),
            }
        }
        let dirs = placement.hierarchies.iter().map(|_| None).collect();
        let restrictions = Restrictions { settings, rules, filter: None, is_new: Vec::new(), privileged };
        Ok(Self {
            placement,
            dirs,
            made: Vec::new(),
            restrictions: Some(restrictions),
            awaited: Some(properties),
            manager: None,
        })
    }

    /// Puts the container's first process where it belongs: into the v1 hierarchies that [`Cgroup::clone_into`] cannot see
    /// to, or, with the systemd driver, into a scope that is made of it.
    pub fn settle(&mut self, pid: u32) -> Result<()> {
        let (Some(unit), Some(properties)) = (&self.placement.unit, &self.awaited) else { return self.join(pid) };
        self.manager = Some(unit.start(self.placement.mode, properties, pid)?);
        self.awaited = None;
        // systemd makes those that it knows.
        self.dirs.clear();
        for hierarchy in &self.placement.hierarchies {
            let (dir, _) =
                make_dir(hierarchy, &mut self.made).at_with(|| format!("mkdir {}", hierarchy.dir().display()))?;
            self.dirs.push(Some(dir));
        }
        if let Some(restrictions) = &mut self.restrictions {
            // A filter of systemd's is not to go on denying what the rules allow.
            restrictions.is_new = self.dirs.iter().map(|_| false).collect();
        }
        let early: Vec<Setting> = match &mut self.restrictions {
            Some(it) if self.placement.mode == Mode::V1 => it.settings.extract_if(.., |it| is_early(it)).collect(),
            _ => Vec::new(),
        };
        self.make_joinable(&early)?;
        if self.placement.mode == Mode::V1 { self.join(pid) } else { Ok(()) }
    }

    /// Has the kernel verify the device filter of v2, which takes a while, without putting it in force. [`Cgroup::restrict`]
    /// does it where this was not called.
    pub fn load_filter(&mut self) -> Result<()> {
        let Some(restrictions) = self.restrictions.as_mut().filter(|it| it.filter.is_none()) else { return Ok(()) };
        if self.placement.mode == Mode::V1 || self.placement.hierarchies.is_empty() {
            return Ok(());
        }
        match restrictions.rules.load_v2() {
            Ok(filter) => restrictions.filter = Some(filter),
            // An unprivileged caller has no devices to give away.
            Err(error) if !restrictions.privileged && matches!(error.errno(), Some(PERM | ACCES)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Puts limits and device filter in force, once, for a cgroup that [`Cgroup::make`] has made. Processes may be in it
    /// already: the runtime's own work in a container (block devices to mount, memory, time) is not the container's, and goes
    /// on meanwhile.
    pub fn restrict(&mut self) -> Result<()> {
        self.load_filter().at("linux.resources.devices")?;
        let Some(Restrictions { mut settings, rules, filter, is_new, privileged }) = self.restrictions.take() else {
            return Ok(());
        };
        if let Some(unit) = &self.placement.unit {
            unit.set(self.manager.take(), self.placement.mode, &mut settings, Some(&rules)).at("linux.resources")?;
        }
        let hierarchies = &self.placement.hierarchies;
        for ((hierarchy, dir), is_new) in hierarchies.iter().zip(self.dirs.iter().flatten()).zip(is_new) {
            let filtered = match self.placement.mode {
                Mode::V2 => filter.as_ref().map_or(Ok(()), |filter| Rules::attach_v2(filter, dir.as_fd(), is_new)),
                Mode::V1 if hierarchy.has("devices") => rules.write_v1(dir.as_fd()),
                Mode::V1 => Ok(()),
            };
            match filtered {
                // An unprivileged caller has no devices to give away.
                Err(error) if !privileged && matches!(error.errno(), Some(PERM | ACCES)) => {}
                result => {
                    result.at_with(|| format!("cgroup {}", hierarchy.dir().display())).at("linux.resources.devices")?;
                }
            }
        }
        setting::apply(&settings, |controller| self.dir_of(controller))
    }

    fn make_dirs(&mut self, hierarchies: Vec<Hierarchy>, early: &[Setting]) -> Result<()> {
        let Some(restrictions) = &mut self.restrictions else { return Ok(()) };
        let may_go_without = !restrictions.privileged && !self.placement.chosen;
        for hierarchy in hierarchies {
            let made = make_dir(&hierarchy, &mut self.made).and_then(|(dir, is_new)| {
                if may_go_without && !is_new {
                    // That of another user's container, which has the same id.
                    accessat(&dir, "cgroup.procs", Access::WRITE_OK, AtFlags::EACCESS)?;
                }
                Ok((dir, is_new))
            });
            match made {
                Ok((dir, is_new)) => {
                    if !is_new {
                        refuse_lived_in(&hierarchy, dir.as_fd())?;
                    }
                    restrictions.is_new.push(is_new);
                    self.placement.hierarchies.push(hierarchy);
                    self.dirs.push(Some(dir));
                }
                Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) if may_go_without => {
                    let mut all = early.iter().chain(&restrictions.settings);
                    if let Some(setting) = all.find(|it| hierarchy.is_v2() || hierarchy.has(&it.controller)) {
                        return Err(needs_permission(&hierarchy, setting, errno));
                    }
                }
                Err(errno) => {
                    let error = Error::from(errno).at(format!("mkdir {}", hierarchy.dir().display()));
                    return Err(error.at("unable to apply cgroup configuration"));
                }
            }
        }
        Ok(())
    }

    fn make_joinable(&self, early: &[Setting]) -> Result<()> {
        let each = || self.placement.hierarchies.iter().zip(self.dirs.iter().flatten());
        if self.placement.mode == Mode::V2 {
            return each().try_for_each(|(it, dir)| {
                v2::enable_controllers(&it.mount, &it.path, dir.as_fd())
                    .at_with(|| format!("enable controllers for {}", it.dir().display()))
            });
        }
        let cpuset = || each().filter(|(it, _)| it.has("cpuset"));
        if early.iter().any(|it| it.controller == "cpuset") {
            // Processors must be a subset of the parent's, and a new parent has none yet.
            cpuset().try_for_each(|(it, _)| v1::inherit_cpuset_above(&it.mount, &it.path))?;
        }
        setting::apply(early, |controller| self.dir_of(controller))?;
        cpuset().try_for_each(|(it, dir)| v1::inherit_cpuset(&it.mount, &it.path, dir.as_fd()))
    }
}

fn is_early(setting: &Setting) -> bool {
    setting.controller == "cpuset" || setting.file.starts_with("cpu.rt_")
}

const PERM: i32 = Errno::PERM.raw_os_error();
const ACCES: i32 = Errno::ACCESS.raw_os_error();

/// How often another container's clean-up may come between making a directory and the one in it.
const ATTEMPTS: usize = 100;

/// Makes a cgroup and those above it, and notes which. Tells whether it is new.
fn make_dir(hierarchy: &Hierarchy, made: &mut Vec<PathBuf>) -> rustix::io::Result<(OwnedFd, bool)> {
    let dir = hierarchy.dir();
    for _ in 0..ATTEMPTS {
        let opened = new_dir(&dir, made).and_then(|is_new| Ok((file::open_dir(&dir)?, is_new)));
        if !matches!(opened, Err(Errno::NOENT)) {
            return opened;
        }
        let above = hierarchy.path.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty());
        for ancestor in above.collect::<Vec<_>>().into_iter().rev() {
            match new_dir(&hierarchy.mount.join(ancestor), made) {
                Err(Errno::NOENT) => break,
                result => result?,
            };
        }
    }
    Err(Errno::NOENT)
}

fn new_dir(path: &Path, made: &mut Vec<PathBuf>) -> rustix::io::Result<bool> {
    match mkdir(path, 0o755.into()) {
        Ok(()) => {
            made.push(path.to_owned());
            Ok(true)
        }
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Two containers in one cgroup would share limits and die together. The texts are runc's, which engines know.
fn refuse_lived_in(hierarchy: &Hierarchy, dir: BorrowedFd<'_>) -> Result<()> {
    let step = || hierarchy.dir().display().to_string();
    let pids = tree::pids(dir).at("read cgroup.procs").at_with(step)?;
    if !pids.is_empty() {
        return Err(
            Error::other(format!(
                "container's cgroup is not empty: {} process(es) found, of a container of the same id below another --root?",
                pids.len()
            ))
            .at(step())
        );
    }
    if (hierarchy.is_v2() || hierarchy.has("freezer")) && freeze::is_frozen(dir, hierarchy.is_v2())? {
        return Err(Error::other("container's cgroup unexpectedly frozen").at(step()));
    }
    Ok(())
}

fn needs_permission(hierarchy: &Hierarchy, setting: &Setting, errno: Errno) -> Error {
    let mkdir = Error::from(errno).at(format!("mkdir {}", hierarchy.dir().display()));
    Error::other(format!(
        "cannot set {} limit: container could not join or create cgroup ({mkdir}): rootless needs no limits + no cgrouppath when \
         no permission is granted for cgroups; remove the limit, or have a cgroup delegated (systemd-run --user --scope \
         -p Delegate=yes)",
        setting.controller
    ))
    .at(setting.field.clone())
}
