//! Freezing a container to files and back, by criu (<https://criu.org>), which does the work: we tell it over its RPC what is
//! the container's and what is the host's.
//!
//! What the two have to agree on, between [`dump`] and `restore`, is how mounts that lead out of the container are named:
//! - a bind mount by its destination;
//! - a masked file by `/dev/null`, which lies over it;
//! - network and pid namespaces that were joined by path, as `extRootNetNS` and `extRootPidNS`;
//! - standard streams that were pipes, by the names in `descriptors.json` beside criu's own files.

mod attributes;
mod criu;
mod dump;
mod external;
mod restore;
mod wire;

pub use dump::dump;
pub use restore::{Revived, restore};

use crate::{
    error::{At, Error, Kind, Result},
    store::Slot,
    sys,
};
use criu::Request;
use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
};
use std::{
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The names of the standard streams, in the directory of the images.
const DESCRIPTORS: &str = "descriptors.json";
/// A log that says more, in bytes, is not searched to its end.
const MAX_LOG: u64 = 16 << 20;
/// Where criu works if the caller names no place, in the container's own directory.
const WORK: &str = "criu";
/// criu's own configuration for containers, where the annotation `org.criu.config` names no other.
const CONFIG: &str = "/etc/criu/runc.conf";

/// What the caller wants of criu. All paths are absolute.
#[derive(Default)]
pub struct Options {
    /// Where the images are.
    pub images: PathBuf,
    /// Where criu works and logs; where it is not given, its logs come to lie with the images.
    pub work: Option<PathBuf>,
    /// An earlier dump, relative to the images.
    pub parent: Option<String>,
    /// The container goes on after the dump.
    pub leave_running: bool,
    /// Connections may be open.
    pub tcp_established: bool,
    /// Connections that are being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Unlinked files may be linked back.
    pub link_remap: bool,
    /// Unix sockets may lead out of the container.
    pub ext_unix_sk: bool,
    /// The caller's terminal may be the container's.
    pub shell_job: bool,
    /// File locks are taken along.
    pub file_locks: bool,
    /// Memory only, and the container goes on.
    pub pre_dump: bool,
    /// Pages that a later dump has are punched out of earlier ones.
    pub auto_dedup: bool,
    /// Pages are fetched when they are needed.
    pub lazy_pages: bool,
    /// Gets a zero byte when the pages can be fetched.
    pub status: Option<OwnedFd>,
    /// Where the pages go.
    pub page_server: Option<(String, u16)>,
    /// What criu does with cgroups: its own name of the mode.
    pub cgroups: Cgroups,
    /// Can be read once the caller wants no more of it: criu is killed then.
    pub interrupt: Option<OwnedFd>,
    /// An LSM profile to restore with, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// An LSM mount context to restore with.
    pub lsm_mount_context: Option<String>,
}

/// What criu does with cgroups (criu(8), `--manage-cgroups`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cgroups {
    /// Nothing.
    Ignore = 0,
    /// Properties of those that it makes.
    Soft = 3,
    /// Properties of all.
    Full = 4,
    /// All must be missing before.
    Strict = 5,
    /// criu's own choice.
    #[default]
    Default = 6,
}

fn open_dir(path: &Path, field: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).at_with(|| format!("{field} {}", path.display()))
}

/// For its owner alone: images hold the container's memory.
fn make_dir(path: &Path, field: &str) -> Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.at_with(|| format!("{field} {}", path.display()))?;
    open_dir(path, field)
}

/// The directories of images and work, open. They must live until criu is done: it opens them through us.
///
/// criu opens the files that it writes by name, and follows links. So it works where nobody else writes: images come from
/// others, and a link that one of them left there would lead its log to a file of the host. Lazy pages alone are fetched by a
/// socket that another criu has made with the images; links are taken away from there.
struct Dirs {
    images: OwnedFd,
    work: Option<OwnedFd>,
    /// To be emptied into the images.
    own: Option<PathBuf>,
}

impl Dirs {
    /// `logs` are the files that criu writes where it works.
    fn open(options: &Options, slot: &Slot, logs: [&str; 2]) -> Result<Self> {
        let images = open_dir(&options.images, "--image-path")?;
        match &options.work {
            Some(work) => Ok(Self { images, work: Some(make_dir(work, "--work-path")?), own: None }),
            None if options.lazy_pages => {
                for name in logs {
                    match unlinkat(&images, name, AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(error) => return Err(error).at_with(|| format!("remove an earlier {name}")),
                    }
                }
                Ok(Self { images, work: None, own: None })
            }
            None => {
                let own = slot.path()?.join(WORK);
                Ok(Self { images, work: Some(make_dir(&own, "criu's directory")?), own: Some(own) })
            }
        }
    }

    /// Where criu writes its log.
    fn work(&self) -> BorrowedFd<'_> {
        self.work.as_ref().unwrap_or(&self.images).as_fd()
    }

    fn tell(&self, request: &mut Request) {
        request.images_dir(self.images.as_raw_fd());
        if let Some(work) = &self.work {
            request.work_dir(work.as_raw_fd());
        }
    }

    /// criu is done: its logs go to the images, where people look for them.
    fn publish(&self, logs: [&str; 2]) {
        let Some(own) = &self.own else { return };
        for name in logs {
            let Ok(bytes) = read_in(self.work(), name, MAX_LOG) else { continue };
            if let Err(error) = write_new(self.images.as_fd(), name, &bytes) {
                // Such as images on a medium that cannot be written.
                tracing::warn!("{name} cannot be kept with the images: {error}");
            }
        }
        if let Err(error) = std::fs::remove_dir_all(own) {
            tracing::warn!("remove {}: {error}", own.display());
        }
    }
}

/// Acts in another mount namespace, which `leave` enters. Hooks and pid files belong where the caller is.
fn away<T>(leave: impl FnOnce() -> Result<()>, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty()).at("open /proc/self/ns/mnt")?;
    let here = rustix::fs::open(".", flags | OFlags::DIRECTORY, Mode::empty()).at("open .")?;
    leave()?;
    let done = act();
    sys::setns(own.as_fd(), libc::CLONE_NEWNS as u64).at("go back to the own mount namespace")?;
    rustix::process::fchdir(here).at("go back to the working directory")?;
    done
}

/// What dump and restore have in common.
fn common(options: &Options, log: &str, config: Option<&str>) -> Request {
    let mut request = Request::default();
    request.log(4, log);
    request.cgroups(options.cgroups as u64);
    request.flags(&[
        (criu::NOTIFY_SCRIPTS, true),
        (criu::SHELL_JOB, options.shell_job),
        (criu::TCP_ESTABLISHED, options.tcp_established),
        (criu::EXT_UNIX_SK, options.ext_unix_sk),
        (criu::FILE_LOCKS, options.file_locks),
        (criu::ORPHAN_PTS_MASTER, true),
        (criu::AUTO_DEDUP, options.auto_dedup),
        (criu::LAZY_PAGES, options.lazy_pages),
    ]);
    // The network is made by those who made it before.
    request.empty_namespaces(libc::CLONE_NEWNET as u64);
    match config {
        None => request.config(CONFIG),
        // Asked for none at all.
        Some("") => {}
        Some(path) => request.config(path),
    }
    request
}

/// Reads a file of a directory that others may write to: neither a link nor a pipe of theirs, and no more than `most` bytes.
fn read_in(dir: BorrowedFd<'_>, name: &str, most: u64) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts a file in place of whatever had its name: the directory may be one that others write to, and links in it are theirs.
fn write_new(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = format!(".{name}.{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(openat(dir, &fresh, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file.write_all(bytes).and_then(|()| Ok(renameat(dir, &fresh, dir, name)?));
    if written.is_err() {
        let _: rustix::io::Result<()> = unlinkat(dir, &fresh, AtFlags::empty());
    }
    written
}

/// Adds where criu says more, with what its log calls the first error; all of them go to ours.
fn explain(error: Error, dirs: &Dirs, options: &Options, log: &str) -> Error {
    // There is no such file where criu did not start.
    let Ok(bytes) = read_in(dirs.work(), log, MAX_LOG) else { return error };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("Error")).collect();
    let path = options.work.as_ref().unwrap_or(&options.images).join(log);
    for line in &lines {
        tracing::debug!("{}: {line}", path.display());
    }
    // The first is the cause of those after it. That it may not raise its limit of files stops nothing.
    let cause = lines.iter().find(|line| !line.contains("RLIMIT_NOFILE")).copied().unwrap_or("no error there");
    Error::new(error.kind(), format!("{error}: see {}: {cause}", path.display()))
}

fn refuse_parent(parent: &str, images: &Path) -> Result<()> {
    const FLAG: &str = "--parent-path";
    if Path::new(parent).is_absolute() {
        return Err(Error::new(Kind::Invalid, "--parent-path must be relative to the images"));
    }
    let at = images.join(parent);
    match std::fs::metadata(&at) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::invalid(FLAG, format!("invalid --parent-path: {}: not a directory", at.display()))),
        Err(error) => {
            Err(Error::from(error).at(at.display().to_string())).map_err(|error| error.at("invalid --parent-path"))
        }
    }
}
