//! What the host has: which hierarchies are mounted where, and in which cgroup the runtime itself is.

use super::{
    clean,
    systemd::{Driver, Manager},
};
use crate::error::{At, Error, Result};
use rustix::fs::statfs;
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Where cgroups are mounted on every known system.
const ROOT: &str = "/sys/fs/cgroup";
/// Where systemd mounts v2 beside v1 ("hybrid" mode).
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2: u64 = 0x6367_7270;

/// The v1 hierarchies that a container joins. Others (`name=elogind`, `debug`) are somebody's private book-keeping.
const JOINED: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
];

/// The host's cgroup hierarchies, as far as placing a container needs them.
#[derive(Debug)]
pub struct Host {
    pub(super) hierarchies: Hierarchies,
    /// Who makes the container's scope, for the systemd driver.
    pub(super) manager: Option<Manager>,
}

#[derive(Debug)]
pub(super) enum Hierarchies {
    /// One hierarchy. The runtime's own cgroup in it is known only where a relative path needs it.
    V2 { mount: PathBuf, own: Option<PathBuf> },
    /// A hierarchy per controller or group of controllers, and perhaps v2 beside them.
    V1 { mounted: Vec<Mounted>, unified: Option<PathBuf> },
}

/// One v1 hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) mount: PathBuf,
    pub(super) controllers: Vec<String>,
    /// The runtime's own cgroup, beneath `mount`.
    pub(super) own: PathBuf,
}

fn is_v2(path: &str) -> bool {
    statfs(path).is_ok_and(|at| at.f_type as u64 == CGROUP2)
}

/// Whether the host has v2 alone.
pub fn is_unified() -> bool {
    is_v2(ROOT)
}

impl Host {
    /// Looks at the host. On pure v2 that is one call for an absolute `cgroups_path`; a relative one also needs
    /// `/proc/self/cgroup`, and v1 the mount table as well.
    ///
    /// The systemd driver asks a user's manager where it lives.
    pub fn look(cgroups_path: &str, driver: &Driver) -> Result<Self> {
        let manager = match driver {
            Driver::Fs => None,
            Driver::Systemd(_) => Some(Manager::look()?),
        };
        if is_unified() {
            let named = cgroups_path.starts_with('/') || manager.is_some();
            let own = if named { None } else { own_v2(&self_cgroup()?) };
            return Ok(Self { hierarchies: Hierarchies::V2 { mount: ROOT.into(), own }, manager });
        }
        let mountinfo = std::fs::read("/proc/self/mountinfo").at("read /proc/self/mountinfo")?;
        let mut host = Self { manager, ..Self::v1(&mountinfo, &self_cgroup()?) };
        if let Hierarchies::V1 { mounted, unified } = &mut host.hierarchies {
            *unified = is_v2(UNIFIED).then(|| UNIFIED.into());
            if mounted.is_empty() && unified.is_none() {
                return Err(Error::other("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup"));
            }
        }
        Ok(host)
    }

    /// The v1 hierarchies of a mount table and a `/proc/self/cgroup`.
    pub(super) fn v1(mountinfo: &[u8], self_cgroup: &[u8]) -> Self {
        let own: Vec<(Vec<&[u8]>, &[u8])> = lines(self_cgroup)
            .filter_map(|line| {
                let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
                Some((fields.next()?.split(|&byte| byte == b',').collect(), fields.next()?))
            })
            .collect();
        let mut mounts: Vec<Mount<'_>> = lines(mountinfo).filter_map(Mount::parse).collect();
        // Engines bind mount hierarchies elsewhere: of several mounts of one hierarchy the usual place wins, else the first.
        mounts.sort_by_key(|mount| !mount.point.starts_with(ROOT));

        let mut mounted: Vec<Mounted> = Vec::new();
        for mount in mounts {
            let Some((controllers, path)) =
                own.iter().find(|(controllers, _)| controllers.iter().any(|name| mount.options.contains(name))).filter(
                    |(controllers, _)| controllers.iter().any(|name| JOINED.iter().any(|it| it.as_bytes() == *name)),
                )
            else {
                continue;
            };
            let controllers: Vec<String> =
                controllers.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            if mounted.iter().any(|known| known.controllers == controllers) {
                continue;
            }
            // Inside a container without a cgroup namespace both paths are the host's, and only what is below the mount's
            // root can be reached. Anything else is taken for that root.
            let path = clean(OsStr::from_bytes(path));
            let own = path.strip_prefix(clean(&mount.root)).unwrap_or(Path::new("")).to_owned();
            mounted.push(Mounted { mount: mount.point, controllers, own });
        }
        Self { hierarchies: Hierarchies::V1 { mounted, unified: None }, manager: None }
    }
}

/// A cgroup v1 mount of `/proc/self/mountinfo`. <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    options: Vec<&'a [u8]>,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let root = fields.nth(3)?;
        let point = fields.next()?;
        // Optional fields end with a single hyphen.
        fields.by_ref().find(|field| *field == b"-")?;
        if fields.next()? != b"cgroup" {
            return None;
        }
        let options = fields.nth(1)?.split(|&byte| byte == b',').collect();
        Some(Self { root: unescape(root), point: unescape(point), options })
    }
}

/// Spaces and the like are written as `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten().filter(|it| it.iter().all(u8::is_ascii_digit));
        if let Some(digits) = octal {
            bytes.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsStr::from_bytes(&bytes).into()
}

fn self_cgroup() -> Result<Vec<u8>> {
    std::fs::read("/proc/self/cgroup").at("read /proc/self/cgroup")
}

/// The v2 line is `0::/path`.
pub(super) fn own_v2(self_cgroup: &[u8]) -> Option<PathBuf> {
    lines(self_cgroup).find_map(|line| line.strip_prefix(b"0::")).map(|path| clean(OsStr::from_bytes(path)))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(host: &Host) -> &[Mounted] {
        match &host.hierarchies {
            Hierarchies::V1 { mounted, .. } => mounted,
            Hierarchies::V2 { .. } => panic!("not v1"),
        }
    }

    #[test]
    fn finds_each_hierarchy_once_with_its_own_cgroup() {
        let mountinfo = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            50 23 0:29 / /srv/copy\\040of/cpu rw shared:7 - cgroup cgroup rw,cpu,cpuacct\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:7 master:2 - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            36 31 0:33 / /sys/fs/cgroup/elogind rw - cgroup none rw,name=elogind\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            42 23 0:39 / /srv/\\134x rw - cgroup cgroup rw,freezer\n";
        let own = b"7:freezer:/\n5:name=elogind:/x\n9:name=systemd:/system.slice/a.service\n4:memory:/b\n2:cpu,cpuacct:/c\n0::/d\n";
        let host = Host::v1(mountinfo, own);
        let found: Vec<_> = mounted(&host)
            .iter()
            .map(|it| (it.mount.to_str().unwrap(), it.controllers.join(","), it.own.to_str().unwrap()))
            .collect();
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct".to_owned(), "c"),
                ("/sys/fs/cgroup/memory", "memory".to_owned(), "b"),
                ("/sys/fs/cgroup/systemd", "name=systemd".to_owned(), "system.slice/a.service"),
                ("/srv/\\x", "freezer".to_owned(), ""),
            ]
        );
        assert_eq!(own_v2(own).unwrap(), Path::new("d"));
    }

    #[test]
    fn nested_in_a_container_paths_count_from_the_mounts_root() {
        let mountinfo = b"1 2 0:3 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n\
            1 2 0:4 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let host = Host::v1(mountinfo, b"1:pids:/docker/abc/inner\n2:memory:/elsewhere/../../x\n");
        assert_eq!(mounted(&host)[0].own, Path::new("inner"));
        assert_eq!(mounted(&host)[1].own, Path::new(""));
    }

    #[test]
    fn garbage_is_no_hierarchy() {
        for text in [&b""[..], b"\n\n", b"1 2", b"1 2 3 / /x rw -", b"a b c d e f - cgroup", b"\xff\xfe - cgroup x y"] {
            assert!(mounted(&Host::v1(text, b"1:cpu:/\nnonsense\n2:")).is_empty());
        }
    }
}
