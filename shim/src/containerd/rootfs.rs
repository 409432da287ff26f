//! Mounting a container's root file system from what containerd's snapshotter hands over, and undoing it.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::Mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount};

use super::owners::Owners;
use crate::error::{Context, Error, Result};

/// The kernel takes one page of options.
const MAX_DATA: usize = 4095;

/// What the options of one mount come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    flags: u32,
    propagation: u32,
    data: Vec<String>,
    /// Whose files they are in the container's user namespace.
    owners: Option<Owners>,
}

impl Plan {
    fn of(options: &[String]) -> Result<Self> {
        let mut plan = Self::default();
        let (mut users, mut groups) = (None, None);
        for option in options {
            match option.as_str() {
                "loop" => {
                    let text =
                        "mount the rootfs: the option loop is not supported: use a snapshotter without loop devices";
                    return Err(Error::invalid(text));
                }
                "private" => plan.propagate(MountPropagationFlags::PRIVATE),
                "rprivate" => {
                    plan.propagate(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC);
                }
                "shared" => plan.propagate(MountPropagationFlags::SHARED),
                "rshared" => {
                    plan.propagate(MountPropagationFlags::SHARED | MountPropagationFlags::REC);
                }
                "slave" => plan.propagate(MountPropagationFlags::DOWNSTREAM),
                "rslave" => {
                    plan.propagate(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
                }
                name if name.starts_with("uidmap=") => users = name.strip_prefix("uidmap="),
                name if name.starts_with("gidmap=") => groups = name.strip_prefix("gidmap="),
                name => match flag(name) {
                    Some((true, bits)) => plan.flags |= bits,
                    Some((false, bits)) => plan.flags &= !bits,
                    None => plan.data.push(name.to_owned()),
                },
            }
        }
        plan.owners = match (users, groups) {
            (Some(users), Some(groups)) => Some(Owners { users: users.to_owned(), groups: groups.to_owned() }),
            (None, None) => None,
            _ => return Err(Error::invalid("mount the rootfs: uidmap and gidmap come together only")),
        };
        Ok(plan)
    }

    fn propagate(&mut self, how: MountPropagationFlags) {
        self.propagation |= how.bits();
    }

    fn is_bind(&self) -> bool {
        self.flags & MountFlags::BIND.bits() != 0
    }
}

/// The flag that an option sets (`true`) or clears.
fn flag(name: &str) -> Option<(bool, u32)> {
    let (set, flag) = match name {
        "defaults" => (true, MountFlags::empty()),
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "bind" => (true, MountFlags::BIND),
        "rbind" => (true, MountFlags::BIND | MountFlags::REC),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        "async" => (false, MountFlags::SYNCHRONOUS),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "nosuid" => (true, MountFlags::NOSUID),
        "suid" => (false, MountFlags::NOSUID),
        "nodev" => (true, MountFlags::NODEV),
        "dev" => (false, MountFlags::NODEV),
        "noexec" => (true, MountFlags::NOEXEC),
        "exec" => (false, MountFlags::NOEXEC),
        "noatime" => (true, MountFlags::NOATIME),
        "atime" => (false, MountFlags::NOATIME),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "diratime" => (false, MountFlags::NODIRATIME),
        "relatime" => (true, MountFlags::RELATIME),
        "norelatime" => (false, MountFlags::RELATIME),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        "nosymfollow" => (true, MountFlags::NOSYMFOLLOW),
        _ => return None,
    };
    Some((set, flag.bits()))
}

/// Mounts `mounts`, in order, at `rootfs`. A failure leaves nothing mounted.
pub(crate) fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    for wanted in mounts {
        if let Err(error) = mount_one(wanted, rootfs) {
            let _: Result<()> = unmount_all(rootfs);
            return Err(error);
        }
    }
    Ok(())
}

fn mount_one(wanted: &Mount, rootfs: &Path) -> Result<()> {
    let mut plan = Plan::of(&wanted.options)?;
    let step = || format!("mount {} ({}) at {}", wanted.type_, wanted.source, rootfs.display());
    let (path, _target) = target(rootfs, &wanted.target)?;
    if let Some(owners) = plan.owners.as_ref().filter(|_| wanted.type_ == "overlay") {
        // Beneath the overlay, at the same place: whoever takes away what is there takes both.
        let layers = move_layers(&mut plan.data, &path)?;
        owners.map(&layers, &path, true)?;
    }
    // Too many layers for one page: name them relative to a directory that they share.
    let shared = if data_length(&plan.data) > MAX_DATA { shorten(&mut plan.data) } else { None };
    let _at = shared.as_deref().map(WorkingDirectory::enter).transpose()?;
    let data = CString::new(plan.data.join(",")).map_err(|_| Error::invalid("mount options contain a null byte"))?;
    let bits = MountFlags::from_bits_retain(plan.flags);
    mount(&wanted.source, &path, &wanted.type_, bits, Some(data.as_c_str())).context(step)?;
    // The kernel ignores all other flags when it makes a bind mount.
    let others = bits - MountFlags::REC;
    if plan.is_bind() && others != MountFlags::BIND {
        mount_remount(&path, others, "").context(step)?;
    }
    if let Some(owners) = plan.owners.as_ref().filter(|_| wanted.type_ != "overlay") {
        owners.map(&path, &path, false)?;
    }
    if plan.propagation != 0 {
        mount_change(&path, MountPropagationFlags::from_bits_retain(plan.propagation)).context(step)?;
    }
    Ok(())
}

/// Where to mount: `rootfs`, or a place below it that is resolved without ever leaving it. The descriptor keeps the
/// path valid.
fn target(rootfs: &Path, below: &str) -> Result<(PathBuf, Option<OwnedFd>)> {
    if below.is_empty() {
        return Ok((rootfs.to_owned(), None));
    }
    let step = || format!("find {below} in {}", rootfs.display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = open(rootfs, flags | OFlags::DIRECTORY, Mode::empty()).context(step)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&root, below, flags, Mode::empty(), resolve).context(step)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd())), Some(found)))
}

fn data_length(data: &[String]) -> usize {
    data.iter().map(|option| option.len() + 1).sum()
}

/// Makes the layers of an overlay relative to the deepest directory above all of them, and returns that.
fn shorten(data: &mut [String]) -> Option<PathBuf> {
    let (common, layers, relative) = layers(data)?;
    *layers = format!("lowerdir={}", relative.join(":"));
    Some(common)
}

/// Has the layers of an overlay looked for at `place`, where the directory above all of them will be, and returns that.
fn move_layers(data: &mut [String], place: &Path) -> Result<PathBuf> {
    let found = layers(data).filter(|(common, ..)| common.parent().is_some());
    let (common, layers, relative) =
        found.ok_or_else(|| Error::invalid("mount the rootfs: its layers have no directory in common"))?;
    let moved: Vec<_> = relative.iter().map(|layer| format!("{}/{layer}", place.display())).collect();
    *layers = format!("lowerdir={}", moved.join(":"));
    Ok(common)
}

/// The deepest directory above all layers of an overlay, the option that names them, and their paths below it.
fn layers(data: &mut [String]) -> Option<(PathBuf, &mut String, Vec<String>)> {
    let layers = data.iter_mut().find(|option| option.starts_with("lowerdir="))?;
    let list: Vec<PathBuf> = layers["lowerdir=".len()..].split(':').map(PathBuf::from).collect();
    let mut common = list.first()?.parent()?.to_owned();
    while !list.iter().all(|layer| layer.starts_with(&common)) {
        common.pop().then_some(())?;
    }
    if list.iter().any(|layer| !layer.is_absolute() || *layer == common) {
        return None;
    }
    let relative = list.iter().map(|layer| Some(layer.strip_prefix(&common).ok()?.to_str()?.to_owned()));
    let relative = relative.collect::<Option<_>>()?;
    Some((common, layers, relative))
}

/// Another working directory for the time of one mount. The shim has one thread, so nobody else can notice.
struct WorkingDirectory(OwnedFd);

impl WorkingDirectory {
    fn enter(dir: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let before = open(".", flags, Mode::empty()).context(|| "open the working directory")?;
        rustix::process::chdir(dir).context(|| format!("change to {}", dir.display()))?;
        Ok(Self(before))
    }
}

impl Drop for WorkingDirectory {
    fn drop(&mut self) {
        let _: rustix::io::Result<()> = rustix::process::fchdir(&self.0);
    }
}

/// Takes away everything that is mounted at `rootfs`. Nothing mounted is fine.
pub(crate) fn unmount_all(rootfs: &Path) -> Result<()> {
    loop {
        match unmount(rootfs, UnmountFlags::NOFOLLOW) {
            // Mounts can lie upon each other.
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            // Something below is mounted or open: let go of the whole tree.
            Err(Errno::BUSY) => match unmount(rootfs, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
                Ok(()) => {}
                Err(errno) => {
                    return Err(errno).context(|| format!("unmount {}", rootfs.display()));
                }
            },
            Err(errno) => return Err(errno).context(|| format!("unmount {}", rootfs.display())),
        }
    }
}

/// Whether a rootfs directory exists below `bundle`; makes it if containerd has not.
pub(crate) fn directory(bundle: &Path) -> Result<PathBuf> {
    let path = bundle.join("rootfs");
    match rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o711)) {
        Ok(()) | Err(Errno::EXIST) => Ok(path),
        Err(errno) => Err(errno).context(|| format!("make {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|&option| option.to_owned()).collect()
    }

    #[test]
    fn options_become_flags_and_data() {
        let plan = Plan::of(&options(&["ro", "nosuid", "suid", "index=off", "lowerdir=/a:/b", "rprivate"])).unwrap();
        assert_eq!(plan.flags, MountFlags::RDONLY.bits());
        assert_eq!(plan.data, ["index=off", "lowerdir=/a:/b"]);
        assert_eq!(plan.propagation, (MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).bits());
        let bind = Plan::of(&options(&["rbind", "ro"])).unwrap();
        assert!(bind.is_bind() && bind.data.is_empty());
        assert!(Plan::of(&options(&["loop"])).is_err());
        let mapped = Plan::of(&options(&["lowerdir=/a", "uidmap=0:1:2", "gidmap=0:3:4"])).unwrap();
        assert_eq!(mapped.data, ["lowerdir=/a"]);
        assert_eq!(mapped.owners, Some(Owners { users: "0:1:2".to_owned(), groups: "0:3:4".to_owned() }));
        assert!(Plan::of(&options(&["uidmap=0:1:2"])).is_err());
    }

    #[test]
    fn many_layers_become_relative() {
        let layers: Vec<_> = (0..200).map(|n| format!("/var/lib/snapshots/{n}/fs")).collect();
        let mut data = options(&["index=off"]);
        data.push(format!("lowerdir={}", layers.join(":")));
        assert!(data_length(&data) > MAX_DATA);
        assert_eq!(shorten(&mut data), Some("/var/lib/snapshots".into()));
        assert!(data[1].starts_with("lowerdir=0/fs:1/fs:"));
        assert!(data_length(&data) < MAX_DATA);
        assert_eq!(shorten(&mut options(&["lowerdir=a:b"])), None);
        assert_eq!(shorten(&mut options(&["index=off"])), None);
    }

    #[test]
    fn layers_are_found_where_their_owners_are_mapped() {
        let mut data = options(&["lowerdir=/s/2/fs:/s/1/fs"]);
        assert_eq!(move_layers(&mut data, Path::new("/b/rootfs")).unwrap(), Path::new("/s"));
        assert_eq!(data, ["lowerdir=/b/rootfs/2/fs:/b/rootfs/1/fs"]);
        assert!(move_layers(&mut options(&["lowerdir=/a:/b"]), Path::new("/r")).is_err(), "not the whole machine");
    }

    #[test]
    fn targets_stay_below_the_rootfs() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let (path, _fd) = target(dir.path(), "out").unwrap();
        assert_eq!(std::fs::read_link(path).unwrap(), dir.path().join("etc"), "a link is followed inside only");
        let (path, _fd) = target(dir.path(), "../..").unwrap();
        assert_eq!(std::fs::read_link(path).unwrap(), dir.path());
        assert!(target(dir.path(), "absent").is_err());
    }
}
