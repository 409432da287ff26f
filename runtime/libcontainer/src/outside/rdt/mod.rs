//! Intel RDT: a container's share of the L3 cache and of memory bandwidth, by the resctrl file system
//! (<https://docs.kernel.org/filesystems/resctrl.html>, runtime-spec `config-linux.md`, "IntelRdt").
//!
//! A class of service (CLOS) is a directory with `schemata` (the shares) and `tasks`; `mon_groups/` in it has directories that
//! only count.

mod stats;

pub use stats::{Stats, stats};

use crate::{
    error::{Error, Result},
    spec::IntelRdt,
};
use rustix::{fs::statfs, io::Errno};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where resctrl is mounted on every known system.
const ROOT: &str = "/sys/fs/resctrl";
/// `RDTGROUP_SUPER_MAGIC`.
const RESCTRL: u64 = 0x0765_5821;

/// A container's groups. Part of the saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    root: PathBuf,
    /// The class of service.
    class: PathBuf,
    /// The runtime made it for this container alone.
    own_class: bool,
    /// Where the container is counted by itself.
    monitor: Option<PathBuf>,
}

/// The mount of resctrl, where the processor has it.
pub fn root() -> Option<PathBuf> {
    statfs(ROOT).is_ok_and(|at| at.f_type as u64 == RESCTRL).then(|| ROOT.into())
}

/// Whether shares of this resource (`L3`, `MB`) can be given.
pub fn has(root: &Path, resource: &str) -> bool {
    root.join("info").join(resource).exists()
}

/// What a birth is going to do, decided before anything is touched.
#[derive(Debug)]
pub(crate) struct Plan {
    group: Group,
    schemata: String,
    /// Somebody else has to have made the class.
    must_exist: bool,
}

impl Plan {
    /// Checks the configuration against the host; `root` is [`root`]'s.
    pub(crate) fn of(rdt: &IntelRdt, id: &str, root: Option<PathBuf>) -> Result<Self> {
        const FIELD: &str = "linux.intelRdt";
        let Some(root) = root else {
            let rule = "intelRdt is specified in config, but Intel RDT is not enabled: mount resctrl on /sys/fs/resctrl, where the \
                processor has it, or remove the field";
            return Err(Error::invalid(FIELD, rule));
        };
        let name = if rdt.clos_id.is_empty() { id } else { &rdt.clos_id };
        // "/" is the class that everything is in from the start.
        if matches!(name, "." | "..") || (name.len() > 1 && name.contains('/')) || name.contains(['\0', '\n']) {
            return Err(Error::invalid(format!("{FIELD}.closID"), format!("invalid intelRdt.ClosID {name:?}")));
        }
        for (field, schema, resource, what) in [
            ("l3CacheSchema", &rdt.l3_cache_schema, "L3", "Intel RDT/CAT"),
            ("memBwSchema", &rdt.mem_bw_schema, "MB", "Intel RDT/MBA"),
        ] {
            if !schema.is_empty() && !has(&root, resource) {
                return Err(Error::invalid(format!("{FIELD}.{field}"), format!("is set, but {what} is not enabled")));
            }
        }
        let all = [&rdt.l3_cache_schema, &rdt.mem_bw_schema].into_iter().chain(&rdt.schemata);
        let schemata: String = all.filter(|it| !it.is_empty()).flat_map(|it| [it.as_str(), "\n"]).collect();
        let class = if name == "/" { root.clone() } else { root.join(name) };
        let monitor = rdt.enable_monitoring.then(|| class.join("mon_groups").join(id));
        let must_exist = !rdt.clos_id.is_empty() && schemata.is_empty();
        let group = Group { root, class, own_class: rdt.clos_id.is_empty(), monitor };
        Ok(Self { group, schemata, must_exist })
    }

    /// Makes what is missing and gives it its shares. On failure nothing new is left.
    pub(crate) fn make(self) -> Result<Group> {
        let Self { mut group, schemata, must_exist } = self;
        if must_exist && !group.class.is_dir() {
            let rule =
                "clos dir not accessible (must be pre-created when schemata, l3CacheSchema and memBwSchema are empty)";
            return Err(Error::invalid("linux.intelRdt.closID", format!("{rule}: {}", group.class.display())));
        }
        let is_new = group.make_dir(&group.class)?;
        // What was there belongs to somebody else.
        group.own_class &= is_new;
        let made = group.set(&schemata).and_then(|()| {
            let Some(monitor) = &group.monitor else { return Ok(()) };
            group.make_dir(monitor).map(drop)
        });
        match made {
            Ok(()) => Ok(group),
            Err(error) => {
                if is_new {
                    // The first failure is what the caller needs to know.
                    let _ = std::fs::remove_dir(&group.class);
                }
                Err(error)
            }
        }
    }
}

impl Group {
    /// Puts a process in.
    pub fn join(&self, pid: i32) -> Result<()> {
        for dir in std::iter::once(&self.class).chain(&self.monitor) {
            self.write(&dir.join("tasks"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Writes lines of schemata; the class keeps what they do not name.
    pub fn set(&self, schemata: &str) -> Result<()> {
        if schemata.is_empty() { Ok(()) } else { self.write(&self.class.join("schemata"), schemata) }
    }

    /// Removes what is the container's alone. What is gone is fine.
    pub fn remove(&self) -> Result<()> {
        // Groups that only count go with their class.
        let own = if self.own_class { Some(&self.class) } else { self.monitor.as_ref() };
        match own.map(std::fs::remove_dir) {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from(error).at("remove the resctrl group"))
            }
            _ => Ok(()),
        }
    }

    /// Tells whether it is new.
    fn make_dir(&self, dir: &Path) -> Result<bool> {
        match rustix::fs::mkdir(dir, 0o755.into()) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.explain(errno.into(), &format!("mkdir {}", dir.display()))),
        }
    }

    fn write(&self, file: &Path, text: &str) -> Result<()> {
        let written = std::fs::File::options().write(true).open(file).and_then(|mut file| {
            // One call: the kernel takes it as one order.
            std::io::Write::write_all(&mut file, text.as_bytes())
        });
        written.map_err(|error| self.explain(error.into(), &format!("write {} {text:?}", file.display())))
    }

    /// The kernel keeps its reason in a file.
    fn explain(&self, error: Error, step: &str) -> Error {
        let status = std::fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        let error = match status.trim() {
            "" | "ok" => error,
            status => Error::other(format!("{error}, last_cmd_status: {status}")),
        };
        error.at(step).at("linux.intelRdt")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory that stands for resctrl, whose groups have no files of their own.
    fn host() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for it in ["info/L3", "mon_groups", "shared/mon_groups"] {
            fs::create_dir_all(dir.path().join(it)).unwrap();
        }
        fs::write(dir.path().join("info/last_cmd_status"), "mask ff is bad\n").unwrap();
        for it in ["schemata", "tasks", "shared/schemata", "shared/tasks"] {
            fs::write(dir.path().join(it), "").unwrap();
        }
        dir
    }

    fn plan(json: &str, root: Option<&Path>) -> Result<Plan> {
        let rdt: IntelRdt = crate::spec::parse(json.as_bytes()).unwrap();
        Plan::of(&rdt, "web", root.map(Into::into))
    }

    #[test]
    fn refuses_what_the_host_cannot_do() {
        let dir = host();
        for (json, root, expected) in [
            ("{}", None, "linux.intelRdt: intelRdt is specified in config, but Intel RDT is not enabled"),
            (r#"{"memBwSchema":"MB:0=20"}"#, Some(dir.path()), "linux.intelRdt.memBwSchema: is set, but Intel RDT/MBA"),
            (r#"{"closID":".."}"#, Some(dir.path()), "linux.intelRdt.closID: invalid intelRdt.ClosID \"..\""),
            (r#"{"closID":"a/b"}"#, Some(dir.path()), "linux.intelRdt.closID: invalid"),
        ] {
            let error = plan(json, root).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = plan(r#"{"closID":"absent"}"#, Some(dir.path())).unwrap().make().unwrap_err().to_string();
        assert!(error.starts_with("linux.intelRdt.closID: clos dir not accessible"), "{error}");
    }

    #[test]
    fn a_class_of_others_stays_and_is_joined() {
        let dir = host();
        let json = r#"{"closID":"shared","l3CacheSchema":"L3:0=f","schemata":["L2:0=3"],"enableMonitoring":true}"#;
        let group = plan(json, Some(dir.path())).unwrap().make().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("shared/schemata"), "L3:0=f\nL2:0=3\n");
        fs::write(dir.path().join("shared/mon_groups/web/tasks"), "").unwrap();
        group.join(42).unwrap();
        assert_eq!((read("shared/tasks"), read("shared/mon_groups/web/tasks")), ("42".into(), "42".into()));
        fs::remove_file(dir.path().join("shared/mon_groups/web/tasks")).unwrap();
        group.remove().unwrap();
        assert!(dir.path().join("shared").exists() && !dir.path().join("shared/mon_groups/web").exists());
        group.remove().unwrap();
    }

    #[test]
    fn an_own_class_goes_with_the_container() {
        let dir = host();
        let group = plan("{}", Some(dir.path())).unwrap().make().unwrap();
        assert!(dir.path().join("web").is_dir());
        let kept: Group = serde_json::from_str(&serde_json::to_string(&group).unwrap()).unwrap();
        kept.remove().unwrap();
        assert!(!dir.path().join("web").exists());
        // What was there before is not.
        fs::create_dir(dir.path().join("web")).unwrap();
        plan("{}", Some(dir.path())).unwrap().make().unwrap().remove().unwrap();
        assert!(dir.path().join("web").exists());
    }

    #[test]
    fn a_refusal_has_the_kernels_reason_and_leaves_nothing() {
        let dir = host();
        // The new directory has no file to write to.
        let error = plan(r#"{"l3CacheSchema":"L3:0=ff"}"#, Some(dir.path())).unwrap().make().unwrap_err().to_string();
        assert!(
            error.starts_with("linux.intelRdt: write ") && error.ends_with("last_cmd_status: mask ff is bad"),
            "{error}"
        );
        assert!(!dir.path().join("web").exists());
    }

    #[test]
    fn the_class_of_everything_can_be_named() {
        let dir = host();
        let group = plan(r#"{"closID":"/"}"#, Some(dir.path())).unwrap().make().unwrap();
        group.join(7).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("tasks")).unwrap(), "7");
        group.remove().unwrap();
        assert!(dir.path().exists());
    }
}
