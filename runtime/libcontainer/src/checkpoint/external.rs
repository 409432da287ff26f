//! What of a container's mounts and namespaces leads out of it.

use crate::{
    error::{At, Error, Result},
    inside::{devices, root::Root},
    outside::cgroup::{self, Placement},
    spec::{Mount, NamespaceKind, Spec},
};
use rustix::fs::{Mode, OFlags};
use std::{
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// A mount by its place in the container and its source on the host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct External {
    pub(super) destination: String,
    pub(super) source: String,
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.kind == "bind" || mount.options.iter().any(|it| it == "bind" || it == "rbind")
}

/// Bind mounts, the container's cgroup directories (which are binds as well), and devices of the host.
pub(super) fn mounts(spec: &Spec, cgroup: &Placement, rootfs: &Path, bundle: &Path) -> Result<Vec<External>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(rootfs, flags, Mode::empty()).at_with(|| format!("root.path {}", rootfs.display()))?;
    let whole = link_of(&fd)?;
    let root = Root::new(fd);
    // As the kernel names it: links of the image are followed beneath the root.
    let place = |path: &Path| match root.open(path).ok().and_then(|fd| link_of(&fd).ok()) {
        Some(found) => Path::new("/").join(found.strip_prefix(&whole).unwrap_or(path)),
        None => path.to_owned(),
    };
    let mut all = Vec::new();
    let mut add = |destination: &Path, source: &Path| {
        all.push(External { destination: text(destination)?, source: text(source)? });
        Ok::<_, Error>(())
    };
    for mount in &spec.mounts {
        if is_bind(mount) {
            add(&place(&mount.destination), &source(mount, bundle))?;
        } else if matches!(&*mount.kind, "cgroup" | "cgroup2") {
            for view in cgroup::container_view(cgroup) {
                add(&place(&mount.destination).join(view.name), &view.source)?;
            }
        }
    }
    // In a user namespace these are mounts, too.
    for node in devices::nodes(&spec.linux.devices, &spec.mounts)? {
        add(&node.path, &node.path)?;
    }
    Ok(all)
}

/// The source of a bind mount, without the `.` and `..` and links that confuse criu. One that is not there is named as it is.
pub(super) fn source(mount: &Mount, bundle: &Path) -> PathBuf {
    let path = bundle.join(mount.source.as_deref().unwrap_or(Path::new("")));
    path.canonicalize().unwrap_or(path)
}

fn link_of(fd: &impl AsRawFd) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).at("read a link of /proc/self/fd")
}

pub(super) fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(|it| if it.len() > 1 { it.trim_end_matches('/') } else { it }.to_owned());
    text.ok_or_else(|| Error::other(format!("{}: criu takes paths in UTF-8 only", path.display())))
}

/// The name of a namespace that was joined by path, for those that criu leaves to us.
pub(super) fn key(kind: NamespaceKind) -> Option<(&'static str, &'static str)> {
    match kind {
        NamespaceKind::Network => Some(("net", "extRootNetNS")),
        NamespaceKind::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}
