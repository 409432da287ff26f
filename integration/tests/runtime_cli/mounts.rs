//! Mounts: every kind, their options and propagation, their order, and what is hidden or read-only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use integration::case::Case;
use integration::{cgroups, command, not_on};
use serde_json::json;

/// A directory on the host, with one file, for bind mounts.
fn shared(case: &Case) -> String {
    let dir = case.dir.join("shared");
    fs::create_dir_all(dir.join("inner")).unwrap();
    fs::write(dir.join("file"), "from the host").unwrap();
    dir.to_str().unwrap().to_owned()
}

#[test]
fn an_ordinary_containers_mounts_are_these() {
    let mut case = Case::new();
    let report = case.report();
    let expected = [
        ("/proc", "proc", &["rw", "nosuid", "nodev", "noexec"][..]),
        ("/dev", "tmpfs", &["rw", "nosuid", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", &["rw", "nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"]),
        ("/dev/shm", "tmpfs", &["rw", "nosuid", "nodev", "noexec", "size=65536k"]),
        ("/dev/mqueue", "mqueue", &["rw", "nosuid", "nodev", "noexec"]),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
    ];
    for (at, kind, options) in expected {
        let mount = report.mount(at).unwrap_or_else(|| panic!("no mount at {at}"));
        assert_eq!(mount.kind, kind, "{at}");
        for option in options {
            assert!(mount.has(option), "{at} has no {option}: {mount:?}");
        }
        assert!(mount.propagation.is_empty(), "{at} is private: {mount:?}");
    }
    // strictatime is the absence of the other two.
    let dev = report.mount("/dev").unwrap();
    assert!(!dev.has("relatime") && !dev.has("noatime"), "{dev:?}");
    let root = report.mount("/").unwrap();
    assert!(root.has("rw"), "{root:?}");
    let order: Vec<&str> =
        report.mounts.iter().map(|m| m.at.as_str()).filter(|at| expected.iter().any(|e| e.0 == *at)).collect();
    assert_eq!(order, expected.map(|e| e.0), "mounts are made in the order of the configuration");
}

#[test]
fn nothing_of_the_hosts_mounts_is_visible() {
    let mut case = Case::new();
    let report = case.report();
    assert!(!report.mounts.iter().any(|m| m.at.contains(&case.id)), "{:?}", report.mounts);
    case.attempts(&[("list /", Ok("dev etc home mnt probe proc root sys tmp"))]);
}

#[test]
fn the_root_file_system_is_read_only_when_asked() {
    let mut case = Case::new();
    case.spec["root"]["readonly"] = json!(true);
    case.attempts(&[
        ("create /file", Err("EROFS")),
        ("mkdir /tmp/dir", Err("EROFS")),
        ("create /dev/shm/file", Ok("")),
        ("remount-rw /", Err("EPERM")),
    ]);
    assert!(case.report().mount("/").unwrap().has("ro"));
    case.spec["root"]["readonly"] = json!(false);
    case.attempts(&[("create /file", Ok(""))]);
}

#[test]
fn a_bind_mount_shows_the_hosts_files() {
    let mut case = Case::new();
    let shared = shared(&case);
    case.mount("/mnt/data", "bind", &shared, &["bind"]);
    case.mount("/mnt/deep/er/made", "none", &shared, &["rbind", "rw"]);
    case.attempts(&[
        ("read /mnt/data/file", Ok("from the host")),
        ("create /mnt/data/new", Ok("")),
        ("read /mnt/deep/er/made/file", Ok("from the host")),
    ]);
    assert!(case.dir.join("shared/new").exists());
}

#[test]
fn a_bind_mount_can_be_read_only() {
    let mut case = Case::new();
    let shared = shared(&case);
    case.mount("/mnt/data", "bind", &shared, &["rbind", "ro", "nosuid", "nodev", "noexec"]);
    case.attempts(&[
        ("read /mnt/data/file", Ok("from the host")),
        ("create /mnt/data/new", Err("EROFS")),
        ("write /mnt/data/file x", Err("EROFS")),
        ("remount-rw /mnt/data", Err("EPERM")),
    ]);
    let report = case.report();
    let mount = report.mount("/mnt/data").unwrap();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.has(option), "{mount:?}");
    }
}

#[test]
fn a_bind_mount_of_a_file_makes_the_file_it_covers() {
    let mut case = Case::new();
    let shared = shared(&case);
    case.mount("/etc/made/here", "bind", &format!("{shared}/file"), &["bind", "ro"]);
    case.mount("/etc/passwd", "bind", &format!("{shared}/file"), &["bind", "ro"]);
    case.attempts(&[
        ("read /etc/made/here", Ok("from the host")),
        ("read /etc/passwd", Ok("from the host")),
        ("openw /etc/passwd", Err("EROFS")),
    ]);
}

#[test]
fn a_relative_source_is_relative_to_the_bundle() {
    let mut case = Case::new();
    not_on!(case, "crun", "takes it relative to the caller");
    fs::create_dir(case.bundle().join("volume")).unwrap();
    fs::write(case.bundle().join("volume/file"), "beside rootfs").unwrap();
    case.mount("/mnt", "bind", "volume", &["bind"]);
    case.attempts(&[("read /mnt/file", Ok("beside rootfs"))]);
}

#[test]
fn a_later_mount_covers_an_earlier_one() {
    let mut case = Case::new();
    let shared = shared(&case);
    case.mount("/mnt", "tmpfs", "tmpfs", &[]);
    case.mount("/mnt/a", "bind", &shared, &["bind"]);
    case.mount("/mnt/a/inner", "tmpfs", "tmpfs", &[]);
    case.mount("/mnt/b", "bind", &shared, &["bind"]);
    case.mount("/mnt/b", "tmpfs", "tmpfs", &[]);
    case.attempts(&[
        ("list /mnt", Ok("a b")),
        ("list /mnt/a", Ok("file inner")),
        ("create /mnt/a/inner/x", Ok("")),
        ("list /mnt/b", Ok("")),
    ]);
    assert!(!case.dir.join("shared/inner/x").exists(), "it went to the tmpfs");
}

#[test]
fn a_tmpfs_has_the_size_and_mode_that_were_asked() {
    let mut case = Case::new();
    case.mount("/mnt/t", "tmpfs", "tmpfs", &["size=1m", "mode=0750", "uid=5", "gid=6", "noexec"]);
    case.attempts(&[("stat /mnt/t", Ok("dir 750 5 6 0:0"))]);
    let report = case.report();
    let mount = report.mount("/mnt/t").unwrap();
    assert!(mount.has("size=1024k") && mount.has("noexec"), "{mount:?}");
}

#[test]
fn a_tmpfs_can_begin_with_a_copy_of_what_it_covers() {
    let mut case = Case::new();
    fs::create_dir_all(case.rootfs().join("var/inner")).unwrap();
    fs::write(case.rootfs().join("var/inner/file"), "copied up").unwrap();
    fs::set_permissions(case.rootfs().join("var/inner"), PermissionsExt::from_mode(0o711)).unwrap();
    case.mount("/var", "tmpfs", "tmpfs", &["tmpcopyup"]);
    case.attempts(&[
        ("read /var/inner/file", Ok("copied up")),
        ("stat /var/inner", Ok("dir 711 0 0 0:0")),
        ("create /var/inner/new", Ok("")),
    ]);
    assert!(!case.rootfs().join("var/inner/new").exists(), "the copy is written, not the original");
}

#[test]
fn propagation_is_what_the_mount_says() {
    let mut case = Case::new();
    let shared = shared(&case);
    // A mount with peers, as systemd makes every one on a machine of its own.
    let source = Path::new(&shared);
    nix::mount::mount(Some(source), source, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>).unwrap();
    nix::mount::mount(None::<&str>, source, None::<&str>, nix::mount::MsFlags::MS_SHARED, None::<&str>).unwrap();
    case.mount("/mnt/private", "bind", &shared, &["bind", "private"]);
    case.mount("/mnt/slave", "bind", &shared, &["bind", "rslave"]);
    case.mount("/mnt/shared", "bind", &shared, &["bind", "rshared"]);
    case.mount("/mnt/unbindable", "bind", &shared, &["bind", "unbindable"]);
    case.spec["linux"]["rootfsPropagation"] = json!("shared");
    case.args(&["/probe", "hold"]);
    case.hold();
    let report = case.exec(&["/probe", "report"]).ok().report();
    let of = |at: &str| report.mount(at).unwrap().propagation.join(" ");
    assert_eq!(of("/mnt/private"), "");
    assert_eq!(of("/mnt/slave"), "master");
    assert_eq!(of("/mnt/shared"), "shared");
    assert_eq!(of("/mnt/unbindable"), "unbindable");
    // A mount that the host makes later arrives where it may.
    let inner = source.join("inner");
    nix::mount::mount(Some("none"), &inner, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    fs::write(inner.join("late"), "").unwrap();
    case.exec_attempts(&[
        ("list /mnt/private/inner", Ok("")),
        ("stat /mnt/slave/inner/late", Ok("")),
        ("stat /mnt/shared/inner/late", Ok("")),
        ("stat /mnt/private/inner/late", Err("ENOENT")),
    ]);
    nix::mount::umount2(&inner, nix::mount::MntFlags::MNT_DETACH).unwrap();
    nix::mount::umount2(source, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_shared_root_leaves_the_hosts_mounts_as_they_are() {
    let mut case = Case::new();
    // The thread's own mounts stand for a host's, and are as systemd makes those: every one has peers.
    cgroups::leave_shared_mounts();
    let every = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_SHARED;
    nix::mount::mount(None::<&str>, "/", None::<&str>, every, None::<&str>).unwrap();
    let table = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let before = table();
    case.spec["linux"]["rootfsPropagation"] = json!("shared");
    case.hold();
    assert_eq!(table(), before, "while it runs");
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    assert_eq!(table(), before, "after it");
}

#[test]
fn propagation_of_the_root_is_what_was_asked() {
    for (asked, seen) in [("private", ""), ("slave", ""), ("rprivate", ""), ("rslave", "")] {
        let mut case = Case::new();
        case.spec["linux"]["rootfsPropagation"] = json!(asked);
        let report = case.report();
        let root = report.mount("/").unwrap();
        assert_eq!(
            root.propagation.iter().filter(|p| *p != "master").cloned().collect::<Vec<_>>().join(" "),
            seen,
            "{asked}"
        );
    }
}

#[test]
fn mounts_of_the_container_do_not_reach_the_host() {
    let case = Case::new();
    case.hold();
    let seen = integration::leak::mounts(&case.id);
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn masked_paths_are_empty() {
    let mut case = Case::new();
    fs::create_dir_all(case.rootfs().join("etc/hidden")).unwrap();
    fs::write(case.rootfs().join("etc/hidden/secret"), "secret").unwrap();
    fs::write(case.rootfs().join("etc/key"), "secret").unwrap();
    let masked = case.spec["linux"]["maskedPaths"].as_array_mut().unwrap();
    masked.extend([json!("/etc/hidden"), json!("/etc/key"), json!("/no/such/path")]);
    let mut attempts = vec!["/probe", "try", "read /etc/key", "list /etc/hidden"];
    // Not every kernel has them all.
    let of_the_kernel = [
        ("read /proc/kcore", "/proc/kcore"),
        ("read /proc/keys", "/proc/keys"),
        ("read /proc/timer_list", "/proc/timer_list"),
        ("list /proc/acpi", "/proc/acpi"),
        ("list /sys/firmware", "/sys/firmware"),
    ];
    attempts.extend(of_the_kernel.iter().filter(|(_, path)| Path::new(path).exists()).map(|(attempt, _)| *attempt));
    assert!(attempts.len() > 5, "this kernel has at least some of them");
    case.args(&attempts);
    for outcome in case.run().ok().outcomes() {
        assert_eq!((outcome.errno, outcome.value.as_str()), (None, ""), "{}", outcome.attempt);
    }
    case.attempts(&[
        ("create /etc/hidden/new", Err("EROFS")),
        ("read /etc/hidden/secret", Err("ENOENT")),
        ("umount /etc/key", Err("EPERM")),
        ("umount /proc/keys", Err("EPERM")),
        ("umount /sys/firmware", Err("EPERM")),
    ]);
}

#[test]
fn readonly_paths_cannot_be_written() {
    let mut case = Case::new();
    fs::create_dir_all(case.rootfs().join("etc/fixed")).unwrap();
    let readonly = case.spec["linux"]["readonlyPaths"].as_array_mut().unwrap();
    readonly.extend([json!("/etc/fixed"), json!("/etc/group"), json!("/no/such/path")]);
    case.attempts(&[
        ("create /etc/fixed/new", Err("EROFS")),
        ("openw /etc/group", Err("EROFS")),
        ("openw /proc/sys/kernel/hostname", Err("EROFS")),
        ("openw /proc/irq/default_smp_affinity", Err("EROFS")),
        ("create /etc/other", Ok("")),
        ("remount-rw /proc/sys", Err("EPERM")),
    ]);
    let report = case.report();
    for at in ["/proc/bus", "/proc/irq", "/proc/sys", "/etc/fixed"] {
        let mount = report.mount(at).unwrap_or_else(|| panic!("{at} is no mount of its own"));
        assert!(mount.has("ro"), "{mount:?}");
    }
    not_on!(case, "crun version 1.8.1", "loses the flags of the mount below");
    let sys = report.mount("/proc/sys").unwrap();
    assert!(sys.has("nosuid") && sys.has("nodev") && sys.has("noexec"), "{sys:?}");
}

#[test]
fn sysfs_cannot_be_written() {
    let mut case = Case::new();
    case.attempts(&[("openw /sys/kernel/mm/ksm/run", Err("EROFS")), ("list /sys/class/net/lo", Ok(""))]);
}

#[test]
fn the_cgroup_mount_shows_the_containers_own_and_is_read_only() {
    let case = Case::new();
    case.hold();
    let report = case.exec(&["/probe", "report"]).ok().report();
    let (kind, procs) = if cgroups::mode() == cgroups::Mode::V2 {
        ("cgroup2", "/sys/fs/cgroup/cgroup.procs")
    } else {
        ("cgroup", "/sys/fs/cgroup/pids/cgroup.procs")
    };
    let below: Vec<_> = report.mounts.iter().filter(|m| m.at.starts_with("/sys/fs/cgroup") && m.kind == kind).collect();
    assert!(!below.is_empty(), "{:?}", report.mounts);
    for mount in below {
        assert!(mount.has("ro") && mount.has("nosuid") && mount.has("nodev") && mount.has("noexec"), "{mount:?}");
        assert_eq!(mount.root, "/", "the container's cgroup is the root of what it sees: {mount:?}");
    }
    let out = case.exec(&["/probe", "try", &format!("read {procs}")]).ok().outcomes();
    let mut pids: Vec<&str> = out[0].value.split_whitespace().collect();
    pids.sort_unstable();
    assert_eq!(pids.len(), 2, "the container and exec: {pids:?}");
    assert_eq!(pids[0], "1");
    case.exec_attempts(&[(format!("openw {procs}").as_str(), Err("EROFS"))]);
}

#[test]
fn without_a_cgroup_namespace_the_mount_still_leads_to_the_containers_own() {
    let mut case = Case::new();
    case.without_namespace("cgroup");
    case.hold();
    // On version 2 the hierarchy is seen from its root, on version 1 each from the container's own place.
    let procs = if cgroups::mode() == cgroups::Mode::V2 {
        format!("read {}/cgroup.procs", case.cgroup_dir().display())
    } else {
        "read /sys/fs/cgroup/pids/cgroup.procs".to_owned()
    };
    let out = case.exec(&["/probe", "try", &procs]).ok().outcomes();
    assert_eq!(out[0].value.split_whitespace().count(), 2, "{out:?}");
}

#[test]
fn atime_options_are_what_was_asked() {
    let mut case = Case::new();
    case.mount("/mnt/a", "tmpfs", "tmpfs", &["noatime"]);
    case.mount("/mnt/b", "tmpfs", "tmpfs", &["relatime", "nodiratime"]);
    case.mount("/mnt/c", "tmpfs", "tmpfs", &["strictatime"]);
    let report = case.report();
    let of = |at: &str, option: &str| report.mount(at).unwrap().has(option);
    assert!(of("/mnt/a", "noatime") && !of("/mnt/a", "relatime"));
    assert!(of("/mnt/b", "relatime") && of("/mnt/b", "nodiratime"));
    assert!(!of("/mnt/c", "noatime") && !of("/mnt/c", "relatime"));
}

#[test]
fn a_mount_on_the_root_is_the_root() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8", "cannot mount on the root");
    let dir = |name: &str| {
        let dir = case.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir.to_str().unwrap().to_owned()
    };
    // As bundles of rootless tools have it: what is mounted later lies in the overlay, and nothing shows in root.path.
    let (lower, upper, work) = (dir("lower"), dir("upper"), dir("work"));
    fs::rename(case.rootfs(), &lower).unwrap();
    fs::create_dir(case.rootfs()).unwrap();
    let options = [format!("lowerdir={lower}"), format!("upperdir={upper}"), format!("workdir={work}")];
    let root = json!({ "destination": "/", "type": "overlay", "source": "overlay", "options": options });
    case.spec["mounts"].as_array_mut().unwrap().insert(0, root);
    case.write();
    let report = case.report();
    assert_eq!(report.mount("/").unwrap().kind, "overlay");
    assert!(report.mount("/proc").is_some() && report.mount("/dev/shm").is_some());
    case.attempts(&[("create /made", Ok(""))]);
    assert!(Path::new(&upper).join("made").exists());
    assert_eq!(fs::read_dir(case.rootfs()).unwrap().count(), 0);
    not_on!(case, "crun", "leaves a root that was mounted writable");
    case.spec["root"]["readonly"] = json!(true);
    case.write();
    case.attempts(&[("create /other", Err("EROFS"))]);
}

#[test]
fn a_mount_over_the_current_directory_is_seen() {
    let mut case = Case::new();
    case.mount("/home", "tmpfs", "tmpfs", &[]);
    case.spec["process"]["cwd"] = json!("/home");
    case.attempts(&[("list .", Ok("")), ("create here", Ok(""))]);
    assert!(!case.rootfs().join("home/here").exists());
}

#[test]
fn without_a_mount_namespace_of_its_own_there_is_no_pivot() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "cannot do without a mount namespace");
    not_on!(case, "runc", "wants a procfs in the container");
    not_on!(case, "crun", "wants a mount namespace of its own here");
    case.without_namespace("mount");
    case.spec["mounts"] = json!([]);
    case.spec["linux"]["maskedPaths"] = json!([]);
    case.spec["linux"]["readonlyPaths"] = json!([]);
    case.attempts(&[
        ("list /", Ok("dev etc home mnt probe proc root sys tmp")),
        ("list ..", Ok("dev etc home mnt probe proc root sys tmp")),
    ]);
    // The host's mount namespace keeps the root's mount, as with runc.
    command::tool("umount", &["--recursive", "--lazy", case.rootfs().to_str().unwrap()]).ok();
    case.nothing_left();
}
