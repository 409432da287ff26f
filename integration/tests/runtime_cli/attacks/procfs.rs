//! A `/proc` that is not what it seems: what is written there, or read, is then a lie.

use std::fs;
use std::os::unix::fs::symlink;

use integration::case::Case;
use integration::not_on;
use serde_json::json;

use super::{outside, untouched};

#[test]
fn cve_2019_19921_proc_that_is_a_symlink() {
    let mut case = Case::new();
    let outside = outside(&case);
    fs::remove_dir(case.rootfs().join("proc")).unwrap();
    symlink("/tmp", case.rootfs().join("proc")).unwrap();
    case.args(&["/probe", "report"]);
    let out = case.run();
    untouched(&outside);
    assert_ne!(out.code, 0, "a /proc elsewhere would make every later check of /proc worthless: {out}");
    case.nothing_left();
}

#[test]
fn cve_2019_16884_proc_that_is_no_procfs() {
    // With a forged /proc, what is written to /proc/self/attr/exec or read from /proc/self is a lie.
    let mut case = Case::new();
    not_on!(case, "crun", "mounts what it is told to");
    let forged = case.dir.join("forged");
    fs::create_dir_all(forged.join("self/attr")).unwrap();
    case.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/proc");
    case.mount("/proc", "bind", forged.to_str().unwrap(), &["bind"]);
    case.args(&["/probe", "say", "x"]);
    let out = case.run();
    assert_ne!(out.code, 0, "{out}");
    case.nothing_left();
    // And nothing is mounted on what lies in it.
    case.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/proc");
    case.mount("/proc", "proc", "proc", &[]);
    case.mount("/proc/self/attr", "bind", forged.to_str().unwrap(), &["bind"]);
    let out = case.run();
    assert_ne!(out.code, 0, "{out}");
    case.nothing_left();
}

#[test]
fn cve_2023_28642_proc_and_sys_by_symlinks_in_the_root() {
    // Where the link leads within the root, all would work, but what is at /proc later is the image's to say: a label or a
    // profile is written to files that it made.
    for name in ["proc", "sys"] {
        for target in ["/mnt", "mnt/missing"] {
            let mut case = Case::new();
            not_on!(case, "crun", "mounts where the link leads, within the root");
            fs::remove_dir(case.rootfs().join(name)).unwrap();
            symlink(target, case.rootfs().join(name)).unwrap();
            case.args(&["/probe", "say", "x"]);
            case.run().refused(&["must be mounted on ordinary directory"]);
            case.nothing_left();
        }
    }
}

#[test]
fn cve_2025_52881_labels_and_settings_written_elsewhere() {
    // A setting is written to /proc/sys in the container: what lies there must be the kernel's.
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "writes to what is mounted there");
    not_on!(case, "crun", "writes to what is mounted there");
    let outside = outside(&case);
    let forged = case.dir.join("forged");
    fs::create_dir_all(&forged).unwrap();
    fs::write(forged.join("ip_forward"), "0").unwrap();
    case.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    // Which would be in the way of who writes by a path.
    case.spec["linux"]["readonlyPaths"] = json!([]);
    let mounts = case.spec["mounts"].clone();
    case.mount("/proc/sys/net/ipv4", "bind", forged.to_str().unwrap(), &["bind"]);
    case.run().refused(&["inside /proc"]);
    case.nothing_left();
    // Whoever wins a race has it there all the same: here by a hook, which runs in the container's mounts.
    case.spec["mounts"] = mounts;
    let script = format!("mount --bind {} {}/proc/sys/net/ipv4", forged.display(), case.rootfs().display());
    case.spec["hooks"] = json!({ "createContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }] });
    case.hold();
    case.exec_attempts(&[("read /proc/sys/net/ipv4/ip_forward", Ok("0"))]);
    assert_eq!(fs::read_to_string(forged.join("ip_forward")).unwrap(), "0", "written to a file of the host");
    let pid = case.pid().to_string();
    let kernels = ["--net", "--target", &pid, "cat", "/proc/sys/net/ipv4/ip_forward"];
    assert_eq!(integration::command::tool("nsenter", &kernels).ok().stdout, "1\n");
    untouched(&outside);
}

#[test]
fn cve_2023_27561_proc_through_a_link_into_a_volume() {
    // Two containers share a volume, and the image's /proc is a link into it: what the one finds there, the other makes.
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let mut case = Case::new();
        let volume = case.dir.join("volume");
        fs::create_dir_all(volume.join(name)).unwrap();
        fs::remove_dir(case.rootfs().join(name)).unwrap();
        symlink(format!("/mnt/volume/{name}"), case.rootfs().join(name)).unwrap();
        let volume = json!({ "destination": "/mnt/volume", "type": "bind", "source": volume, "options": ["bind"] });
        case.spec["mounts"].as_array_mut().unwrap().insert(0, volume);
        case.args(&["/probe", "say", "x"]);
        let out = case.run();
        assert_ne!(out.code, 0, "a {kind} in a shared volume: {out}");
        case.nothing_left();
    }
}

#[test]
fn cve_2025_52881_nothing_is_mounted_into_proc_by_a_link() {
    let mut case = Case::new();
    not_on!(case, "crun", "mounts what it is told to");
    let forged = case.dir.join("forged");
    fs::create_dir_all(&forged).unwrap();
    for (n, target) in ["/proc/self/attr", "/proc/sys/net", "/proc/1"].iter().enumerate() {
        let link = format!("/mnt/link{n}");
        symlink(target, case.rootfs().join(&link[1..])).unwrap();
        let mounts = case.spec["mounts"].clone();
        case.mount(&link, "bind", forged.to_str().unwrap(), &["bind"]);
        case.args(&["/probe", "say", "x"]);
        let out = case.run();
        assert_ne!(out.code, 0, "{target} is covered: {out}");
        case.nothing_left();
        case.spec["mounts"] = mounts;
    }
}
