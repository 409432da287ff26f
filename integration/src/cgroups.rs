//! The cgroup version that a test runs on, and the files of a container's cgroup.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::report::Mount;

/// What is mounted on /sys/fs/cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Version 1 hierarchies alone.
    V1,
    /// Version 1 hierarchies that have the controllers, and a version 2 hierarchy beside them.
    Hybrid,
    /// Version 2 alone.
    V2,
}

/// What the calling thread sees now.
pub fn mode() -> Mode {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        Mode::V2
    } else if mounts().iter().any(|m| m.kind == "cgroup2") {
        Mode::Hybrid
    } else {
        Mode::V1
    }
}

fn mounts() -> Vec<Mount> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("the mount table");
    table.lines().filter_map(Mount::parse).collect()
}

/// Whether the containers' cgroups are to be scopes that systemd makes.
pub fn by_systemd() -> bool {
    std::env::var("TARE_TEST_DRIVER").is_ok_and(|driver| driver == "systemd")
}

thread_local! {
    /// The test itself has chosen: what the environment asks for does not count any more.
    static CHOSEN: Cell<bool> = const { Cell::new(false) };
}

/// Moves the calling thread, and what it starts, to the mode that `TARE_TEST_CGROUPS` asks for.
pub fn enter_asked() {
    if CHOSEN.get() {
        return;
    }
    match std::env::var("TARE_TEST_CGROUPS").as_deref() {
        Ok("v1") => enter_v1(),
        Ok("v2") => enter_v2(),
        Ok("") | Err(_) => {}
        Ok(other) => panic!("TARE_TEST_CGROUPS={other}: v1 or v2"),
    }
}

/// Gives the calling thread a mount namespace with version 2 alone. It dies with the thread; the machine sees nothing of it.
pub fn enter_v2() {
    CHOSEN.set(true);
    if mode() == Mode::V2 {
        return;
    }
    leave_shared_mounts();
    // Top down in one go: the hierarchies stay mounted for everybody else.
    umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).expect("detach /sys/fs/cgroup");
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), None::<&str>).expect("mount cgroup2");
}

/// The same with version 1 alone: the hybrid's version 2 is covered by an empty directory.
pub fn enter_v1() {
    match mode() {
        Mode::V1 => {}
        Mode::V2 => panic!("this machine has cgroup v2 only: TARE_TEST_CGROUPS=v1 cannot be had"),
        Mode::Hybrid => {
            leave_shared_mounts();
            let unified = mounts().into_iter().find(|m| m.kind == "cgroup2").expect("a cgroup2 mount").at;
            umount2(unified.as_str(), MntFlags::empty()).expect("unmount cgroup2");
            mount(Some("tmpfs"), unified.as_str(), Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("cover it");
        }
    }
}

/// Gives the calling thread mounts of its own, which nobody else sees change.
pub fn leave_shared_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare the mount namespace (the tests run as root)");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("make mounts private");
}

/// The directory of a process's cgroup that holds this controller's files, if the controller is there at all.
pub fn dir(pid: i32, controller: &str) -> Option<PathBuf> {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let (wanted, mounted) = if mode() == Mode::V2 {
        ("0::".to_owned(), "/sys/fs/cgroup".to_owned())
    } else {
        let mount =
            mounts().into_iter().find(|m| m.kind == "cgroup" && m.fs_options.iter().any(|o| o == controller))?;
        (format!("{controller}:"), mount.at)
    };
    let path = lines.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let hit = if wanted == "0::" { line.starts_with("0::") } else { names.split(',').any(|n| n == controller) };
        hit.then(|| path.to_owned())
    })?;
    let dir = PathBuf::from(mounted).join(path.trim_start_matches('/'));
    if wanted == "0::" {
        let available = fs::read_to_string(dir.join("cgroup.controllers")).ok()?;
        available.split_whitespace().any(|c| c == controller).then_some(dir)
    } else {
        Some(dir)
    }
}

/// Content of a file in a process's cgroup, trimmed; `names` are its version 1 and version 2 names.
pub fn value(pid: i32, controller: &str, names: (&str, &str)) -> Option<String> {
    let name = if mode() == Mode::V2 { names.1 } else { names.0 };
    let path = dir(pid, controller)?.join(name);
    Some(fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned())
}

/// Whether a container of this machine can be given limits of this controller.
pub fn has(controller: &str) -> bool {
    if mode() == Mode::V2 {
        let all = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        all.split_whitespace().any(|c| c == controller)
    } else {
        mounts().iter().any(|m| m.kind == "cgroup" && m.fs_options.iter().any(|o| o == controller))
    }
}
