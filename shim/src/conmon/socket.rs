//! Sockets whose directory may have a path that is too long for a socket's address.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, chmod, fchmod, open, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

use super::flags::Flags;
use crate::error::{Context, Error, Result};

/// The longest path of a socket that every system takes, its end included.
const MAX_ADDRESS: usize = 108;
/// Where links to bundles are if the caller does not say.
const SOCKET_DIR: &str = "/var/run/crio";

/// Makes a socket `name` in `dir`, with these permissions from the first moment on.
pub(super) fn make(dir: &Path, name: &str, kind: SocketType, mode: u32) -> Result<OwnedFd> {
    let path = dir.join(name);
    let step = || format!("make the socket {}", path.display());
    let parent = path.parent().unwrap_or(dir);
    let parent_fd = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(step)?;
    let file = path.file_name().unwrap_or_default();
    remove(&path)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None).context(step)?;
    // What the socket has when it is bound is what its file gets, less the umask.
    fchmod(&socket, Mode::from_raw_mode(mode & 0o700)).context(step)?;
    let address = Path::new("/proc/self/fd").join(parent_fd.as_raw_fd().to_string()).join(file);
    bind(&socket, &SocketAddrUnix::new(&address).context(step)?).context(step)?;
    chmod(&path, Mode::from_raw_mode(mode)).context(step)?;
    Ok(socket)
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("remove {}", path.display())),
    }
}

/// A link by which callers reach a bundle's sockets over a short path; gone on drop.
#[derive(Debug)]
pub(super) struct Link(PathBuf);

impl Link {
    /// Links the bundle as CRI-O expects it. `None` means that the caller takes the whole path.
    pub(super) fn make(flags: &Flags, bundle: &Path) -> Result<Option<Self>> {
        if flags.full_attach {
            return Ok(None);
        }
        let dir = flags.socket_dir.clone().unwrap_or_else(|| SOCKET_DIR.into());
        let name = flags.cuuid.as_deref().unwrap_or(&flags.cid);
        if name.contains('/') {
            return Err(Error::invalid(format!("the container's UUID {name:?} cannot be a file name")));
        }
        let mut path = dir.join(name).into_os_string().into_vec();
        if path.len() == MAX_ADDRESS - 1 {
            // The socket that lies in it would have no room: callers expect one character less.
            path.pop();
        }
        let path = PathBuf::from(OsString::from_vec(path));
        remove(&path)?;
        std::os::unix::fs::symlink(bundle, &path).context(|| format!("link the bundle as {}", path.display()))?;
        Ok(Some(Self(path)))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _: Result<()> = remove(&self.0);
    }
}
