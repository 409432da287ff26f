//! Containers that get more than their configuration gives them.

use integration::case::Case;
use integration::not_on;
use serde_json::json;

/// The kernel's limit of lines in a map (`UID_GID_MAP_MAX_EXTENTS`).
const MAP_LINES: u32 = 340;

/// A short number: the lines have to be less than a page.
const FIRST: u32 = 2000;

fn maps(case: &mut Case, lines: u32) {
    let map: Vec<_> = (0..lines).map(|n| json!({ "containerID": n, "hostID": FIRST + n, "size": 1 })).collect();
    case.spec["linux"]["uidMappings"] = json!(map);
    case.spec["linux"]["gidMappings"] = json!(map);
}

#[test]
fn cve_2021_43784_fields_too_long_for_what_carries_them() {
    // Long values ran over the 16 bits of a length once, and what followed them was taken for other settings.
    let mut case = Case::new();
    case.user_namespace();
    integration::case::give(&case.rootfs(), FIRST);
    maps(&mut case, MAP_LINES);
    case.args(&["/probe", "try", "read /proc/self/uid_map", "read /proc/self/gid_map"]);
    let out = case.run().ok();
    for outcome in out.outcomes() {
        assert_eq!(outcome.value.lines().count(), MAP_LINES as usize, "{outcome:?}");
    }
    // More than that: not a part of them, and not none.
    for lines in [MAP_LINES + 1, 4000] {
        maps(&mut case, lines);
        let out = case.run();
        assert_ne!(out.code, 0, "{lines} lines: {out}");
        if !out.peer {
            // runc's first stage stays for a moment longer than runc itself.
            assert!(out.stderr.len() < 1000, "{out}");
            case.nothing_left();
        }
    }
    let mut case = Case::new();
    for length in [4096, 65_536, 70_000] {
        case.namespace("uts", Some(&format!("/{}", "x".repeat(length))));
        let out = case.run();
        assert_ne!(out.code, 0, "a path of {length} bytes");
        case.nothing_left();
    }
}

#[test]
fn cve_2022_29162_no_capability_is_inherited() {
    let case = Case::new();
    not_on!(case, "runc version 1.1", "the list of inheritable ones is what the flag adds to");
    case.hold();
    let report = case.exec(&["/probe", "report"]).ok().report();
    assert_eq!((report.caps.inheritable, report.caps.ambient), (0, 0), "{:?}", report.caps);
    for flags in [&["--cap", "CAP_SYS_TIME"][..], &["--cap", "CAP_SYS_TIME", "--user", "1000:1000"]] {
        let report = case.exec_with(flags, &["/probe", "report"]).ok().report();
        assert_eq!((report.caps.inheritable, report.caps.ambient), (0, 0), "{flags:?}: {:?}", report.caps);
    }
}

#[test]
fn cve_2023_25809_the_hosts_cgroups_are_not_writable() {
    // Without a cgroup namespace, and with the host's /sys bound in one piece, what is read-only must be so below as well.
    let mut case = Case::new();
    case.without_namespace("cgroup");
    for mount in case.spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys" {
            *mount = json!({ "destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"] });
        }
    }
    let report = case.report();
    let on_top: Vec<_> = report
        .mounts
        .iter()
        .filter(|mount| mount.at.starts_with("/sys/fs/cgroup") && mount.kind.starts_with("cgroup"))
        .map(|mount| mount.at.clone())
        .collect();
    assert!(!on_top.is_empty(), "{:?}", report.mounts);
    let attempts: Vec<String> = on_top.iter().map(|at| format!("mkdir {at}/{}-evil", case.id)).collect();
    let mut args = vec!["/probe", "try"];
    args.extend(attempts.iter().map(String::as_str));
    case.args(&args);
    for outcome in case.run().ok().outcomes() {
        // One that is covered by another does not exist for the container.
        assert!(matches!(outcome.errno.as_deref(), Some("EROFS" | "ENOENT")), "{outcome:?}");
    }
    case.nothing_left();
}

#[test]
fn cve_2026_30892_a_user_of_exec_is_the_one_that_was_named() {
    let case = Case::new();
    case.hold();
    for (user, uid, gid) in [("1", 1, 0), ("1000", 1000, 0), ("1000:2", 1000, 2), ("0:7", 0, 7)] {
        let report = case.exec_with(&["--user", user], &["/probe", "report"]).ok().report();
        assert_eq!((&report.uid[..], &report.gid[..]), (&[uid; 4][..], &[gid; 4][..]), "{user}");
    }
    not_on!(case, "crun", "takes some of these for 0");
    not_on!(case, "runc", "takes an empty part for none");
    for user in [":", "1:", ":1", "1x", "x1", "-1", " 1", "1 ", "1:2:3", "4294967295", "4294967296", "1:4294967296"] {
        let out = case.exec_with(&["--user", user], &["/probe", "report"]);
        assert_ne!(out.code, 0, "{user:?}: {out}");
    }
}

#[test]
fn a_device_number_is_not_cut_down_to_another() {
    // 4097 in the twelve bits of a major number is 1: that of the null device, and of memory.
    let mut case = Case::new();
    not_on!(case, "runc", "makes the other device");
    case.spec["linux"]["devices"] = json!([{ "path": "/dev/other", "type": "c", "major": 4097, "minor": 3 }]);
    case.args(&["/probe", "try", "stat /dev/other"]);
    let out = case.run();
    if out.code == 0 {
        let value = &out.outcomes()[0].value;
        assert!(out.peer && !value.ends_with(" 1:3"), "{value}");
    }
    case.nothing_left();
}
