//! Finding the cgroup directories of a container, in a pure v2, pure v1 or hybrid layout.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, StatxFlags, statfs};

use crate::error::{Context, Error, Kind, Result};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// `f_type` of a cgroup2 mount.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The cgroups of one container, remembered while it lives: a dead process has none.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    /// Whether version 2 is the only hierarchy in use.
    pub(crate) unified: bool,
    /// `/proc/PID/cgroup` of the container's init: lines of `hierarchy:controllers:path`.
    membership: String,
}

/// Whether version 2 is mounted at the root, so that no version 1 controller counts.
fn is_unified() -> bool {
    statfs(CGROUP_ROOT).is_ok_and(|found| found.f_type == CGROUP2_MAGIC)
}

impl Cgroup {
    /// The cgroups of process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/cgroup");
        let membership = fs::read_to_string(&path).context(|| format!("read {path}"))?;
        Ok(Self { unified: is_unified(), membership })
    }

    /// Whether these are the cgroups of this container alone: one that may not have any stays in those of whoever started
    /// it, which count others too.
    pub(crate) fn is_own(&self, starter: &Self) -> bool {
        self.membership
            .lines()
            .any(|line| !line.ends_with(":/") && !starter.membership.lines().any(|other| other == line))
    }

    /// The directory in the version 2 hierarchy.
    pub(crate) fn unified_dir(&self) -> Option<PathBuf> {
        let path = member_path(&self.membership, "")?;
        Some(below(Path::new(CGROUP_ROOT), path))
    }

    /// The directory in the version 1 hierarchy of `controller`.
    pub(crate) fn legacy_dir(&self, controller: &str) -> Option<PathBuf> {
        let mountinfo = fs::read("/proc/self/mountinfo").ok()?;
        // Anybody may have mounted something at a place whose name is no text.
        legacy_dir(&String::from_utf8_lossy(&mountinfo), &self.membership, controller)
    }
}

/// The path that a membership list gives for `controller` (empty: the version 2 hierarchy).
fn member_path<'a>(membership: &'a str, controller: &str) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

fn legacy_dir(mountinfo: &str, membership: &str, controller: &str) -> Option<PathBuf> {
    let path = member_path(membership, controller)?;
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let is_v1 = filesystem.next()? == "cgroup";
        let options = filesystem.nth(1)?;
        if !is_v1 || !options.split(',').any(|option| option == controller) {
            return None;
        }
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        // Inside a container only a part of the hierarchy is mounted.
        let path = if root == "/" { path } else { path.strip_prefix(root).unwrap_or(path) };
        Some(below(Path::new(point), path))
    })
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Puts process `pid` into the existing cgroup at `path`, in every hierarchy that has it.
pub(crate) fn join(path: &str, pid: u32) -> Result<()> {
    let step = |dir: &Path| format!("put the shim into cgroup {}", dir.display());
    let mut dirs = Vec::new();
    if is_unified() {
        dirs.push(below(Path::new(CGROUP_ROOT), path));
    } else {
        let hierarchies = fs::read_dir(CGROUP_ROOT).context(|| format!("list {CGROUP_ROOT}"))?;
        dirs.extend(hierarchies.flatten().map(|entry| below(&entry.path(), path)));
        dirs.retain(|dir| rustix::fs::statx(CWD, dir, rustix::fs::AtFlags::empty(), StatxFlags::TYPE).is_ok());
    }
    if dirs.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("shim_cgroup {path:?}: there is no such cgroup")));
    }
    for dir in dirs {
        fs::write(dir.join("cgroup.procs"), pid.to_string()).context(|| step(&dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERSHIP: &str = "9:cpu,cpuacct:/default/web\n4:memory:/default/web\n1:name=systemd:/s\n0::/default/two\n";
    const MOUNTINFO: &str = "\
30 25 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 /default /mnt/m rw - cgroup cgroup rw,pids
33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn a_container_in_its_starters_cgroups_has_none() {
        let cgroup = |membership: &str| Cgroup { unified: true, membership: membership.to_owned() };
        let starter = cgroup("4:memory:/user\n0::/user/session\n");
        assert!(!starter.is_own(&starter));
        assert!(!cgroup("4:memory:/\n0::/\n").is_own(&starter));
        assert!(cgroup("4:memory:/web\n0::/user/session\n").is_own(&starter));
        assert!(cgroup("0::/user/session/web\n").is_own(&starter));
    }

    #[test]
    fn directories_follow_the_mounts() {
        let dir = |controller| legacy_dir(MOUNTINFO, MEMBERSHIP, controller);
        assert_eq!(dir("memory"), Some("/sys/fs/cgroup/memory/default/web".into()));
        assert_eq!(dir("cpuacct"), Some("/sys/fs/cgroup/cpu,cpuacct/default/web".into()));
        assert_eq!(dir("blkio"), None, "not mounted");
        assert_eq!(member_path(MEMBERSHIP, ""), Some("/default/two"));
        assert_eq!(legacy_dir(MOUNTINFO, "3:pids:/default/web\n", "pids"), Some("/mnt/m/web".into()));
    }
}
