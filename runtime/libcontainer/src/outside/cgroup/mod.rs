//! Control groups, v1 and v2, with the directories and files of cgroupfs ("fs driver"), or as scopes of [`systemd`].
//!
//! [`Host::look`] and [`place`] find where a container's cgroup is, [`settings_v1`] and [`settings_v2`] what is written to
//! its files; neither touches anything. [`Cgroup::make`] and [`Cgroup::restrict`] act it out. The rules are the kernel's
//! (<https://docs.kernel.org/admin-guide/cgroup-v2.html>) and, where those leave a choice, runc's.

mod devices;
mod file;
mod freeze;
mod host;
mod kill;
mod make;
mod own;
mod place;
mod setting;
mod stat;
pub mod systemd;
#[cfg(test)]
mod tests;
mod tree;
mod v1;
mod v2;
mod values;
mod watch;

pub use host::{Host, is_unified};
pub use place::{Below, Hierarchy, Mode, Placement, View, container_view, place};
pub use setting::{Otherwise, Setting};
pub use stat::Stats;
pub use systemd::Driver;
pub use v1::settings_v1;
pub use v2::settings_v2;
pub use watch::OomWatch;

use crate::{
    error::{At, Error, Kind, Result},
    spec::Resources,
};
use place::clean;
use rustix::io::Errno;
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

/// A container's cgroup, open.
#[derive(Debug)]
pub struct Cgroup {
    placement: Placement,
    /// One for each hierarchy of the placement; none where the cgroup is gone.
    dirs: Vec<Option<OwnedFd>>,
    /// The directories that [`Cgroup::make`] made, parents first.
    made: Vec<PathBuf>,
    restrictions: Option<make::Restrictions>,
    /// The scope that is still to be made, with the first process.
    awaited: Option<systemd::Properties>,
    /// To the manager that has just made it.
    manager: Option<systemd::Connection>,
}

impl Cgroup {
    /// Opens the cgroup of an existing container. One that is gone, in whole or in part, is no error here: it has no
    /// processes, is not frozen, and nobody can join it.
    pub fn open(placement: &Placement) -> Result<Self> {
        let dirs = placement.hierarchies.iter().map(|hierarchy| {
            let dir = hierarchy.dir();
            match file::open_dir(&dir) {
                Ok(fd) => Ok(Some(fd)),
                Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(Error::from(errno).at(format!("open cgroup {}", dir.display()))),
            }
        });
        Ok(Self {
            dirs: dirs.collect::<Result<_>>()?,
            placement: placement.clone(),
            made: Vec::new(),
            restrictions: None,
            awaited: None,
            manager: None,
        })
    }

    /// Opens cgroups below a container's, which must be there, and the container's own in the hierarchies that `below` leaves out.
    pub fn open_below(placement: &Placement, below: &Below) -> Result<Self> {
        let cgroup = Self::open(&placement.below(below)?)?;
        let missing = cgroup.placement.hierarchies.iter().zip(&cgroup.dirs).find(|(_, dir)| dir.is_none());
        match missing {
            Some((hierarchy, _)) if !below.is_empty() => {
                Err(Error::from(Errno::NOENT).at(format!("open {}", hierarchy.dir().display())))
            }
            _ => Ok(cgroup),
        }
    }

    /// The cgroup that the process `pid` is in now, on pure v2. A container's init may have moved itself below its cgroup.
    pub fn of_process(placement: &Placement, pid: i32) -> Result<Self> {
        let file = format!("/proc/{pid}/cgroup");
        let text = std::fs::read(&file).at_with(|| format!("read {file}"))?;
        let path = host::own_v2(&text).ok_or_else(|| Error::other(format!("{file} has no line for cgroup v2")))?;
        let mut place = placement.clone();
        place.hierarchies.iter_mut().for_each(|it| it.path.clone_from(&path));
        Self::open(&place)
    }

    /// Where the cgroup is. After [`Cgroup::make`] without privilege this may have fewer hierarchies than were asked for: this
    /// is the one to save.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The directory for `clone3` with `CLONE_INTO_CGROUP`, which costs nothing where a later move costs milliseconds. None
    /// without a v2 hierarchy, and where only systemd may move a process in: between a user's session and the scopes of the
    /// user's manager lies what is root's.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        if self.user_unit().is_some() { None } else { self.v2_dir() }
    }

    fn v2_dir(&self) -> Option<BorrowedFd<'_>> {
        self.find(Hierarchy::is_v2)
    }

    /// Whether [`Cgroup::join`] has systemd move the process, which is cloned wherever its parent is.
    pub fn is_joined_later(&self) -> bool {
        self.user_unit().is_some()
    }

    fn user_unit(&self) -> Option<&systemd::Unit> {
        self.placement.unit.as_ref().filter(|unit| unit.user)
    }

    /// Whether the cgroup is known to be the container's alone.
    pub fn is_own(&self) -> bool {
        self.awaited.is_none()
    }

    /// Moves a process that was cloned into [`Cgroup::clone_into`] to the v1 hierarchies as well.
    pub fn join(&self, pid: u32) -> Result<()> {
        if let (Some(unit), Some(hierarchy)) = (self.user_unit(), self.placement.hierarchies.first()) {
            return unit.attach(&hierarchy.path, pid);
        }
        let pid = pid.to_string();
        for (hierarchy, dir) in self.placement.hierarchies.iter().zip(&self.dirs).filter(|(it, _)| !it.is_v2()) {
            let step = || format!("write {} {pid:?}", hierarchy.dir().join("cgroup.procs").display());
            let Some(dir) = dir else {
                return Err(Error::new(Kind::NotFound, "the container's cgroup is gone").at(step()));
            };
            // The first write of these waits for the whole machine's forks to pass (some 10 ms), the others at once after it do not.
            file::write(dir.as_fd(), "cgroup.procs", &pid).at_with(step)?;
        }
        Ok(())
    }

    /// Moves a process that was not cloned into the cgroup to all hierarchies, as the container's first.
    pub fn admit(&mut self, pid: u32) -> Result<()> {
        let moved_by_systemd = !self.is_own();
        self.settle(pid)?;
        match self.clone_into().filter(|_| !moved_by_systemd) {
            Some(dir) => file::write(dir, "cgroup.procs", &pid.to_string()).at("write cgroup.procs"),
            None => Ok(()),
        }
    }

    /// Changes limits. Devices stay as they are. Where the kernel refuses one, those that were changed before it get their old
    /// values back, but for the files that have a line a device.
    pub fn set(&self, resources: &Resources) -> Result<()> {
        let mut settings = self.settings(resources)?;
        if let Some(dir) = self.v2_dir().filter(|_| self.placement.mode == Mode::V2) {
            setting::check_usage(dir, &resources.memory)?;
        }
        let dir_of = |controller: &str| self.dir_of(controller);
        let mut before = setting::read_back(&settings, dir_of);
        let tell_systemd = |settings: &mut [Setting]| {
            self.placement.unit.as_ref().map_or(Ok(()), |unit| unit.set(None, self.placement.mode, settings, None))
        };
        tell_systemd(&mut settings)?;
        setting::apply(&settings, dir_of).inspect_err(|_| {
            // The first failure is what the caller needs to know.
            drop(tell_systemd(&mut before));
            before.iter().rev().for_each(|it| drop(setting::apply(std::slice::from_ref(it), dir_of)));
        })
    }

    /// Removes the cgroup; see [`Placement::remove`].
    pub fn remove(&self) -> Result<()> {
        self.placement.remove()
    }

    /// Takes back what [`Cgroup::make`] made: the cgroup, and those above it that it had to make unless another container has
    /// come to live there. Processes must be dead or dying; a cgroup that was there before stays.
    pub fn undo(&self) -> Result<()> {
        let mut result = Ok(());
        let until = tree::patience();
        for dir in self.made.iter().rev() {
            let own = self.placement.hierarchies.iter().find(|it| it.dir() == *dir);
            let removed = match own {
                Some(hierarchy) => tree::remove(dir, hierarchy.is_v2(), until),
                None => match rustix::fs::rmdir(dir) {
                    // Not ours alone any more.
                    Ok(()) | Err(Errno::BUSY | Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
                    Err(errno) => Err(Error::from(errno).at(format!("remove cgroup {}", dir.display()))),
                },
            };
            result = result.and(removed);
        }
        // With the systemd driver it is the scope that was made, unless somebody else's has the name.
        if self.is_own() && self.placement.unit.is_some() {
            result = result.and(self.placement.remove()).and(self.placement.stop_unit());
        }
        result
    }

    fn settings(&self, resources: &Resources) -> Result<Vec<Setting>> {
        make::settings(self.placement.mode, resources)
    }

    fn find(&self, which: impl Fn(&Hierarchy) -> bool) -> Option<BorrowedFd<'_>> {
        let mut both = self.placement.hierarchies.iter().zip(&self.dirs);
        both.find(|(it, _)| which(it)).and_then(|(_, dir)| dir.as_ref()).map(AsFd::as_fd)
    }

    /// The directory that has this controller's files.
    fn dir_of(&self, controller: &str) -> Option<BorrowedFd<'_>> {
        match self.placement.mode {
            Mode::V2 => self.v2_dir(),
            Mode::V1 => self.find(|it| it.has(controller)),
        }
    }

    /// The hierarchy in which processes are counted: every one of a container is in all of them, unless the host's owner moved
    /// it. devices is what runc takes.
    fn census(&self) -> Option<BorrowedFd<'_>> {
        let any = || self.dirs.iter().flatten().next().map(AsFd::as_fd);
        self.dir_of("devices").or_else(|| self.dir_of("freezer")).or_else(any)
    }
}
