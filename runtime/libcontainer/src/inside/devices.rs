//! Device nodes and the links that every `/dev` has (runtime-spec `config-linux.md`, "Default Devices").

use super::{
    mounts::{clone_of, put_over},
    root::{Root, file_type},
};
use crate::{
    error::{At, Error, Result},
    spec::{Device, Mount},
    sys::{MountAttr, mount_setattr},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev},
    io::Errno,
};
use std::path::{Component, Path, PathBuf};

/// One node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    pub(crate) kind: FileType,
    /// As `st_rdev` has it.
    pub(crate) device: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The default devices, each unless the configuration has its own of that path, then the configuration's. None at all
/// where the host's `/dev` is bind-mounted: its nodes are the host's.
pub(crate) fn nodes(devices: &[Device], mounts: &[Mount]) -> Result<Vec<Node>> {
    let asked = devices.iter().enumerate().map(|(i, d)| node(i, d)).collect::<Result<Vec<_>>>()?;
    if dev_is_the_hosts(mounts) {
        return Ok(Vec::new());
    }
    const DEFAULTS: [(&str, u32, u32); 6] = [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    ];
    let mut nodes: Vec<Node> = DEFAULTS
        .into_iter()
        .map(|(path, major, minor)| Node {
            path: path.into(),
            kind: FileType::CharacterDevice,
            device: makedev(major, minor),
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .filter(|default| asked.iter().all(|own| own.path != default.path))
        .collect();
    nodes.extend(asked);
    Ok(nodes)
}

/// Whether `/dev` is a bind mount, so that nothing may be made in it.
pub(crate) fn dev_is_the_hosts(mounts: &[Mount]) -> bool {
    let is_dev =
        |path: &Path| path.components().filter(|c| *c != Component::RootDir).eq([Component::Normal("dev".as_ref())]);
    mounts
        .iter()
        .any(|m| is_dev(&m.destination) && (m.kind == "bind" || m.options.iter().any(|o| o == "bind" || o == "rbind")))
}

fn node(index: usize, device: &Device) -> Result<Node> {
    let field = |name: &str| format!("linux.devices[{index}].{name} of {}", device.path.display());
    let kind = match &*device.kind {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(Error::invalid(field("type"), format!("{other:?} is none of c, b, u, p"))),
    };
    // Of a larger one the kernel takes the lower bits (its include/linux/kdev_t.h), which are another device's.
    let number = |name: &str, value: i64, bits: u32| match u32::try_from(value) {
        Ok(number) if number >> bits == 0 => Ok(number),
        _ => Err(Error::invalid(field(name), format!("{value} is no device number"))),
    };
    if !device.path.is_absolute() {
        return Err(Error::invalid(field("path"), "must be absolute"));
    }
    for (name, id) in [("uid", device.uid), ("gid", device.gid)] {
        if id == Some(u32::MAX) {
            return Err(Error::invalid(field(name), "4294967295 is no id"));
        }
    }
    Ok(Node {
        path: device.path.clone(),
        kind,
        device: makedev(number("major", device.major, 12)?, number("minor", device.minor, 20)?),
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
    })
}

/// Makes the nodes. `hosts` holds the host's for each, where the kernel forbids mknod(2) in a user namespace.
/// The caller's umask is 0.
pub(crate) fn make(root: &Root, nodes: &[Node], hosts: Vec<OwnedFd>) -> Result<()> {
    let hosts = hosts.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    for (node, host) in nodes.iter().zip(hosts) {
        let made = match host {
            Some(host) => put_over(root, host.as_fd(), &node.path),
            None => make_node(root, node),
        };
        made.at_with(|| format!("device {}", node.path.display()))?;
    }
    Ok(())
}

fn make_node(root: &Root, node: &Node) -> Result<()> {
    let (dir, name) = root.make_parent(&node.path)?;
    match rustix::fs::mknodat(&dir, &name, node.kind, Mode::from_raw_mode(node.mode), node.device) {
        Ok(()) if node.uid == 0 && node.gid == 0 => Ok(()),
        Ok(()) => {
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            rustix::fs::chownat(&dir, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("chown")
        }
        // The image brought it: good if it is what was asked for.
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).at("stat")?;
            if FileType::from_raw_mode(stat.st_mode) == node.kind && stat.st_rdev == node.device {
                return Ok(());
            }
            Err(Error::other("the image has something else there, and no tmpfs is mounted on /dev"))
        }
        Err(error) => Err(error).at("mknod"),
    }
}

/// The host's node as a mount that is attached nowhere. Its owner and mode stay the host's: it is read-only, which keeps nobody
/// from reading and writing a device. And no peer of the host's mount: what the container mounts on it would lie there as well,
/// and criu restores none that is.
pub(crate) fn clone_host(node: &Node) -> Result<OwnedFd> {
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    open_host(node)
        .and_then(|place| clone_of(place.as_fd(), false))
        .and_then(|mount| {
            mount_setattr(mount.as_fd(), false, attr).at("make it read-only and private")?;
            Ok(mount)
        })
        .at_with(|| format!("device {}", node.path.display()))
}

/// The host's node, verified to be the device that was asked for.
fn open_host(node: &Node) -> Result<OwnedFd> {
    let place = rustix::fs::open(&node.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&place)?;
    if file_type(&place)? == node.kind && stat.st_rdev == node.device {
        Ok(place)
    } else {
        Err(Error::other("the host has something else there"))
    }
}

/// The null device of the present mount namespace in the same way: it covers masked files.
pub(crate) fn clone_null() -> Result<OwnedFd> {
    clone_host(&Node {
        path: "/dev/null".into(),
        kind: FileType::CharacterDevice,
        device: makedev(1, 3),
        mode: 0o666,
        uid: 0,
        gid: 0,
    })
}

/// The links of `/dev` that programs expect.
pub(crate) fn make_links(root: &Root) -> Result<()> {
    let dev = root.make_dir(Path::new("/dev"))?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        link_if_absent(&dev, link, target)?;
    }
    // The multiplexer must be that of the container's own devpts: what the image has in its place goes.
    match rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => link_if_absent(&dev, "ptmx", "pts/ptmx"),
        // A mount, or a read-only place: the configuration's own choice.
        Err(_) => Ok(()),
    }
}

fn link_if_absent(dev: &OwnedFd, link: &str, target: &str) -> Result<()> {
    match rustix::fs::symlinkat(target, dev, link) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).at_with(|| format!("link /dev/{link}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_devices_replace_defaults() {
        let own: Vec<Device> =
            crate::spec::parse(br#"[{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":384,"uid":7}]"#)
                .unwrap();
        let nodes = nodes(&own, &[]).unwrap();
        assert_eq!(nodes.len(), 6);
        assert_eq!((nodes[5].mode, nodes[5].uid), (0o600, 7));
    }

    #[test]
    fn a_bind_mounted_dev_is_left_alone() {
        let mounts: Vec<Mount> =
            crate::spec::parse(br#"[{"destination":"/dev/","type":"bind","source":"/dev"}]"#).unwrap();
        assert!(nodes(&[], &mounts).unwrap().is_empty());
    }

    #[test]
    fn refuses_what_is_no_device() {
        for (json, field) in [
            (r#"[{"path":"/x","type":"z"}]"#, "linux.devices[0].type of /x: "),
            (r#"[{"path":"x","type":"c"}]"#, "linux.devices[0].path"),
            (r#"[{"path":"/x","type":"c","major":-2}]"#, "linux.devices[0].major"),
            (r#"[{"path":"/x","type":"c","major":4097,"minor":3}]"#, "linux.devices[0].major"),
            (r#"[{"path":"/x","type":"b","major":4095,"minor":1048576}]"#, "linux.devices[0].minor"),
        ] {
            let devices: Vec<Device> = crate::spec::parse(json.as_bytes()).unwrap();
            assert!(nodes(&devices, &[]).unwrap_err().to_string().starts_with(field));
        }
    }
}
