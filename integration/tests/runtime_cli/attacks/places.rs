//! Links, and links that change meanwhile, where the runtime mounts or makes something.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use integration::case::Case;
use integration::not_on;
use integration::programs::Kind;
use serde_json::json;

use super::{harmless, outside, untouched};

#[test]
fn cve_2021_30465_a_mount_destination_through_a_symlink() {
    for link in ["absolute", "relative", "chain"] {
        let mut case = Case::new();
        let outside = outside(&case);
        let target = match link {
            "absolute" => outside.clone(),
            _ => Path::new("../../../../../../../../..").join(outside.strip_prefix("/").unwrap()),
        };
        symlink(&target, case.rootfs().join("mnt/link")).unwrap();
        if link == "chain" {
            fs::remove_file(case.rootfs().join("mnt/link")).unwrap();
            symlink("second", case.rootfs().join("mnt/link")).unwrap();
            symlink(&target, case.rootfs().join("mnt/second")).unwrap();
        }
        case.mount("/mnt/link", "tmpfs", "tmpfs", &[]);
        case.mount("/mnt/link/made", "tmpfs", "tmpfs", &[]);
        case.args(&["/probe", "report"]);
        harmless(&case, &outside);
    }
}

#[test]
fn cve_2021_30465_symlinks_exchanged_while_it_mounts() {
    let mut case = Case::new();
    for n in 0..8 {
        case.mount(&format!("/mnt/real/made{n}"), "tmpfs", "tmpfs", &[]);
    }
    exchanged_meanwhile(case);
}

#[test]
fn cve_2024_45310_symlinks_exchanged_while_it_makes_files() {
    let mut case = Case::new();
    let source = case.dir.join("source");
    fs::write(&source, "").unwrap();
    for n in 0..8 {
        case.mount(&format!("/mnt/real/deep{n}/file"), "bind", source.to_str().unwrap(), &["bind"]);
    }
    exchanged_meanwhile(case);
}

/// Runs the container again and again while its directory `/mnt/real` and a link to the host are exchanged for each other.
fn exchanged_meanwhile(mut case: Case) {
    not_on!(case, "runc version 1.1", "loses the race now and then: it uses paths");
    not_on!(case, "crun version 1.8.1", "loses the race now and then");
    let outside = outside(&case);
    let rootfs = case.rootfs();
    fs::create_dir_all(rootfs.join("mnt/real/inner")).unwrap();
    symlink(&outside, rootfs.join("mnt/evil")).unwrap();
    case.args(&["/probe", "exit", "0"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = fs::File::open(rootfs.join("mnt")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(&dir, "real", &dir, "evil", rustix::fs::RenameFlags::EXCHANGE);
            }
        });
        for _ in 0..30 {
            let _ = case.run();
        }
        stop.store(true, Ordering::Relaxed);
    });
    untouched(&outside);
}

#[test]
fn cve_2024_45310_a_file_made_through_a_symlink() {
    let mut case = Case::new();
    let outside = outside(&case);
    symlink(&outside, case.rootfs().join("mnt/link")).unwrap();
    let source = case.dir.join("source");
    fs::write(&source, "").unwrap();
    case.mount("/mnt/link/file", "bind", source.to_str().unwrap(), &["bind"]);
    case.args(&["/probe", "report"]);
    harmless(&case, &outside);
}

#[test]
fn cve_2025_31133_a_mask_that_leads_elsewhere() {
    // A mask is a bind mount of the null device. If the container's own /dev/null is taken for it and that is a
    // symlink, what it leads to is bound writable over the masked path.
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "binds whatever /dev/null leads to");
    not_on!(case, "crun version 1.8.1", "binds whatever /dev/null leads to");
    let dev = case.dir.join("dev");
    fs::create_dir_all(dev.join("pts")).unwrap();
    for dir in ["shm", "mqueue"] {
        fs::create_dir(dev.join(dir)).unwrap();
    }
    fs::write(case.rootfs().join("etc/masked"), "secret").unwrap();
    symlink("/proc/sys/kernel/hostname", dev.join("null")).unwrap();
    for mount in case.spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev" {
            *mount = json!({ "destination": "/dev", "type": "bind", "source": dev, "options": ["bind"] });
        }
    }
    case.spec["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/etc/masked"));
    case.args(&["/probe", "try", "read /etc/masked", "write /etc/masked evil", "read /proc/sys/kernel/hostname"]);
    let out = case.run();
    if out.code == 0 {
        let outcomes = out.outcomes();
        assert_eq!(outcomes[0].value, "", "{outcomes:?}");
        assert!(!outcomes[2].value.contains("evil"), "{outcomes:?}");
    } else {
        assert!(out.peer || out.stderr.lines().count() == 1, "{out}");
        case.nothing_left();
    }
}

#[test]
fn the_hosts_null_device_is_not_the_containers_to_change() {
    // What covers masked files and what is read where there is no input may be the host's own: then so are its owner and its
    // mode, and root of the container would make it useless for everybody else.
    let mut case = Case::new();
    fs::write(case.rootfs().join("etc/masked"), "secret").unwrap();
    case.spec["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/etc/masked"));
    for set in ["bounding", "effective", "permitted"] {
        case.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_CHOWN"));
    }
    not_on!(case, "crun", "leaves what enters with the host's");
    let before = fs::metadata("/dev/null").unwrap().uid();
    let unchanged = |by: &str| {
        let after = fs::metadata("/dev/null").unwrap().uid();
        std::os::unix::fs::lchown("/dev/null", Some(before), None).unwrap();
        assert_eq!(after, before, "{by}");
    };
    case.args(&["/probe", "try", "chown /etc/masked 7", "read /etc/masked"]);
    let outcomes = case.run().ok().outcomes();
    unchanged("by its own process");
    assert_eq!((outcomes[1].errno.as_deref(), outcomes[1].value.as_str()), (None, ""), "{outcomes:?}");
    case.args(&["/probe", "wait"]);
    case.run_detached(&[]).ok();
    // Also where the container has hidden its own.
    for hide in ["stat /dev/null", "unlink /dev/null"] {
        let mut command = case.command();
        command.args(["exec", &case.id, "/probe", "try", hide, "chown /proc/self/fd/0 7"]).stdin(Stdio::null());
        case.finish(&mut command, &case.files()).ok();
        unchanged("by a process that was sent into it");
    }
    not_on!(case, "runc", "does not enter where there is none");
    let mut command = case.command();
    command.args(["exec", &case.id, "/probe", "try", "chown /proc/self/fd/0 7"]).stdin(Stdio::null());
    let out = case.finish(&mut command, &case.files()).ok();
    unchanged("by one that found no null device in it");
    assert!(out.peer || out.outcomes()[0].errno.as_deref() == Some("EROFS"), "{out}");
}

#[test]
fn what_the_container_mounts_stays_in_it() {
    // As systemd leaves a host: what is mounted on a shared mount is mounted on all its peers as well. One such mount in the
    // container, and its root puts whatever it likes over the host's files.
    const SHARED: &str = r#"cat /proc/self/mountinfo >"$1"; shift; exec "$@""#;
    let groups = |table: &str| -> Vec<String> {
        let words = table.split_whitespace().filter(|word| word.starts_with("shared:"));
        words.map(ToOwned::to_owned).collect()
    };
    for user_namespace in [false, true] {
        let mut case = Case::new();
        if user_namespace {
            case.user_namespace();
        }
        let manager = case.dir.join("manager");
        if case.runtime.kind == Kind::Tare {
            // Others wait for a word of the program's.
            case.env.push(("NOTIFY_SOCKET".to_owned(), manager.display().to_string()));
        }
        let _manager = std::os::unix::net::UnixDatagram::bind(&manager).unwrap();
        let given = case.dir.join("given");
        fs::create_dir(&given).unwrap();
        let bind = json!({ "type": "bind", "source": given, "destination": "/given", "options": ["rbind"] });
        case.spec["mounts"].as_array_mut().unwrap().push(bind);
        case.args(&["/probe", "try", "read /proc/self/mountinfo"]);
        case.write();
        let table = case.dir.join("mountinfo");
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "shared", "sh", "-eu", "-c", SHARED, "sh"]).arg(&table);
        command.arg(&case.runtime.binary).arg("--root").arg(case.state_dir()).args(&case.global);
        command.args(["run", "--bundle", case.bundle().to_str().unwrap(), &case.id]).env("TARE_TEST", &case.id);
        // No null device, which some runtimes give to the container's user.
        command.envs(case.env.clone()).stdin(case.stdin());
        let outcomes = case.finish(&mut command, &case.files()).ok().outcomes();
        let hosts = groups(&fs::read_to_string(&table).unwrap());
        assert!(!hosts.is_empty(), "the host's mounts are shared");
        let peers: Vec<_> =
            outcomes[0].value.lines().filter(|line| groups(line).iter().any(|it| hosts.contains(it))).collect();
        assert!(peers.is_empty(), "user namespace: {user_namespace}: {peers:#?}");
        case.nothing_left();
    }
}

#[test]
fn the_hosts_devices_are_not_changed_from_a_user_namespace() {
    // No device is made there: the container sees the host's. Where it is root by the host's number they are its own.
    let mut case = Case::new();
    not_on!(case, "runc", "lets the container's root change them");
    not_on!(case, "crun", "lets the container's root change them");
    case.namespace("user", None);
    let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    case.spec["linux"]["uidMappings"] = map.clone();
    case.spec["linux"]["gidMappings"] = map;
    for set in ["bounding", "effective", "permitted"] {
        case.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_CHOWN"));
    }
    let before = fs::metadata("/dev/full").unwrap().uid();
    case.args(&["/probe", "try", "chown /dev/full 7", "write /dev/null x", "write /dev/full x"]);
    let outcomes = case.run().ok().outcomes();
    let after = fs::metadata("/dev/full").unwrap().uid();
    std::os::unix::fs::lchown("/dev/full", Some(before), None).unwrap();
    assert_eq!(after, before);
    let errors: Vec<_> = outcomes.iter().map(|it| it.errno.as_deref()).collect();
    assert_eq!(errors, [Some("EROFS"), None, Some("ENOSPC")], "{outcomes:?}");
}

#[test]
fn cve_2025_52565_a_console_that_leads_elsewhere() {
    // The same with /dev/console, which the terminal is bound to.
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "follows the link inside the root file system");
    not_on!(case, "crun", "follows the link inside the root file system");
    let dev = case.dir.join("dev");
    for dir in ["pts", "shm", "mqueue"] {
        fs::create_dir_all(dev.join(dir)).unwrap();
    }
    symlink("/proc/sys/kernel/hostname", dev.join("console")).unwrap();
    for mount in case.spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev" {
            *mount = json!({ "destination": "/dev", "type": "bind", "source": dev, "options": ["bind"] });
        }
    }
    case.spec["process"]["terminal"] = json!(true);
    let socket = integration::console::Socket::new(&case.dir);
    let out = case.create_with(&["--console-socket", socket.path.to_str().unwrap()]);
    if out.code == 0 {
        let report = case.exec(&["/probe", "report"]).ok().report();
        assert!(report.mount("/proc/sys/kernel/hostname").is_none(), "{:?}", report.mounts);
    } else {
        case.nothing_left();
    }
}

#[test]
fn cve_2025_52565_a_console_that_the_image_brings() {
    // A /dev that is filled from the image has the image's links, and is the runtime's to complete.
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "follows the link inside the root file system");
    not_on!(case, "crun", "follows the link inside the root file system");
    symlink("/proc/sys/kernel/hostname", case.rootfs().join("dev/console")).unwrap();
    for mount in case.spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev" {
            mount["options"].as_array_mut().unwrap().push(json!("tmpcopyup"));
        }
    }
    case.spec["process"]["terminal"] = json!(true);
    let socket = integration::console::Socket::new(&case.dir);
    let out = case.create_with(&["--console-socket", socket.path.to_str().unwrap()]);
    if out.code == 0 {
        let report = case.exec(&["/probe", "report"]).ok().report();
        assert!(report.mount("/proc/sys/kernel/hostname").is_none(), "{:?}", report.mounts);
    } else {
        case.nothing_left();
    }
}

#[test]
fn cve_2026_41579_devices_are_not_made_through_symlinks() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "makes the standard links through it");
    not_on!(case, "crun version 1.8.1", "makes devices through it");
    let outside = outside(&case);
    // Without a fresh tmpfs /dev is the root file system's own.
    case.spec["mounts"].as_array_mut().unwrap().retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    fs::remove_dir(case.rootfs().join("dev")).unwrap();
    symlink(&outside, case.rootfs().join("dev")).unwrap();
    case.spec["linux"]["devices"] =
        json!([{ "path": "/dev/evil", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }]);
    case.args(&["/probe", "say", "x"]);
    harmless(&case, &outside);
}

#[test]
fn the_working_directory_is_not_made_through_symlinks() {
    let mut case = Case::new();
    let outside = outside(&case);
    symlink(&outside, case.rootfs().join("mnt/link")).unwrap();
    case.spec["process"]["cwd"] = json!("/mnt/link/made");
    case.args(&["/probe", "say", "x"]);
    harmless(&case, &outside);
}

#[test]
fn masks_and_readonly_paths_do_not_follow_symlinks_out() {
    let mut case = Case::new();
    let outside = outside(&case);
    symlink(&outside, case.rootfs().join("mnt/masked")).unwrap();
    symlink(&outside, case.rootfs().join("mnt/readonly")).unwrap();
    case.spec["linux"]["maskedPaths"] = json!(["/mnt/masked", "/mnt/masked/witness"]);
    case.spec["linux"]["readonlyPaths"] = json!(["/mnt/readonly"]);
    case.args(&["/probe", "hold"]);
    if case.create().code == 0 {
        assert!(integration::leak::mounts("outside").is_empty(), "nothing is mounted outside");
        untouched(&outside);
    }
}

#[test]
fn a_root_file_system_that_is_a_symlink() {
    let mut case = Case::new();
    let real = case.dir.join("real");
    fs::rename(case.rootfs(), &real).unwrap();
    symlink(&real, case.rootfs()).unwrap();
    case.args(&["/probe", "say", "x"]);
    // A symlink of the bundle's owner is the owner's wish: it works, or it is refused.
    let out = case.run();
    assert!(out.code == 0 && out.stdout == "x\n" || out.code == 1, "{out}");
    case.nothing_left();
}
