//! `checkpoint` and `restore`. With a criu that can dump on this kernel (`TARE_TEST_CRIU` is a directory with one, where the
//! system's cannot); the rest needs none.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use integration::case::Case;
use integration::command::Out;
use integration::programs::Kind;
use integration::{criu, not_on, skip, wait};
use serde_json::json;

/// The runtime with the criu that is meant on its PATH.
fn command(case: &Case) -> Command {
    let mut command = case.command();
    command.env("PATH", criu::path());
    // Streams that are files of the host cannot be taken along.
    command.stdin(Stdio::null());
    command
}

fn images(case: &Case) -> String {
    case.dir.join("images").to_str().unwrap().to_owned()
}

/// A container that holds, without streams of the host.
fn hold(case: &mut Case) {
    prepare(case);
    let mut command = command(case);
    command.args(["run", "--detach", "--bundle", case.bundle().to_str().unwrap(), &case.id]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
}

fn prepare(case: &mut Case) {
    // criu asks the firewall to hold connections meanwhile, which needs one: here there are none.
    let config = case.dir.join("criu.conf");
    std::fs::write(&config, "network-lock skip\n").unwrap();
    case.spec["annotations"] = json!({ "org.criu.config": config });
    case.write();
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

fn pid(case: &Case) -> i32 {
    case.state()["pid"].as_i64().unwrap() as i32
}

/// Orphans of the runtime come to us, as to a shim.
fn end(case: &Case) {
    let pid = pid(case);
    case.call(&["delete", "--force", &case.id]).ok();
    assert!(wait::exited(pid, integration::command::LIMIT));
    integration::leak::reap(pid);
}

fn checkpoint(case: &Case, flags: &[&str]) -> Out {
    let mut command = command(case);
    command.args(["checkpoint", "--image-path", &images(case)]).args(flags).arg(&case.id);
    case.finish(&mut command, &case.files())
}

/// Without streams of ours, which it would keep.
fn restore(case: &Case, flags: &[&str]) {
    let said = case.dir.join("restore.err");
    let mut command = command(case);
    command.args(["restore", "--detach", "--image-path", &images(case), "--bundle", case.bundle().to_str().unwrap()]);
    command.args(flags).arg(&case.id);
    let status = command.stdout(Stdio::null()).stderr(std::fs::File::create(&said).unwrap()).status().unwrap();
    assert!(status.success(), "{}", std::fs::read_to_string(&said).unwrap());
}

/// To files, until nothing runs any more.
fn freeze(case: &Case) {
    let before = pid(case);
    checkpoint(case, &[]).ok();
    assert!(wait::exited(before, integration::command::LIMIT));
    integration::leak::reap(before);
}

macro_rules! needs_criu {
    ($case:expr) => {
        not_on!($case, "crun", "is linked with criu's library");
        if let Some(reason) = criu::lacks() {
            skip!("{reason}");
        }
    };
}

#[test]
fn a_container_goes_to_files_and_comes_back() {
    let mut case = Case::new();
    needs_criu!(case);
    hold(&mut case);
    case.exec_attempts(&[("create /dev/shm/mark", Ok("")), ("write /dev/shm/mark remembered", Ok(""))]);
    freeze(&case);
    let state = case.call(&["state", &case.id]);
    assert_ne!(state.code, 0, "the container is gone: {state}");

    let pid_file = case.dir.join("restored.pid");
    restore(&case, &["--pid-file", pid_file.to_str().unwrap()]);

    let state = case.state();
    assert_eq!(state["status"], "running");
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    // What was in its memory is there again, and it can be entered.
    case.exec_attempts(&[("read /dev/shm/mark", Ok("remembered"))]);
    case.exec_attempts(&[("read /proc/1/comm", Ok("probe"))]);
    end(&case);
    case.nothing_left();
}

#[test]
fn a_container_with_a_user_namespace_comes_back_with_its_devices() {
    // They are the host's own nodes there, which criu has to be told of.
    let mut case = Case::new();
    needs_criu!(case);
    case.user_namespace();
    hold(&mut case);
    case.exec_attempts(&[("create /dev/shm/mark", Ok("")), ("write /dev/shm/mark remembered", Ok(""))]);
    freeze(&case);
    // criu reads some of them as the container's root.
    integration::command::tool("chmod", &["-R", "a+rX", &images(&case)]).ok();
    restore(&case, &[]);
    case.exec_attempts(&[("read /dev/shm/mark", Ok("remembered")), ("write /dev/null x", Ok(""))]);
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", pid(&case))).unwrap();
    for at in [" /dev/null ", " /dev/urandom "] {
        let line = table.lines().find(|line| line.contains(at)).expect("it is a mount");
        assert!(case.runtime.kind != Kind::Tare || line.contains(" ro,"), "{line}");
    }
    end(&case);
    case.nothing_left();
}

#[test]
fn mounts_in_mounts_come_back_where_their_places_are_gone() {
    let mut case = Case::new();
    needs_criu!(case);
    let given = case.bundle().join("given");
    for dir in [&given, &case.dir.join("other")] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(case.dir.join("other/word"), "inner").unwrap();
    let bind =
        |source: &str, at: &str| json!({ "type": "bind", "source": source, "destination": at, "options": ["bind"] });
    // Sources as people write them: criu has its troubles with the last name of such a path.
    let mounts =
        [bind("given/.", "/given"), bind("../other", "/given/deep/inside"), bind("../other/word", "/given/word")];
    case.spec["mounts"].as_array_mut().unwrap().extend(mounts);
    hold(&mut case);
    freeze(&case);
    // As on another host, where nobody has made a container yet.
    std::fs::remove_dir_all(&given).unwrap();
    std::fs::create_dir(&given).unwrap();
    restore(&case, &[]);
    case.exec_attempts(&[("read /given/deep/inside/word", Ok("inner")), ("read /given/word", Ok("inner"))]);
    end(&case);
    case.nothing_left();
}

#[test]
fn what_comes_back_cannot_change_the_hosts_null_device() {
    // The host's own lies over masked files: its owner and mode are everybody's.
    let mut case = Case::new();
    not_on!(case, "runc", "has it writable from the beginning");
    needs_criu!(case);
    let masked = ["/etc/first", "/etc/second"];
    for path in masked {
        std::fs::write(case.rootfs().join(&path[1..]), "secret").unwrap();
        case.spec["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!(path));
    }
    for set in ["bounding", "effective", "permitted"] {
        case.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_CHOWN"));
    }
    hold(&mut case);
    freeze(&case);
    restore(&case, &[]);
    let before = std::fs::metadata("/dev/null").unwrap().uid();
    for path in masked {
        let (chown, read) = (format!("chown {path} 7"), format!("read {path}"));
        let out = case.exec(&["/probe", "try", &chown, &read]).ok();
        let after = std::fs::metadata("/dev/null").unwrap().uid();
        std::os::unix::fs::lchown("/dev/null", Some(before), None).unwrap();
        assert_eq!(after, before, "{out}");
        let outcomes = out.outcomes();
        assert_eq!((outcomes[1].errno.as_deref(), outcomes[1].value.as_str()), (None, ""), "{outcomes:?}");
    }
    end(&case);
    case.nothing_left();
}

#[test]
fn what_was_read_only_comes_back_read_only() {
    let mut case = Case::new();
    not_on!(case, "runc", "leaves it to criu, which clones the host's directory for the second mount");
    needs_criu!(case);
    let given = case.dir.join("given");
    std::fs::create_dir_all(given.join("deep")).unwrap();
    std::fs::write(given.join("deep/file"), "").unwrap();
    let mut bind = |source: &std::path::Path, at: &str, options: &[&str]| {
        let mount = json!({ "type": "bind", "source": source, "destination": at, "options": options });
        case.spec["mounts"].as_array_mut().unwrap().push(mount);
    };
    bind(&given, "/one", &["bind", "ro"]);
    bind(&given, "/two", &["bind", "ro"]);
    bind(&given.join("deep"), "/three", &["rbind", "rro"]);
    bind(&given, "/four", &["bind"]);
    hold(&mut case);
    let attempts = [
        ("write /one/deep/file x", Err("EROFS")),
        ("write /two/deep/file x", Err("EROFS")),
        ("write /three/file x", Err("EROFS")),
        ("write /four/deep/file x", Ok("")),
    ];
    case.exec_attempts(&attempts);
    freeze(&case);
    restore(&case, &[]);
    case.exec_attempts(&attempts);
    end(&case);
    case.nothing_left();
}

#[test]
fn a_container_can_go_on_after_a_checkpoint() {
    let mut case = Case::new();
    needs_criu!(case);
    hold(&mut case);
    let before = case.state()["pid"].clone();
    checkpoint(&case, &["--leave-running"]).ok();
    assert_eq!(case.state()["pid"], before);
    assert_eq!(case.status(), "running");
    end(&case);
}

#[test]
fn without_criu_the_container_goes_on() {
    let mut case = Case::new();
    not_on!(case, "crun", "is linked with criu's library");
    hold(&mut case);
    let mut command = case.command();
    command.env("PATH", "/nonexistent").args(["checkpoint", "--image-path", &images(&case), &case.id]);
    case.finish(&mut command, &case.files()).refused(&[&case.id, "criu"]);
    assert_eq!(case.status(), "running");
    end(&case);
}

#[test]
fn what_cannot_be_is_refused_before_anything_happens() {
    let mut case = Case::new();
    not_on!(case, "crun", "is linked with criu's library");
    case.create().ok();
    checkpoint(&case, &[]).refused(&["cannot be checkpointed in created state"]);
    case.call(&["delete", "--force", &case.id]).ok();
    case.wait();
    hold(&mut case);
    checkpoint(&case, &["--empty-ns", "pid"]).refused(&["--empty-ns", "pid"]);
    checkpoint(&case, &["--page-server", "nowhere"]).refused(&["--page-server ADDRESS:PORT"]);
    assert_eq!(case.status(), "running");
    end(&case);
}

#[test]
fn descriptors_and_directories_are_looked_at_before_criu_does() {
    let mut case = Case::new();
    not_on!(case, "crun", "is linked with criu's library");
    not_on!(case, "runc", "leaves it to criu, which may not look");
    hold(&mut case);
    checkpoint(&case, &["--status-fd", "77"]).refused(&["--status-fd", "77"]);
    checkpoint(&case, &["--parent-path", "/elsewhere"]).refused(&["--parent-path", "relative"]);
    checkpoint(&case, &["--parent-path", "../absent"]).refused(&["--parent-path", "absent"]);
    assert_eq!(case.status(), "running");
    end(&case);
}

#[test]
fn restore_without_images_leaves_nothing() {
    let case = Case::new();
    not_on!(case, "crun", "is linked with criu's library");
    case.write();
    let bundle = case.bundle();
    let words = ["restore", "--detach", "--image-path", &images(&case), "--bundle", bundle.to_str().unwrap(), &case.id];
    case.call(&words).refused(&[&case.id, "images"]);
    case.nothing_left();
}

#[test]
fn what_others_put_among_the_images_is_neither_followed_nor_waited_for() {
    let mut case = Case::new();
    not_on!(case, "crun", "is linked with criu's library");
    not_on!(case, "runc", "writes where the link leads");
    hold(&mut case);
    let (victim, images) = (case.dir.join("victim"), case.dir.join("images"));
    std::fs::write(&victim, "precious").unwrap();
    std::fs::create_dir(&images).unwrap();
    let descriptors = images.join("descriptors.json");
    std::os::unix::fs::symlink(&victim, &descriptors).unwrap();
    // Whether this criu can do it does not matter: the file is written before.
    checkpoint(&case, &["--leave-running"]);
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert!(descriptors.symlink_metadata().unwrap().is_file(), "the link was replaced");
    end(&case);

    std::fs::remove_file(&descriptors).unwrap();
    nix::unistd::mkfifo(&descriptors, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (images, bundle) = (images.to_str().unwrap(), case.bundle());
    let words = ["restore", "--detach", "--image-path", images, "--bundle", bundle.to_str().unwrap(), &case.id];
    case.call(&words).refused(&["descriptors.json", "not a regular file"]);
    std::fs::remove_file(&descriptors).unwrap();
    std::os::unix::fs::symlink(&victim, &descriptors).unwrap();
    case.call(&words).refused(&["descriptors.json"]);
    case.nothing_left();
}

/// A criu that logs where it is told to, as the real one does: in the work directory (field 17 of its options), else among
/// the images (field 1), by the descriptor of who asks.
const LOGS: &str = r#"#!/usr/bin/perl
use strict;

sub fields {
    my @bytes = unpack("C*", shift);
    my %fields;
    my $number = sub {
        my ($value, $shift, $byte) = (0, 0);
        do { $byte = shift @bytes; $value |= ($byte & 127) << $shift; $shift += 7 } while $byte >= 128;
        $value
    };
    while (@bytes) {
        my ($key, $value) = ($number->(), $number->());
        $fields{$key >> 3} = ($key & 7) == 2 ? pack("C*", splice(@bytes, 0, $value)) : $value;
    }
    %fields
}

open(my $asked, "+<&=", $ARGV[1]) or die;
sysread($asked, my $request, 1 << 16) or die;
my %request = fields($request);
my %options = fields($request{2});
my $to = defined $options{17} ? $options{17} : $options{1};
chdir("/proc/" . getppid() . "/fd/$to") or die;
open(my $log, ">", "restore.log") or die;
print $log "Error: seen\n";
"#;

/// A directory with a `criu` that is this script.
fn fake_criu(case: &Case, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let dir = case.dir.join("fake");
    std::fs::create_dir(&dir).unwrap();
    let criu = dir.join("criu");
    std::fs::write(&criu, script).unwrap();
    std::fs::set_permissions(&criu, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// `restore` with that criu from images that say as much as they must.
fn restore_by(case: &Case, criu: &std::path::Path, flags: &[&str]) -> Command {
    case.write();
    let images = case.dir.join("images");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join("descriptors.json"), r#"["/dev/null","/dev/null","/dev/null"]"#).unwrap();
    let mut command = case.command();
    command.env("PATH", format!("{}:{}", criu.display(), std::env::var("PATH").unwrap()));
    command.args(["restore", "--image-path", images.to_str().unwrap(), "--bundle", case.bundle().to_str().unwrap()]);
    command.args(flags).arg(&case.id);
    command
}

#[test]
fn a_restore_that_waits_for_criu_can_be_ended() {
    let case = Case::new();
    not_on!(case, "crun", "is linked with criu's library");
    not_on!(case, "runc", "holds the signal for the container that is to be");
    let mark = case.dir.join("at-work");
    let criu = fake_criu(&case, &format!("#!/bin/sh\necho >{}; exec sleep 1000\n", mark.display()));
    let mut restore = restore_by(&case, &criu, &[]).spawn().unwrap();
    assert!(wait::file(&mark, integration::command::LIMIT, |_| true));
    let pid = nix::unistd::Pid::from_raw(restore.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(restore.wait().unwrap().code(), Some(1));
    case.nothing_left();
}

#[test]
fn criu_does_not_follow_what_others_put_among_the_images() {
    let case = Case::new();
    not_on!(case, "crun", "is linked with criu's library");
    not_on!(case, "runc", "has criu work among the images");
    let victim = case.dir.join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::fs::create_dir(case.dir.join("images")).unwrap();
    let log = case.dir.join("images/restore.log");
    let criu = fake_criu(&case, LOGS);
    for flags in [&[][..], &["--lazy-pages"]] {
        std::os::unix::fs::symlink(&victim, &log).unwrap();
        let out = case.finish(&mut restore_by(&case, &criu, flags), &case.files());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious", "{flags:?}");
        out.refused(&["restore.log", "Error: seen"]);
        assert!(log.symlink_metadata().unwrap().is_file(), "{flags:?}: the log is where people look for it");
        std::fs::remove_file(&log).unwrap();
        case.nothing_left();
    }
}

#[test]
fn a_container_that_was_given_a_place_for_notifications_comes_back_with_one() {
    let mut case = Case::new();
    not_on!(case, "runc", "wants to be told of the place again");
    needs_criu!(case);
    let manager = case.dir.join("manager");
    let _manager = std::os::unix::net::UnixDatagram::bind(&manager).unwrap();
    // Nobody waits for its word where only `create` knows who would hear it.
    case.env.push(("NOTIFY_SOCKET".to_owned(), manager.display().to_string()));
    prepare(&mut case);
    let mut command = command(&case);
    command.args(["create", "--bundle", case.bundle().to_str().unwrap(), &case.id]);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    case.env.pop();
    case.start().ok();
    freeze(&case);
    restore(&case, &[]);
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", pid(&case))).unwrap();
    let line = table.lines().find(|line| line.contains(" /run/notify ")).expect("it is mounted");
    assert!(line.contains(&case.id) && line.contains(" ro,"), "{line}");
    end(&case);
}
