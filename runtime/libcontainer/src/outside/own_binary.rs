//! Keeps a container from ever getting a writable way to this very program (CVE-2019-5736).
//!
//! A process that enters a container can be made to execute `/proc/self/exe` (an entrypoint, a `#!` line, an ELF
//! interpreter in a hostile image), and other processes of the container can then open that file through
//! `/proc/<pid>/exe` and write to it once nobody executes it. So what enters containers runs from a copy of the program's
//! *mount* that is read-only and attached nowhere: opening it for writing through any `/proc` link fails with EROFS,
//! because a descriptor opened through a magic link keeps the mount that it was reached by.
//!
//! Nobody can make that mount writable again, or get a writable one from it. mount_setattr(2), remounting, bind mounts and
//! open_tree(2) all ask that the mount is in the caller's mount namespace, or in a detached tree that somebody holds by the
//! descriptor it was cloned with; that descriptor is closed by the exec that uses it, which dissolves the tree, and from then
//! on the mount is in no namespace. All this holds for a caller with every capability. A host's own read-only mount does
//! not do: whoever keeps a descriptor could wait until the host makes it writable for an upgrade. So the mount has to be one
//! of the file alone, which tells ours. No memory is copied, unlike with a sealed memfd, which is used where the caller may
//! not clone mounts. It takes one more execve(2), of this very file; on x86-64 the
//! first instructions of the program have seen to it (`sys/early.rs`), and what is here looks whether they did.

use crate::{
    error::{At, Error, Result},
    sys::{CStringArray, MountAttr, execveat, mount_setattr},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Access, AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, StatxAttributes, StatxFlags},
    mount::{OpenTreeFlags, open_tree},
};
use std::{convert::Infallible, os::unix::ffi::OsStrExt};

const EXE: &str = "/proc/self/exe";

/// The verbs whose process, or a child of it, enters a container. For these [`protect`] is to be called.
pub static ENTERING: [&str; 3] = ["create", "run", "exec"];

/// Returns if this program runs from a file that cannot be written through `/proc`; otherwise starts it anew from one,
/// with the same arguments. To be called before anything else is done for a container.
pub fn protect() -> Result<()> {
    let exe = rustix::fs::open(EXE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open /proc/self/exe")?;
    // Only a memfd has seals.
    if rustix::fs::fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SEALS)) || is_read_only_alone(&exe)? {
        return Ok(());
    }
    let safe = match read_only_mount() {
        Ok(safe) => safe,
        // No privilege to clone mounts. Whom the file does not belong to cannot write it either.
        Err(_) if rustix::fs::accessat(CWD, EXE, Access::WRITE_OK, AtFlags::EACCESS).is_err() => return Ok(()),
        Err(_) => sealed_copy()?,
    };
    match start_anew(&safe)? {}
}

/// Whether a file was opened by a read-only mount that has nothing but this file.
fn is_read_only_alone(file: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstatvfs(file).at("statvfs /proc/self/exe")?;
    if !stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(false);
    }
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::empty()).at("statx /proc/self/exe")?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn read_only_mount() -> Result<OwnedFd> {
    let mount = open_tree(CWD, EXE, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount_setattr(mount.as_fd(), false, attr)?;
    Ok(mount)
}

const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

fn sealed_copy() -> Result<OwnedFd> {
    let copy =
        rustix::fs::memfd_create("runtime", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).at("memfd_create")?;
    let mut from = std::fs::File::open(EXE).at("open /proc/self/exe")?;
    let mut to = std::fs::File::from(copy);
    std::io::copy(&mut from, &mut to).at("copy the program")?;
    rustix::fs::fcntl_add_seals(&to, SEALS).at("seal the copy")?;
    Ok(to.into())
}

fn start_anew(program: &OwnedFd) -> Result<Infallible> {
    let strings = |mut strings: Vec<Vec<u8>>| {
        strings.shrink_to_fit();
        CStringArray::new(&strings).map_err(|error| Error::other(error.to_string()))
    };
    let args = strings(std::env::args_os().map(|arg| arg.as_bytes().to_vec()).collect())?;
    let env =
        strings(std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect())?;
    Err(execveat(program.as_fd(), &args, &env)).at("start the protected copy of the runtime")
}
