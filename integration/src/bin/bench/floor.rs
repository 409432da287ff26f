//! The floor: what the kernel alone costs for an ordinary container. The same namespaces, mounts (masked and read-only paths
//! are mounts too), pivot and execution, and nothing around them: no configuration, cgroup, devices, filter, record or check.
//! Made of safe calls only, so there is one more start of a static program in it than there has to be.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use integration::spec;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Makes the namespaces and starts the other half in them.
pub(crate) fn outside(rootfs: &str) -> ExitCode {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .expect("unshare");
    let status = Command::new("/proc/self/exe").args(["floor-init", rootfs]).status().expect("start the inner half");
    ExitCode::from(status.code().unwrap_or(1) as u8)
}

/// The mounts of an ordinary container, then its program.
pub(crate) fn inside(rootfs: &str) -> ExitCode {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("make mounts private");
    mount(Some(rootfs), rootfs, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).expect("bind the root");
    let at = |path: &str| format!("{rootfs}{path}");
    mount(Some("proc"), at("/proc").as_str(), Some("proc"), flags, none).expect("proc");
    mount(Some("tmpfs"), at("/dev").as_str(), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=65536k"))
        .expect("dev");
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        std::fs::create_dir(at(dir)).expect("a directory in /dev");
    }
    let options = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount(Some("devpts"), at("/dev/pts").as_str(), Some("devpts"), flags, options).expect("devpts");
    mount(Some("shm"), at("/dev/shm").as_str(), Some("tmpfs"), flags, Some("mode=1777,size=65536k")).expect("shm");
    mount(Some("mqueue"), at("/dev/mqueue").as_str(), Some("mqueue"), flags, none).expect("mqueue");
    mount(Some("sysfs"), at("/sys").as_str(), Some("sysfs"), flags | MsFlags::MS_RDONLY, none).expect("sysfs");
    mask(&at);
    nix::unistd::sethostname("floor").expect("hostname");
    std::env::set_current_dir(rootfs).expect("enter the root");
    nix::unistd::pivot_root(".", ".").expect("pivot_root");
    umount2(".", MntFlags::MNT_DETACH).expect("leave the old root");
    let error = Command::new("/bin/busybox").arg0("true").exec();
    eprintln!("floor: {error}");
    ExitCode::FAILURE
}

/// The paths that an ordinary container does not see, or not write, as far as this machine has them.
fn mask(at: &dyn Fn(&str) -> String) {
    let none: Option<&str> = None;
    for path in spec::MASKED.map(at) {
        let Ok(found) = std::fs::metadata(&path) else { continue };
        if found.is_dir() {
            let flags = MsFlags::MS_RDONLY;
            mount(Some("tmpfs"), path.as_str(), Some("tmpfs"), flags, Some("nr_blocks=1,nr_inodes=1")).expect("mask");
        } else {
            mount(Some("/dev/null"), path.as_str(), none, MsFlags::MS_BIND, none).expect("mask");
        }
    }
    for path in spec::READONLY.map(at) {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        if std::fs::exists(&path).is_ok_and(|found| found) {
            mount(Some(path.as_str()), path.as_str(), none, bind, none).expect("bind");
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(none, path.as_str(), none, flags, none).expect("read-only");
        }
    }
}
