//! Making a container's cgroup.

use super::{
    Cgroup, Hierarchy, Mode, Placement, Setting, devices::Rules, file, freeze, settings_v1, settings_v2, tree, v1, v2,
};
use crate::{
    error::{At, Error, Result},
    spec::Resources,
};
use rustix::{fs::mkdir, io::Errno};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

pub(super) fn settings(mode: Mode, resources: &Resources) -> Result<Vec<Setting>> {
    match mode {
        Mode::V1 => settings_v1(resources),
        Mode::V2 => settings_v2(resources),
    }
}

impl Cgroup {
    /// Makes the cgroup with its limits and its device filter, and leaves nothing behind where it fails.
    ///
    /// A cgroup that exists must be empty and not frozen. Without privilege the device filter is set where the kernel lets us,
    /// and a container that neither names its cgroup nor has limits does without the hierarchies that the caller may not write
    /// to: then [`Cgroup::placement`] has fewer, or none.
    pub fn make(placement: Placement, resources: &Resources, privileged: bool) -> Result<Self> {
        // All refusals of the configuration come before anything is touched.
        let settings = settings(placement.mode, resources)?;
        let rules = Rules::of(&resources.devices)?;
        rules.check(placement.mode)?;
        if privileged && placement.mode == Mode::V1 && !placement.hierarchies.iter().any(|it| it.has("devices")) {
            return Err(Error::other(
                "the devices hierarchy is not mounted, and without it a container could open every device: mount it on \
                 /sys/fs/cgroup/devices",
            ));
        }
        let mut made =
            Self { placement: Placement { hierarchies: Vec::new(), ..placement }, dirs: Vec::new(), made: Vec::new() };
        match made.fill(placement.hierarchies, &settings, &rules, privileged) {
            Ok(()) => Ok(made),
            Err(error) => {
                // The first failure is what the caller needs to know.
                let _ = made.undo();
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        hierarchies: Vec<Hierarchy>,
        settings: &[Setting],
        rules: &Rules,
        privileged: bool,
    ) -> Result<()> {
        let mut fresh = Vec::new();
        for hierarchy in hierarchies {
            match make_dir(&hierarchy, &mut self.made) {
                Ok((dir, is_new)) => {
                    if !is_new {
                        refuse_lived_in(&hierarchy, dir.as_fd())?;
                    }
                    fresh.push(is_new);
                    self.placement.hierarchies.push(hierarchy);
                    self.dirs.push(Some(dir));
                }
                Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) if !privileged && !self.placement.chosen => {
                    if let Some(setting) = settings.iter().find(|it| hierarchy.is_v2() || hierarchy.has(&it.controller))
                    {
                        return Err(needs_permission(&hierarchy, setting, errno));
                    }
                }
                Err(errno) => {
                    let error = Error::from(errno).at(format!("mkdir {}", hierarchy.dir().display()));
                    return Err(error.at("unable to apply cgroup configuration"));
                }
            }
        }
        let (hierarchies, dirs) = (&self.placement.hierarchies, &self.dirs);
        for ((hierarchy, dir), is_new) in hierarchies.iter().zip(dirs.iter().flatten()).zip(fresh) {
            let step = || format!("cgroup {}", hierarchy.dir().display());
            let dir = dir.as_fd();
            if hierarchy.is_v2() && self.placement.mode == Mode::V2 {
                v2::enable_controllers(&hierarchy.mount, &hierarchy.path, dir)
                    .at("enable controllers")
                    .at_with(step)?;
            }
            let filtered = match self.placement.mode {
                Mode::V2 => rules.attach_v2(dir, is_new),
                Mode::V1 if hierarchy.has("devices") => rules.write_v1(dir),
                Mode::V1 => Ok(()),
            };
            match filtered {
                // An unprivileged caller has no devices to give away.
                Err(error) if !privileged && matches!(error.errno(), Some(PERM | ACCES)) => {}
                result => result.at_with(step)?,
            }
        }
        let cpuset = || hierarchies.iter().zip(dirs.iter().flatten()).filter(|(it, _)| it.has("cpuset"));
        if settings.iter().any(|it| it.controller == "cpuset") {
            // Processors must be a subset of the parent's, and a new parent has none yet.
            cpuset().try_for_each(|(it, _)| v1::inherit_cpuset_above(&it.mount, &it.path))?;
        }
        super::setting::apply(settings, |controller| self.dir_of(controller))?;
        cpuset().try_for_each(|(it, dir)| v1::inherit_cpuset(&it.mount, &it.path, dir.as_fd()))
    }
}

const PERM: i32 = Errno::PERM.raw_os_error();
const ACCES: i32 = Errno::ACCESS.raw_os_error();

/// Makes a cgroup and those above it, and notes which. Tells whether it is new.
fn make_dir(hierarchy: &Hierarchy, made: &mut Vec<PathBuf>) -> rustix::io::Result<(OwnedFd, bool)> {
    let dir = hierarchy.dir();
    loop {
        let is_new = match new_dir(&dir, made) {
            Err(Errno::NOENT) => {
                let mut above: Vec<&Path> =
                    hierarchy.path.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty()).collect();
                above.reverse();
                for ancestor in above {
                    match new_dir(&hierarchy.mount.join(ancestor), made) {
                        // Another container's clean-up came between two of these.
                        Err(Errno::NOENT) => break,
                        result => result?,
                    };
                }
                continue;
            }
            result => result?,
        };
        match file::open_dir(&dir) {
            Err(Errno::NOENT) => {}
            opened => return Ok((opened?, is_new)),
        }
    }
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
    let pids = tree::pids(dir).at_with(|| format!("read {}", hierarchy.dir().join("cgroup.procs").display()))?;
    let step = || hierarchy.dir().display().to_string();
    if !pids.is_empty() {
        return Err(
            Error::other(format!("container's cgroup is not empty: {} process(es) found", pids.len())).at(step())
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
