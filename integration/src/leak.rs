//! What a test left behind: mounts, cgroups and processes that bear its id.

use std::fs;
use std::path::{Path, PathBuf};

/// Everything on the machine that bears this id, one line each. Our own process and its parents do not count.
pub fn find(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(mounts(id).into_iter().map(|at| format!("mount {}", at.display())));
    found.extend(cgroups(id).into_iter().map(|dir| format!("cgroup {}", dir.display())));
    found.extend(processes(id).into_iter().map(|pid| format!("process {pid} {}", describe(pid))));
    found
}

/// Mount points in the calling thread's namespace whose line has the id, innermost first.
pub fn mounts(id: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("the mount table");
    let mut at: Vec<PathBuf> = table
        .lines()
        .filter(|line| line.contains(id))
        .filter_map(|line| line.split(' ').nth(4).map(|p| PathBuf::from(p.replace("\\040", " "))))
        .collect();
    at.reverse();
    at
}

/// Cgroup directories with the id in their path, innermost first.
pub fn cgroups(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(Path::new("/sys/fs/cgroup"), id, false, 0, &mut found);
    found
}

fn collect(dir: &Path, id: &str, inside: bool, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        let matches = inside || entry.file_name().to_string_lossy().contains(id);
        if depth < 12 {
            collect(&entry.path(), id, matches, depth + 1, found);
        }
        if matches && is_cgroup(&entry.path()) {
            found.push(entry.path());
        }
    }
}

/// Not what a runtime writes into a directory that merely covers a hierarchy.
fn is_cgroup(dir: &Path) -> bool {
    const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs(dir).is_ok_and(|fs| [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&fs.f_type))
}

/// Processes with the id in their command line, environment or cgroup. Zombies that are ours to reap are reaped first.
pub fn processes(id: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return found;
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let bears = |file: &str| {
            fs::read(entry.path().join(file)).is_ok_and(|bytes| bytes.windows(id.len()).any(|w| w == id.as_bytes()))
        };
        if pid != own && (bears("cmdline") || bears("environ") || bears("cgroup")) {
            reap(pid);
            if entry.path().exists() {
                found.push(pid);
            }
        }
    }
    found
}

/// Takes a dead child's status, if it is our child and dead.
pub fn reap(pid: i32) {
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let _ = waitpid(nix::unistd::Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}

/// Takes the status of one dead child, whoever it was. Tells whether there was one.
pub fn reap_any() -> bool {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_))
}

fn describe(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = state.rsplit_once(") ").map_or("?", |(_, rest)| rest.get(..1).unwrap_or("?")).to_owned();
    format!("({state}) {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Removes by force what [`find`] finds, so that one failed test does not fail those after it.
pub fn remove(id: &str) {
    for pid in processes(id) {
        if let Some(process) = rustix::process::Pid::from_raw(pid) {
            // A descriptor is taken first, and the id looked at again: the number may have been given anew.
            let Ok(fd) = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()) else {
                continue;
            };
            if processes(id).contains(&pid) {
                let _ = rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::KILL);
                crate::wait::readable(std::os::fd::AsFd::as_fd(&fd), std::time::Duration::from_secs(5));
                reap(pid);
            }
        }
    }
    for at in mounts(id) {
        let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
    }
    for dir in cgroups(id) {
        let frozen = dir.join("freezer.state");
        if frozen.exists() {
            let _ = fs::write(frozen, "THAWED");
        }
        let _ = fs::remove_dir(&dir);
    }
}
