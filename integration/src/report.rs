//! What the probe, running inside a container (or as a hook), tells the test about its world.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything that a process can see of itself. Numbers and names are the kernel's own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Process id in its own pid namespace.
    pub pid: i32,
    /// Parent's id; 0 when the parent lives outside the pid namespace.
    pub ppid: i32,
    /// Session id.
    pub sid: i32,
    /// argv, the probe's own name included.
    pub args: Vec<String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Working directory, or the error that getcwd gave.
    pub cwd: String,
    /// File creation mask.
    pub umask: u32,
    /// Real, effective, saved and file system user id.
    pub uid: Vec<u32>,
    /// Real, effective, saved and file system group id.
    pub gid: Vec<u32>,
    /// Supplementary groups, in the kernel's order.
    pub groups: Vec<u32>,
    /// Capability sets as bit masks.
    pub caps: Caps,
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// Signal masks as the kernel prints them (bit 0 is signal 1).
    pub signals: Signals,
    /// Soft and hard limits by the kernel's name (`Max open files`), None is unlimited.
    pub limits: BTreeMap<String, (Option<u64>, Option<u64>)>,
    /// Inode number of each namespace.
    pub namespaces: BTreeMap<String, u64>,
    /// The mount table, in order.
    pub mounts: Vec<Mount>,
    /// Lines of /proc/self/cgroup.
    pub cgroups: Vec<String>,
    /// Node name of the UTS namespace.
    pub hostname: String,
    /// NIS domain name of the UTS namespace.
    pub domainname: String,
    /// Open descriptors and what they are.
    pub fds: BTreeMap<i32, String>,
    /// Every process that /proc shows: id and name.
    pub processes: BTreeMap<i32, String>,
    /// `oom_score_adj`.
    pub oom_score_adj: String,
    /// Network interfaces.
    pub interfaces: Vec<String>,
    /// What could not be seen, and why.
    pub blind: Vec<String>,
}

/// The five capability sets, bit n is capability n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Used by the kernel in checks.
    pub effective: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept over execve with file capabilities.
    pub inheritable: u64,
    /// What execve may ever grant.
    pub bounding: u64,
    /// Kept over execve of any program.
    pub ambient: u64,
}

/// Signal masks of a process.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Signals {
    /// Blocked.
    pub blocked: u64,
    /// Ignored.
    pub ignored: u64,
}

/// One line of mountinfo.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Mount {
    /// Directory of the file system that is mounted here.
    pub root: String,
    /// Where.
    pub at: String,
    /// Flags of the mount.
    pub options: Vec<String>,
    /// `shared`, `master`, `unbindable`; empty means private.
    pub propagation: Vec<String>,
    /// File system type.
    pub kind: String,
    /// Source as given at the mount.
    pub source: String,
    /// Options of the file system itself.
    pub fs_options: Vec<String>,
}

impl Mount {
    /// Parses one line of mountinfo.
    pub fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let list = |s: &str| s.split(',').map(str::to_owned).collect::<Vec<_>>();
        Some(Self {
            root: (*left.get(3)?).to_owned(),
            at: left.get(4)?.replace("\\040", " "),
            options: list(left.get(5)?),
            propagation: left.get(6..)?.iter().filter_map(|f| f.split(':').next()).map(str::to_owned).collect(),
            kind: (*right.first()?).to_owned(),
            source: (*right.get(1)?).to_owned(),
            fs_options: list(right.get(2)?),
        })
    }

    /// Whether the mount, or its file system, has this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().chain(&self.fs_options).any(|o| o == option)
    }
}

impl Report {
    /// The topmost mount at this path.
    pub fn mount(&self, at: &str) -> Option<&Mount> {
        self.mounts.iter().rev().find(|m| m.at == at)
    }

    /// A limit by the kernel's name.
    pub fn limit(&self, name: &str) -> (Option<u64>, Option<u64>) {
        self.limits[name]
    }
}

/// How one attempt of the probe went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The attempt as it was asked for.
    pub attempt: String,
    /// Name of the error, `None` when the attempt succeeded.
    pub errno: Option<String>,
    /// What a successful attempt read.
    #[serde(default)]
    pub value: String,
}

/// One call of a hook, as the hook saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HookCall {
    /// What the hook was told to call itself.
    pub name: String,
    /// What stood on its stdin.
    pub stdin: String,
    /// The hook's own view.
    pub report: Report,
    /// Entries of the hook's root directory, to tell the container's from the host's.
    pub root: Vec<String>,
}
