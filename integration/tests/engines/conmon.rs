//! The shim as conmon, called as an engine calls it, for what Podman does not ask of it in its everyday use.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::case::Case;
use integration::command::LIMIT;
use integration::{leak, programs, wait};

/// A container under conmon.
struct Conmon {
    case: Case,
}

impl Conmon {
    fn of(args: &[&str]) -> Self {
        let mut case = Case::new();
        case.args(args);
        case.write();
        symlink(programs::ours("shim"), case.dir.join("conmon")).unwrap();
        Self { case }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.case.dir.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Has it create and start the container, and waits until both have ended.
    fn run(&self, flags: &[&str]) {
        let id = &self.case.id;
        let mut command = Command::new(self.file("conmon"));
        command.args(["--api-version", "1", "-c", id, "-u", id, "-n", id, "-r"]).arg(&self.case.runtime.binary);
        command.arg("-b").arg(self.case.bundle()).arg("-p").arg(self.file("pid"));
        command.arg("--conmon-pidfile").arg(self.file("conmon.pid")).arg("--exit-dir").arg(self.file("exits"));
        command.arg("--socket-dir-path").arg(&self.case.dir);
        command.arg("-l").arg(format!("k8s-file:{}", self.file("log").display()));
        command.args(["--runtime-arg", "--root", "--runtime-arg"]).arg(self.case.state_dir()).args(flags);
        command.env("TARE_TEST", id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        fs::create_dir(self.file("exits")).unwrap();
        assert!(command.status().unwrap().success(), "{command:?}");
        assert!(wait::file(&self.file("pid"), LIMIT, |pid| !pid.is_empty()), "no container came to be");
        let conmon = self.read("conmon.pid").trim().parse().unwrap();
        self.case.start().ok();
        assert!(wait::exited(conmon, LIMIT), "conmon stays");
    }

    fn exit(&self) -> String {
        self.read(&format!("exits/{}", self.case.id))
    }
}

/// The text of each record of a log, all of which must be whole.
fn texts(log: &str) -> Vec<&str> {
    let text = |line| {
        let mut words = str::splitn(line, 4, ' ');
        let (time, stream, mark) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        assert!(time.starts_with("20") && time.ends_with("+00:00") && stream == "stdout" && mark == "F", "{line}");
        words.next().unwrap()
    };
    assert!(log.ends_with('\n'));
    log.lines().map(text).collect()
}

#[test]
fn a_log_that_is_full_begins_anew() {
    let conmon = Conmon::of(&["/probe", "flood", "2000"]);
    conmon.run(&["--log-size-max", "4096"]);
    let log = conmon.read("log");
    assert!(log.len() <= 4096, "{}", log.len());
    assert_eq!(texts(&log).last(), Some(&"line 1999"));
    assert_eq!(conmon.exit(), "0");
    assert!(!conmon.file("log.1").exists());
}

#[test]
fn a_log_that_is_full_is_kept_when_that_is_asked_for() {
    let conmon = Conmon::of(&["/probe", "flood", "2000"]);
    conmon.run(&["--log-size-max", "4096", "--log-rotate", "--log-max-files", "2"]);
    let logs = ["log.2", "log.1", "log"].map(|name| conmon.read(name));
    assert!(logs.iter().all(|log| log.len() <= 4096));
    let lines: Vec<_> = logs.iter().flat_map(|log| texts(log)).collect();
    let expected: Vec<_> = (2000 - lines.len()..2000).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected);
    assert!(lines.len() > 150 && !conmon.file("log.3").exists());
}

#[test]
fn all_output_has_a_limit_too() {
    let conmon = Conmon::of(&["/probe", "flood", "2000"]);
    conmon.run(&["--log-global-size-max", "4096"]);
    let log = conmon.read("log");
    assert_eq!(texts(&log)[0], "line 0");
    assert!((4000..4300).contains(&log.len()), "{}", log.len());
}

#[test]
fn the_end_is_recorded_and_told_after_the_delay() {
    let conmon = Conmon::of(&["/probe", "exit", "7"]);
    let script = conmon.file("tell");
    let exit = conmon.file("exits").join(&conmon.case.id);
    let told = conmon.file("told");
    fs::write(
        &script,
        format!("#!/bin/sh\ncp {} {}; echo \" $*\" >>{}\n", exit.display(), told.display(), told.display()),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let persist = conmon.file("persist");
    fs::create_dir(&persist).unwrap();
    let mut flags = vec!["--exit-delay", "1", "--persist-dir", persist.to_str().unwrap()];
    flags.extend(["--exit-command", script.to_str().unwrap()]);
    flags.extend(["--exit-command-arg", "container", "--exit-command-arg", "cleanup"]);
    conmon.run(&flags);
    assert!(wait::file(&told, LIMIT, |text| text.ends_with('\n')), "nobody is told");
    assert_eq!(conmon.read("told"), "7 container cleanup\n");
    assert_eq!(conmon.read("persist/exit"), "7");
    let moment = |path| fs::metadata(path).unwrap().modified().unwrap();
    let pause = moment(&told).duration_since(moment(&exit)).unwrap();
    assert!(pause >= Duration::from_millis(990), "{pause:?}");
}

#[test]
fn what_takes_too_long_is_killed() {
    let conmon = Conmon::of(&["/probe", "wait"]);
    conmon.case.subreaper();
    conmon.run(&["--timeout", "1"]);
    // As conmon it does not wait for what it has killed.
    let init = conmon.read("pid").trim().parse().unwrap();
    assert!(wait::exited(init, LIMIT), "it lives on");
    leak::reap(init);
    // As conmon records it, for who asks how it ended.
    assert_eq!(conmon.exit(), "-1");
}

#[test]
fn notifications_go_on_to_the_caller() {
    let mut conmon = Conmon::of(&["/probe", "notify", "READY=1", "STATUS=up"]);
    // As Podman has it: the socket is in the bundle, and the container sees its directory.
    let directory = conmon.case.bundle().join("notify");
    fs::create_dir(&directory).unwrap();
    conmon.case.mount("/run/notify", "bind", directory.to_str().unwrap(), &["bind", "ro"]);
    conmon.case.spec["process"]["env"].as_array_mut().unwrap().push("NOTIFY_SOCKET=/run/notify/notify.sock".into());
    conmon.case.write();
    let host = conmon.file("host");
    let socket = UnixDatagram::bind(&host).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    conmon.run(&["--sdnotify-socket", host.to_str().unwrap()]);
    let mut message = [0; 4096];
    let length = socket.recv(&mut message).unwrap();
    assert_eq!(String::from_utf8_lossy(&message[..length]), "READY=1");
    assert_eq!(conmon.exit(), "0");
}
