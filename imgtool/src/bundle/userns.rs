//! `--userns`, `--uidmap` and `--gidmap`: a user namespace for a bundle that the machine's root makes.
//!
//! ```text
//! layers, overlay/upper   files with the image's owners, as of any bundle
//! mapped/N, mapped/upper  the same by mounts that show them as the namespace's; there while the overlay is mounted over them
//! rootfs                  the overlay: owners as the host sees them, and the image's for the container
//! ```
//! So `diff` and `commit` read what they always read, and layers stay shared.

use std::fs::{self, DirBuilder};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use serde_json::{Value, json};

use super::overlay;
use super::user::Identity;
use crate::error::{Error, Result, Step};
use crate::layer::OverlayForm;
use crate::layout::Use;
use crate::rights::{Maps, Range, has, maps_of_containers, new_namespace, outside};
use crate::sys;

/// The directory of a bundle in which its layers are mounted for the overlay.
pub(super) const MAPPED: &str = "mapped";
/// Ids that `auto` gives, as many as users of most images have.
const AUTO: u32 = 65_536;
/// What the machine's root writes through the mount of the upper layer has this owner there, which no image has: overlayfs works
/// with root's id in its directory.
const ROOTS: u32 = u32::MAX - 1;

/// `--userns`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum UserNs {
    /// None of the container's own; of an ordinary user's bundle, the one that it always has.
    #[default]
    Host,
    /// A range of this size that no other bundle of the store has.
    Auto(u32),
    Given(Maps),
}

impl FromStr for UserNs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::malformed(format!("{text:?}: want host, private or auto[:size=N]"));
        match text.split_once(':') {
            None if text == "host" => Ok(Self::Host),
            None if matches!(text, "auto" | "private") => Ok(Self::Auto(AUTO)),
            Some(("auto", size)) => {
                let size = size.strip_prefix("size=").and_then(|size| size.parse().ok()).filter(|&size| size > 0);
                size.map(Self::Auto).ok_or_else(bad)
            }
            _ => Err(bad()),
        }
    }
}

/// `CONTAINER:HOST:SIZE`
pub(crate) fn parse_range(text: &str) -> Result<Range> {
    let bad = || Error::malformed(format!("{text:?}: want CONTAINER:HOST:SIZE"));
    let numbers: Vec<u32> =
        text.split(':').map(str::parse).collect::<std::result::Result<_, _>>().map_err(|_| bad())?;
    let [inside, outside, count] = *numbers.as_slice() else { return Err(bad()) };
    let fits = |first: u32| first.checked_add(count).is_some_and(|end| end <= ROOTS);
    if count == 0 || !fits(inside) || !fits(outside) {
        return Err(bad());
    }
    Ok(Range { inside, outside, count })
}

/// What `--uidmap` and `--gidmap` mean; of one of them alone, both are.
pub(crate) fn given(uids: &[Range], gids: &[Range]) -> Result<UserNs> {
    let maps = Maps {
        uids: if uids.is_empty() { gids.to_owned() } else { uids.to_owned() },
        gids: if gids.is_empty() { uids.to_owned() } else { gids.to_owned() },
    };
    for (flag, map) in [("--uidmap", &maps.uids), ("--gidmap", &maps.gids)] {
        if !has(map, 0) {
            return Err(Error::other(format!("{flag}: lacks id 0 of the container, whose root sets it up")));
        }
        for (number, one) in map.iter().enumerate() {
            let meets = |a: u32, b: u32, other: &Range| a < b + other.count && b < a + one.count;
            let twice =
                |other: &Range| meets(one.inside, other.inside, other) || meets(one.outside, other.outside, other);
            if map[..number].iter().any(twice) {
                return Err(Error::other(format!("{flag}: an id is mapped twice")));
            }
        }
    }
    Ok(UserNs::Given(maps))
}

/// The maps of a bundle that is made beside these.
pub(super) fn choose(wanted: &UserNs, others: &[Use]) -> Result<Option<Maps>> {
    let size = match wanted {
        UserNs::Host => return Ok(None),
        UserNs::Given(maps) => return Ok(Some(maps.clone())),
        UserNs::Auto(size) => *size,
    };
    let free = maps_of_containers()?;
    let taken = |which: fn(&Maps) -> &Vec<Range>| -> Vec<Range> {
        others.iter().filter_map(|other| other.ids.as_ref()).flat_map(which).copied().collect()
    };
    let find = |free: &[Range], taken: &[Range], file: &str| {
        first_free(free, taken, size).ok_or_else(|| {
            Error::other(format!(
                "--userns auto: {size} ids are not free in the ranges of the user containers in {file} \
                 (as containers:2147483647:2147483648)"
            ))
        })
    };
    let one = |outside| vec![Range { inside: 0, outside, count: size }];
    Ok(Some(Maps {
        uids: one(find(&free.uids, &taken(|maps| &maps.uids), "/etc/subuid")?),
        gids: one(find(&free.gids, &taken(|maps| &maps.gids), "/etc/subgid")?),
    }))
}

/// The first of `size` ids in a row that are free and not taken.
fn first_free(free: &[Range], taken: &[Range], size: u32) -> Option<u32> {
    for range in free {
        let end = u64::from(range.outside) + u64::from(range.count);
        let end = end.min(u64::from(ROOTS));
        let mut first = u64::from(range.outside);
        while first + u64::from(size) <= end {
            let meets = |other: &&Range| {
                let (start, behind) = (u64::from(other.outside), u64::from(other.outside) + u64::from(other.count));
                first < behind && start < first + u64::from(size)
            };
            match taken.iter().find(meets) {
                Some(other) => first = u64::from(other.outside) + u64::from(other.count),
                None => return u32::try_from(first).ok(),
            }
        }
    }
    None
}

/// Whether the process's ids are in the namespace.
pub(super) fn check_identity(maps: &Maps, identity: &Identity) -> Result<()> {
    if !has(&maps.uids, identity.uid) {
        return Err(Error::other(format!("user {} is not in the container's user namespace (--uidmap)", identity.uid)));
    }
    match [identity.gid].iter().chain(&identity.groups).find(|&&gid| !has(&maps.gids, gid)) {
        Some(gid) => Err(Error::other(format!("group {gid} is not in the container's user namespace (--gidmap)"))),
        None => Ok(()),
    }
}

/// The container's root as the host sees it.
pub(super) fn root_of(maps: &Maps) -> (u32, u32) {
    (outside(&maps.uids, 0).unwrap_or(0), outside(&maps.gids, 0).unwrap_or(0))
}

/// As `linux.uidMappings` and `linux.gidMappings` have it.
pub(super) fn mappings(ranges: &[Range]) -> Value {
    let entry = |r: &Range| json!({"containerID": r.inside, "hostID": r.outside, "size": r.count});
    ranges.iter().map(entry).collect()
}

/// Mounts `lower` under `overlay/upper` of the bundle at `rootfs`, all of them with owners of the namespace.
pub(super) fn mount(directory: &Path, lower: &[&Path], maps: &Maps) -> Result<()> {
    let mapped = directory.join(MAPPED);
    let own = new_namespace(maps)?;
    let with_root = new_namespace(&and_root(maps))?;
    let mut mounts = Undo(Vec::new());
    if !mapped.exists() {
        DirBuilder::new().mode(0o700).create(&mapped).with(|| format!("mkdir {}", mapped.display()))?;
    }
    let mut shown: Vec<PathBuf> = Vec::new();
    for (number, path) in lower.iter().enumerate() {
        shown.push(show(path, &mapped.join(number.to_string()), &own, &mut mounts)?);
    }
    let upper = show(&directory.join("overlay"), &mapped.join("upper"), &with_root, &mut mounts)?;
    let shown: Vec<&Path> = shown.iter().map(PathBuf::as_path).collect();
    let rootfs = directory.join("rootfs");
    // It keeps mounts of its own of all of them.
    overlay::mount_overlay(&shown, &upper.join("upper"), &upper.join("work"), &rootfs, OverlayForm::Trusted)
}

/// The root file system with the image's owners, as it is now.
pub(super) fn look(directory: &Path, lower: &[PathBuf]) -> Result<OwnedFd> {
    let upper = directory.join("overlay/upper");
    let all: Vec<&Path> = std::iter::once(&upper).chain(lower).map(PathBuf::as_path).collect();
    let target = directory.join(MAPPED).join("look");
    if !target.exists() {
        DirBuilder::new().mode(0o700).create(&target).with(|| format!("mkdir {}", target.display()))?;
    }
    overlay::look(&all, &target)
}

/// Mounts that were wanted for a moment.
struct Undo(Vec<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
        }
    }
}

/// Before Linux 6.15 overlayfs took no layer of a mount that is attached nowhere.
fn show(path: &Path, target: &Path, namespace: &OwnedFd, mounts: &mut Undo) -> Result<PathBuf> {
    let make = || -> Result<()> {
        if !target.exists() {
            DirBuilder::new().mode(0o700).create(target)?;
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, path, flags)?;
        sys::map_owners(&mount, std::os::fd::AsFd::as_fd(namespace)).map_err(|e| match e.raw_os_error() {
            Some(22 | 38 | 95) => Error::other(
                "its file system, or this kernel, does not map owners (ext4, xfs and btrfs of Linux 5.19 do)",
            ),
            _ => e.into(),
        })?;
        Ok(move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    };
    make().with(|| format!("--userns: mount {}", path.display()))?;
    mounts.0.push(target.to_owned());
    Ok(target.to_owned())
}

fn and_root(maps: &Maps) -> Maps {
    let with = |map: &[Range]| {
        let mut all = map.to_owned();
        if !map.iter().any(|range| range.outside == 0) {
            all.push(Range { inside: ROOTS, outside: 0, count: 1 });
        }
        all
    };
    Maps { uids: with(&maps.uids), gids: with(&maps.gids) }
}

/// Gives what imgtool makes for the container to the container's root.
pub(super) fn give(path: &Path, maps: Option<&Maps>) -> Result<()> {
    let Some((uid, gid)) = maps.map(root_of) else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).with(|| format!("chown {}", path.display()))
}

/// Unmounts what a killed imgtool left.
pub(super) fn forget(directory: &Path) {
    let left = fs::read_dir(directory.join(MAPPED)).into_iter().flatten().flatten();
    drop(Undo(left.map(|entry| entry.path()).collect()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, count: u32) -> Range {
        Range { inside, outside, count }
    }

    #[test]
    fn modes_and_maps_are_podmans() {
        for (text, want) in [
            ("host", UserNs::Host),
            ("auto", UserNs::Auto(65_536)),
            ("private", UserNs::Auto(65_536)),
            ("auto:size=1000", UserNs::Auto(1000)),
        ] {
            assert_eq!(text.parse::<UserNs>().unwrap(), want, "{text}");
        }
        for bad in ["", "auto:", "auto:size=0", "auto:size=x", "host:1", "keep-id", "ns:/x"] {
            assert!(bad.parse::<UserNs>().is_err(), "{bad}");
        }
        assert_eq!(parse_range("0:100000:65536").unwrap(), range(0, 100_000, 65_536));
        for bad in ["", "0:1", "0:1:0", "0:1:2:3", "x:1:2", "0:4294967290:10", "4294967295:0:1", "-1:0:1"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
        let map = [range(0, 100_000, 10)];
        let both = UserNs::Given(Maps { uids: map.into(), gids: map.into() });
        assert_eq!(given(&map, &[]).unwrap(), both);
        assert_eq!(given(&[], &map).unwrap(), both);
        for (uids, why) in [
            (vec![range(1, 100_000, 10)], "lacks id 0"),
            (vec![range(0, 100_000, 10), range(9, 200_000, 10)], "twice"),
            (vec![range(0, 100_000, 10), range(20, 100_009, 10)], "twice"),
        ] {
            assert!(given(&uids, &[]).unwrap_err().to_string().contains(why), "{uids:?}");
        }
    }

    #[test]
    fn ranges_that_others_have_are_passed_over() {
        let free = [range(1, 1000, 100), range(101, 5000, 50)];
        for (taken, size, want) in [
            (vec![], 100, Some(1000)),
            (vec![range(0, 1000, 50)], 50, Some(1050)),
            (vec![range(0, 1049, 2)], 50, Some(5000)),
            (vec![range(0, 1000, 50), range(0, 1060, 10)], 10, Some(1050)),
            (vec![range(0, 900, 101)], 99, Some(1001)),
            (vec![], 101, None),
            (vec![range(0, 1000, 100), range(0, 5000, 50)], 1, None),
        ] {
            assert_eq!(first_free(&free, &taken, size), want, "{taken:?} {size}");
        }
        assert_eq!(first_free(&[range(1, u32::MAX - 5, 5)], &[], 10), None);
    }
}
