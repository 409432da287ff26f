//! Devices: those that every container has, those that were asked for, and the refusal of all others.

use std::os::unix::fs::FileTypeExt;

use integration::case::Case;
use integration::not_on;
use serde_json::json;

/// The device filter is tested on whatever the host has, and on cgroup v2 alone, where it is a BPF program.
fn on_both(test: impl Fn(&mut Case)) {
    test(&mut Case::new());
    let peer_cannot = {
        let case = Case::new();
        case.runtime.is("crun version 1.8.1")
    };
    if !peer_cannot {
        test(&mut Case::on_v2());
    }
}

#[test]
fn every_container_has_the_standard_devices() {
    let mut case = Case::new();
    case.attempts(&[
        ("stat /dev/null", Ok("char 666 0 0 1:3")),
        ("stat /dev/zero", Ok("char 666 0 0 1:5")),
        ("stat /dev/full", Ok("char 666 0 0 1:7")),
        ("stat /dev/random", Ok("char 666 0 0 1:8")),
        ("stat /dev/urandom", Ok("char 666 0 0 1:9")),
        ("stat /dev/tty", Ok("char 666 0 0 5:0")),
        ("readlink /dev/fd", Ok("/proc/self/fd")),
        ("readlink /dev/stdin", Ok("/proc/self/fd/0")),
        ("readlink /dev/stdout", Ok("/proc/self/fd/1")),
        ("readlink /dev/stderr", Ok("/proc/self/fd/2")),
        ("readlink /dev/ptmx", Ok("pts/ptmx")),
        ("open /dev/null", Ok("")),
        ("openw /dev/null", Ok("")),
        ("open /dev/urandom", Ok("")),
        ("write /dev/full x", Err("ENOSPC")),
        ("open /dev/ptmx", Ok("")),
    ]);
    assert!(!case.rootfs().join("dev/null").exists(), "they are on the container's own /dev");
}

#[test]
fn other_devices_are_denied_though_their_nodes_can_be_made() {
    on_both(|case| {
        case.attempts(&[
            // /dev/kmsg and the first loop device: there on every machine, no container's business.
            ("mknod /tmp/kmsg c 1 11", Ok("")),
            ("open /tmp/kmsg", Err("EPERM")),
            ("openw /tmp/kmsg", Err("EPERM")),
            ("mknod /tmp/disk b 7 0", Ok("")),
            ("open /tmp/disk", Err("EPERM")),
            ("mknod /tmp/null c 1 3", Ok("")),
            ("openw /tmp/null", Ok("")),
            ("mknod /tmp/mem c 1 1", Ok("")),
            ("open /tmp/mem", Err("EPERM")),
        ]);
    });
}

#[test]
fn a_rule_allows_exactly_what_it_says() {
    on_both(|case| {
        case.spec["linux"]["resources"]["devices"] = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "w" },
        ]);
        case.attempts(&[
            ("mknod /tmp/kmsg c 1 11", Ok("")),
            ("openw /tmp/kmsg", Ok("")),
            ("open /tmp/kmsg", Err("EPERM")),
        ]);
    });
}

#[test]
fn a_later_rule_takes_back_what_an_earlier_one_gave() {
    on_both(|case| {
        not_on!(case, "crun", "keeps the standard devices open whatever the rules say");
        case.spec["linux"]["resources"]["devices"] = json!([
            { "allow": true, "access": "rwm" },
            { "allow": false, "type": "c", "major": 1, "minor": 11, "access": "rw" },
        ]);
        case.attempts(&[
            ("mknod /tmp/kmsg c 1 11", Ok("")),
            ("open /tmp/kmsg", Err("EPERM")),
            // Nothing has number 1:250: a filter would say EPERM, the kernel says ENXIO.
            ("mknod /tmp/other c 1 250", Ok("")),
            ("open /tmp/other", Err("ENXIO")),
        ]);
    });
}

#[test]
fn all_devices_are_open_when_everything_is_allowed() {
    on_both(|case| {
        case.spec["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
        case.attempts(&[("mknod /tmp/kmsg c 1 11", Ok("")), ("openw /tmp/kmsg", Ok(""))]);
    });
}

#[test]
fn the_filter_holds_for_exec_too() {
    on_both(|case| {
        case.hold();
        case.exec_attempts(&[
            ("mknod /tmp/kmsg c 1 11", Ok("")),
            ("open /tmp/kmsg", Err("EPERM")),
            ("openw /dev/null", Ok("")),
        ]);
    });
}

#[test]
fn devices_that_were_asked_for_are_made_and_usable() {
    let mut case = Case::new();
    case.spec["linux"]["devices"] = json!([
        { "path": "/dev/zwei", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 10, "gid": 20 },
        { "path": "/dev/sub/dir/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o600 },
        { "path": "/dev/pipe", "type": "p", "fileMode": 0o600 },
        { "path": "/dev/blk", "type": "b", "major": 7, "minor": 99, "fileMode": 0o600 },
    ]);
    case.spec["linux"]["resources"]["devices"] = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm" },
    ]);
    case.attempts(&[
        ("stat /dev/zwei", Ok("char 640 10 20 1:5")),
        ("open /dev/zwei", Ok("")),
        ("stat /dev/sub/dir/kmsg", Ok("char 600 0 0 1:11")),
        ("openw /dev/sub/dir/kmsg", Ok("")),
        ("stat /dev/pipe", Ok("fifo 600 0 0 0:0")),
        ("stat /dev/blk", Ok("block 600 0 0 7:99")),
        ("open /dev/blk", Err("EPERM")),
    ]);
}

#[test]
fn in_a_user_namespace_devices_are_the_hosts_nodes() {
    let mut case = Case::new();
    case.user_namespace();
    case.attempts(&[
        ("openw /dev/null", Ok("")),
        ("open /dev/urandom", Ok("")),
        ("stat /dev/null", Ok("char 666 65534 65534 1:3")),
        ("openw /dev/full", Ok("")),
    ]);
    // The files under the nodes are made in the container's own /dev, not in the root file system.
    let node = case.rootfs().join("dev/null");
    assert!(!node.exists() || !node.metadata().unwrap().file_type().is_char_device());
}

#[test]
fn the_hosts_null_device_stays_the_hosts() {
    use std::os::unix::fs::MetadataExt;
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "gives the host's device to the container's user");
    not_on!(case, "crun", "gives the host's device to the container's user");
    case.user_namespace();
    case.args(&["/probe", "exit", "0"]).write();
    let before = std::fs::metadata("/dev/null").unwrap();
    let mut command = case.command();
    command.args(["run", "--bundle"]).arg(case.bundle()).arg(&case.id).stdin(std::process::Stdio::null());
    integration::command::run(&mut command, &case.files()).ok();
    let after = std::fs::metadata("/dev/null").unwrap();
    assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
}
