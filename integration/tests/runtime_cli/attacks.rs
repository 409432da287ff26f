//! Attacks on runtimes that worked on others once, by the number under which they were published. The configuration and
//! the root file system are hostile in all of them: nothing outside the container may change, and nothing of the host
//! may be seen.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use integration::case::Case;
use integration::not_on;
use integration::programs::Runtime;
use serde_json::json;

/// A directory on the host that no container may reach, and what is in it.
fn outside(case: &Case) -> PathBuf {
    let dir = case.dir.join("outside");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("witness"), "untouched").unwrap();
    dir
}

#[track_caller]
fn untouched(outside: &Path) {
    let names: Vec<_> = fs::read_dir(outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["witness"], "something was made outside the container");
    assert_eq!(fs::read_to_string(outside.join("witness")).unwrap(), "untouched");
}

/// Runs the hostile container: that it is refused is as good as that it runs harmlessly.
#[track_caller]
fn harmless(case: &Case, outside: &Path) {
    let out = case.run();
    untouched(outside);
    if out.code != 0 && !out.peer {
        assert_eq!(out.stderr.lines().count(), 1, "{out}");
        case.nothing_left();
    }
}

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
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "loses the race now and then: it uses paths");
    not_on!(case, "crun version 1.8.1", "loses the race now and then");
    let outside = outside(&case);
    let rootfs = case.rootfs();
    fs::create_dir_all(rootfs.join("mnt/real/inner")).unwrap();
    symlink(&outside, rootfs.join("mnt/evil")).unwrap();
    for n in 0..8 {
        case.mount(&format!("/mnt/real/made{n}"), "tmpfs", "tmpfs", &[]);
    }
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
fn cve_2024_21626_a_working_directory_on_the_host() {
    let mut case = Case::new();
    let outside = outside(&case);
    for n in 3..16 {
        case.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{n}"));
        case.args(&["/probe", "try", "readlink /proc/self/cwd", "list ../../../../../../../../..", "list ."]);
        let out = case.run();
        if out.code == 0 {
            let outcomes = out.outcomes();
            assert!(!outcomes[1].value.contains("usr"), "the host's root is visible: {outcomes:?}");
            assert!(!outcomes[0].value.contains("unreachable") && !outcomes[2].value.contains("usr"), "{outcomes:?}");
        }
    }
    untouched(&outside);
    case.nothing_left();
}

#[test]
fn cve_2024_21626_a_working_directory_of_exec_on_the_host() {
    let case = Case::new();
    case.hold();
    for n in 3..16 {
        let flags = ["--cwd", &format!("/proc/self/fd/{n}")];
        let out =
            case.exec_with(&flags, &["/probe", "try", "readlink /proc/self/cwd", "list ../../../../../../../../.."]);
        if out.code == 0 {
            assert!(!out.outcomes()[1].value.contains("usr"), "the host's root is visible: {out}");
        }
        // By a link that the container's owner has put there.
        let link = case.rootfs().join("mnt").join(format!("link{n}"));
        symlink(format!("/proc/self/fd/{n}"), &link).unwrap();
        let flags = ["--cwd", &format!("/mnt/link{n}")];
        let out =
            case.exec_with(&flags, &["/probe", "try", "readlink /proc/self/cwd", "list ../../../../../../../../.."]);
        if out.code == 0 {
            assert!(!out.outcomes()[1].value.contains("usr"), "the host's root is visible: {out}");
        }
    }
    assert_eq!(case.status(), "running");
}

#[test]
fn cve_2024_21626_a_program_through_an_inherited_descriptor() {
    let mut case = Case::new();
    for n in 3..12 {
        case.args(&[&format!("/proc/self/fd/{n}/../../../../bin/sh"), "-c", "echo escaped"]);
        let out = case.run();
        assert_ne!(out.code, 0, "{out}");
        assert!(!out.stdout.contains("escaped"), "{out}");
    }
    case.nothing_left();
}

/// The runtime under test as a file of its own, so that an attack that succeeds harms nobody.
fn copied(case: &Case) -> Runtime {
    let copy = case.dir.join("runtime-copy");
    fs::copy(&case.runtime.binary, &copy).unwrap();
    Runtime { binary: copy, ..case.runtime.clone() }
}

#[test]
fn cve_2019_5736_overwriting_the_runtime_through_proc_self_exe() {
    // exec runs /proc/self/exe, which is the runtime itself at that moment. It opens its log, which is a fifo: there it
    // waits, as a process of the container, while another one takes a descriptor of /proc/PID/exe. Once the process
    // has ended nothing keeps the file busy, and the descriptor is opened again for writing.
    let mut case = Case::new();
    case.runtime = copied(&case);
    let before = fs::read(&case.runtime.binary).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, case.rootfs().join("tmp/log"), rustix::fs::Mode::from_bits_truncate(0o666))
        .unwrap();
    case.hold();
    let files = case.files();
    let mut command = case.command();
    command.args(["exec", &case.id, "/proc/self/exe", "--log", "/tmp/log", "--root", "/tmp/state", "start", "nobody"]);
    files.attach(&mut command);
    let mut victim = command.spawn().unwrap();
    let out = case.exec(&["/probe", "ambush", "/tmp/log"]).ok();
    let _ = victim.wait();
    assert_eq!(fs::read(&case.runtime.binary).unwrap(), before, "the runtime's binary was changed: {out}");
    assert!(!out.stdout.contains("overwritten"), "{out}");
    assert!(out.stdout.contains("refused") || out.stdout.contains("never seen"), "{out}");
}

#[test]
fn cve_2019_5736_by_the_containers_own_program() {
    let mut case = Case::new();
    case.runtime = copied(&case);
    let before = fs::read(&case.runtime.binary).unwrap();
    symlink("/proc/self/exe", case.rootfs().join("entry")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, case.rootfs().join("tmp/log"), rustix::fs::Mode::from_bits_truncate(0o666))
        .unwrap();
    case.args(&["/entry", "--log", "/tmp/log", "--root", "/tmp/state", "start", "nobody"]);
    // A second process of the container, in the same pid namespace, by exec before the start.
    let created = case.create();
    if created.code == 0 {
        let files = case.files();
        let mut command = case.command();
        command.args(["exec", &case.id, "/probe", "ambush", "/tmp/log"]);
        files.attach(&mut command);
        let mut ambush = command.spawn().unwrap();
        let said = integration::wait::file(&files.stdout, integration::command::LIMIT, |text| text.contains("waiting"));
        assert!(said);
        let _ = case.start();
        let _ = case.wait();
        let _ = ambush.wait();
        let text = fs::read_to_string(&files.stdout).unwrap();
        assert!(!text.contains("overwritten"), "{text}");
    }
    assert_eq!(fs::read(&case.runtime.binary).unwrap(), before, "the runtime's binary was changed");
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
fn cve_2025_52881_labels_and_settings_written_elsewhere() {
    // A setting is written to /proc/sys in the container: what lies there must be the kernel's.
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "writes to what is mounted there");
    not_on!(case, "crun", "writes to what is mounted there");
    let outside = outside(&case);
    let forged = case.dir.join("forged");
    fs::create_dir_all(&forged).unwrap();
    fs::write(forged.join("ip_forward"), "0").unwrap();
    case.mount("/proc/sys/net/ipv4", "bind", forged.to_str().unwrap(), &["bind"]);
    case.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    case.args(&["/probe", "say", "x"]);
    let _ = case.run();
    assert_eq!(fs::read_to_string(forged.join("ip_forward")).unwrap(), "0", "written to a file of the host");
    untouched(&outside);
}

#[test]
fn cve_2023_28642_proc_and_sys_by_symlinks_in_the_root() {
    let mut case = Case::new();
    let outside = outside(&case);
    fs::remove_dir(case.rootfs().join("sys")).unwrap();
    symlink(&outside, case.rootfs().join("sys")).unwrap();
    case.args(&["/probe", "report"]);
    harmless(&case, &outside);
}

#[test]
fn devices_are_not_made_through_symlinks() {
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

#[test]
fn the_container_cannot_trace_or_open_what_enters_it() {
    // While exec enters, a process of the container must not get at the host's files through /proc/PID of the one that
    // enters: it is not dumpable until it has become the user's program.
    let mut case = Case::new();
    case.args(&["/probe", "lurk"]);
    case.hold();
    for _ in 0..40 {
        case.exec(&["/probe", "exit", "0"]).ok();
    }
    case.kill("TERM").ok();
    case.wait();
    let output = case.output();
    assert!(output.contains("ready") && !output.contains("host"), "{output}");
}
