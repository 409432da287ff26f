//! The directory of one build: what it mounts, unpacks and runs is below it, in a mount namespace of its own.
//!
//! ```text
//! STORE/tmp/build-ID/
//!   lock          held while the build lives; what nobody holds was left by a build that was killed
//!   N/            work directories of overlays, contexts that had to be unpacked
//!   memory/       a tmpfs: bundles of steps, and with them every secret
//!   state/        the runtime's state
//! ```

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::bundle::{down_after_death, mount_stack, unmount_stack};
use crate::error::{Error, Result, Step, tell};
use crate::layer::{OverlayForm, Powers, remove_all};
use crate::layout::{Hold, Layer, Store, random_hex};

const PREFIX: &str = "build-";
/// How long a runtime may take to delete a container that a build left. Its processes are dead already.
const PATIENCE: Duration = Duration::from_secs(10);

/// A build's directory, as the process that guards it has it.
pub(crate) struct Claim {
    pub(crate) directory: PathBuf,
    _lock: File,
    /// What is in `tmp` is somebody's as long as this is held.
    _hold: Hold,
}

/// Makes the directory of a new build, and clears away what builds left that were killed.
pub(crate) fn claim(store: &Store, runtime: Option<&Path>) -> Result<Claim> {
    let tmp = store.path("tmp");
    if let Some(_alone) = store.alone()? {
        for entry in fs::read_dir(&tmp).with(|| format!("read {}", tmp.display()))?.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let _ = remove_all(&entry.path());
            }
        }
    }
    let hold = store.hold()?;
    // One at a time: between its making and its locking a directory looks like one that was left.
    let turn = File::open(&tmp).and_then(|tmp| tmp.lock().map(|()| tmp)).with(|| format!("lock {}", tmp.display()))?;
    let left = left(&tmp)?;
    let directory = tmp.join(format!("{PREFIX}{}", random_hex(12)?));
    let make = || -> Result<File> {
        DirBuilder::new().mode(0o700).create(&directory)?;
        let lock = File::create(directory.join("lock"))?;
        lock.lock()?;
        for name in ["memory", "state"] {
            DirBuilder::new().mode(0o700).create(directory.join(name))?;
        }
        Ok(lock)
    };
    let lock = make().with(|| format!("mkdir {}", directory.display()))?;
    drop(turn);
    // Others need not wait for this; whose lock is held here nobody else clears away.
    for (directory, _lock) in left {
        clear(&directory, runtime);
    }
    Ok(Claim { directory, _lock: lock, _hold: hold })
}

/// Directories of builds that were killed, locked.
fn left(tmp: &Path) -> Result<Vec<(PathBuf, File)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(tmp).with(|| format!("read {}", tmp.display()))?.flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let lock = match File::open(path.join("lock")) {
            // Killed before it was more than a directory.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => File::create(path.join("lock")),
            lock => lock,
        };
        if let Ok(lock) = lock
            && lock.try_lock().is_ok()
        {
            all.push((path, lock));
        }
    }
    Ok(all)
}

/// Takes away `path` in the store's `tmp` if a build left it; says whether that is so. The caller is alone in the store.
pub(crate) fn clear_left(path: &Path) -> bool {
    let is_builds = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    if is_builds {
        clear(path, super::runtime(None).ok().as_deref());
    }
    is_builds
}

/// Takes away what a build left: first its containers' cgroups, by the runtime that made them.
pub(crate) fn clear(directory: &Path, runtime: Option<&Path>) {
    let state = directory.join("state");
    let left = fs::read_dir(&state).into_iter().flatten().flatten();
    for entry in left {
        if let Some(runtime) = runtime {
            let mut command = Command::new(runtime);
            command.arg("--root").arg(&state).args(["delete", "--force"]).arg(entry.file_name());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            match within(&mut command, PATIENCE) {
                Ok(true) | Err(_) => {} // the cgroups are looked for below whatever became of it
                Ok(false) => {
                    let (runtime, name) = (runtime.display(), entry.file_name());
                    let seconds = PATIENCE.as_secs();
                    tell(format_args!(
                        "imgtool: what a build left: {runtime} delete {}: not done in {seconds} seconds",
                        name.display()
                    ));
                }
            }
        }
    }
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with(PREFIX) {
        clear_cgroups(&format!("{name}-"));
    }
    // The runtime calls hooks in the bundle, which went with the build's mounts; or it was killed before it had a record of any.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Err(e) = down_after_death(&entry.path()) {
            tell(format_args!("imgtool: what a build left: network: {e}"));
        }
    }
    // Layers that it had begun.
    let drafts = format!("layer-{name}-");
    for entry in directory.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&drafts) {
            let _ = remove_all(&entry.path());
        }
    }
    let _ = remove_all(directory);
}

/// Runs a program to its end, or kills it when it takes longer than this. Says whether it came to its end.
fn within(command: &mut Command, time: Duration) -> Result<bool> {
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| Error::other("no pid"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let ended = |time: Duration| -> Result<bool> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                found => return Ok(found.map_err(std::io::Error::from)? > 0),
            }
        }
    };
    let came = ended(time)?;
    if !came {
        child.kill()?;
    }
    // One that not even a kill ends is waited for by whoever comes after us.
    if came || ended(Duration::from_secs(1))? {
        child.wait()?;
    }
    Ok(came)
}

/// A runtime that was killed while it made a container has no record of it yet, but may have made its cgroup: beside or below
/// the one that it was in, or at the top.
fn clear_cgroups(prefix: &str) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let above: BTreeSet<&Path> = own.flat_map(|path| Path::new(path).ancestors()).collect();
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    for (mount, kind) in table.lines().filter_map(|line| line.split_once(" - ")) {
        let mut fields = mount.split(' ').skip(3);
        let (Some(root), Some(at), true) = (fields.next(), fields.next(), kind.starts_with("cgroup")) else { continue };
        let shown = above.iter().filter_map(|path| path.strip_prefix(root).ok());
        for entry in shown.flat_map(|path| fs::read_dir(Path::new(at).join(path)).into_iter().flatten().flatten()) {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                remove_cgroup(&entry.path());
            }
        }
    }
}

/// Removes a cgroup whose processes are gone, and those below it.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// The same directory, as the process that builds has it.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) directory: PathBuf,
    next: AtomicU64,
    powers: Powers,
}

impl Workspace {
    /// Enters the directory: from now on mounts are seen by this process and its children alone.
    pub(crate) fn enter(directory: &Path, powers: Powers) -> Result<Self> {
        let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", flags).at("make mounts private")?;
        // In this process's pid namespace: the old one shows it nothing of itself.
        let plain = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
        mount("proc", "/proc", "proc", plain, None).at("mount /proc")?;
        let memory = directory.join("memory");
        mount("tmpfs", &memory, "tmpfs", plain, c"mode=700").with(|| format!("mount {}", memory.display()))?;
        Ok(Self { directory: directory.to_owned(), next: AtomicU64::new(0), powers })
    }

    /// What may be done to files that are unpacked here.
    pub(crate) fn powers(&self) -> Powers {
        self.powers
    }

    pub(crate) fn form(&self) -> OverlayForm {
        self.powers.overlay
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A name for a layer that is begun, by which the guard knows whose it is.
    pub(crate) fn draft_name(&self) -> Result<String> {
        let own = self.directory.file_name().unwrap_or_default().to_string_lossy();
        Ok(format!("{own}-{}", random_hex(12)?))
    }

    /// A new directory on the store's file system.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        let path = self.directory.join(self.number().to_string());
        DirBuilder::new().mode(0o700).create(&path).with(|| format!("mkdir {}", path.display()))?;
        Ok(path)
    }

    /// The name of a new container: by it the guard knows what is left of the build.
    pub(crate) fn container(&self) -> String {
        let name = self.directory.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}-{}", self.number())
    }

    /// A new directory in memory.
    pub(crate) fn memory(&self) -> Result<PathBuf> {
        let path = self.directory.join("memory").join(self.number().to_string());
        DirBuilder::new().mode(0o700).create(&path).with(|| format!("mkdir {}", path.display()))?;
        Ok(path)
    }

    /// Mounts layers so that they can be read and written; what is written goes to `upper`, or nowhere.
    pub(crate) fn mount(&self, layers: &[Layer], top: Option<&Path>, upper: Option<&Path>) -> Result<Mounted> {
        let own = self.directory()?;
        let make = |name: &str, mode: u32| -> Result<PathBuf> {
            let path = own.join(name);
            DirBuilder::new().mode(mode).create(&path).with(|| format!("mkdir {}", path.display()))?;
            Ok(path)
        };
        let (target, work, empty) = (make("rootfs", 0o755)?, make("work", 0o700)?, make("empty", 0o755)?);
        let upper = match upper {
            Some(upper) => upper.to_owned(),
            None => make("upper", 0o755)?,
        };
        mount_stack(layers, top, &upper, &work, &empty, &target, self.form())?;
        Ok(Mounted { own, target })
    }
}

/// A mounted root file system; it goes with this.
#[derive(Debug)]
pub(crate) struct Mounted {
    own: PathBuf,
    pub(crate) target: PathBuf,
}

impl Mounted {
    /// Unmounts it, and says so if that fails: the layer must not be read before all is written.
    pub(crate) fn unmount(self) -> Result<()> {
        unmount_stack(&self.target).map_err(|e| Error::other(format!("a process of the step is still there: {e}")))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A second time it finds nothing.
        let _ = unmount_stack(&self.target);
        let _ = remove_all(&self.own);
    }
}
