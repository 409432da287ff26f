//! Leaving a container that heeds nothing: who asks us to end a third time has it so, and the container goes on.

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use integration::command::{self, Files, LIMIT};
use integration::console::Pty;
use integration::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::Solo;

/// What is said at the third time.
const WORDS: &str = "got 3 SIGTERM/SIGINTs, forcefully exiting";

/// One of our programs at work, with its output in files.
struct Client {
    child: Child,
    files: Files,
}

impl Client {
    fn start(solo: &Solo, command: &mut Command, name: &str) -> Self {
        let files = Files::new(&solo.case.dir, name);
        files.attach(command);
        Self { child: command.spawn().unwrap(), files }
    }

    /// Sends a signal and waits until it has been taken: two that wait together would be one.
    fn asked(&self, signal: Signal) {
        let pid = self.child.id();
        kill(Pid::from_raw(pid as i32), signal).unwrap();
        let taken = wait::until(Duration::from_millis(5), LIMIT, || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let pending = |field| status.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
            let none = |field| pending(field).is_none_or(|set| set.bytes().all(|digit| digit == b'0'));
            (none("SigPnd:") && none("ShdPnd:")).then_some(())
        });
        assert!(taken.is_some(), "the signal is not taken: {}", self.complaint());
    }

    fn complaint(&self) -> String {
        fs::read_to_string(&self.files.stderr).unwrap()
    }

    #[track_caller]
    fn leaves(mut self, code: i32) -> String {
        assert!(wait::exited(self.child.id() as i32, LIMIT), "it stays: {}", self.complaint());
        assert_eq!(command::code(self.child.wait().unwrap()), code, "{}", self.complaint());
        self.complaint()
    }
}

#[track_caller]
fn goes_on(solo: &Solo) {
    assert!(solo.ps().unwrap().contains("Up "), "{:?}", solo.ps());
    solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
    solo.logged("SIGUSR1");
}

#[test]
fn run_and_attach_leave_at_the_third_time() {
    let solo = Solo::running(&["/probe", "stubborn"]);
    let run = Client::start(&solo, &mut solo.run_command(&["--rm"]), "run");
    assert!(wait::file(&run.files.stdout, LIMIT, |text| text.contains("ready")), "{}", run.complaint());
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        run.asked(signal);
        solo.logged(signal.as_str());
    }
    run.asked(Signal::SIGINT);
    let said = run.leaves(1);
    assert!(said.contains(WORDS) && said.lines().count() == 1, "{said}");
    assert!(said.contains(&format!("shim kill {}", solo.name())), "{said}");
    goes_on(&solo);

    let attach = Client::start(&solo, &mut solo.command(&["attach", "--no-stdin", solo.name()]), "attach");
    let seen = wait::until(Duration::from_millis(20), LIMIT, || {
        solo.shim(&["kill", "-s", "USR2", solo.name()]).ok();
        fs::read_to_string(&attach.files.stdout).unwrap().contains("SIGUSR2").then_some(())
    });
    assert!(seen.is_some(), "{}", attach.complaint());
    for _ in 0..3 {
        attach.asked(Signal::SIGTERM);
    }
    let said = attach.leaves(1);
    assert!(said.contains(WORDS), "{said}");
    goes_on(&solo);
}

#[test]
fn three_times_ctrl_c_leave() {
    let solo = Solo::running(&["/probe", "stubborn"]);
    let pty = Pty::open();
    let mut run = pty.spawn(&mut solo.run_command(&["-i"]), solo.name());
    let mut terminal = pty.terminal;
    terminal.sees("ready");
    for times in 1..3 {
        terminal.types("\u{3}");
        terminal.sees_times("SIGINT", times);
    }
    terminal.types("\u{3}");
    assert!(wait::exited(run.id() as i32, LIMIT), "it stays: {}", terminal.peek());
    assert_eq!(command::code(run.wait().unwrap()), 1);
    terminal.sees(WORDS);
    goes_on(&solo);
}

#[test]
fn a_container_that_is_still_being_made_can_be_left_too() {
    let mut solo = Solo::new();
    let (begun, gate) = (solo.case.dir.join("begun"), solo.case.dir.join("gate"));
    command::tool("mkfifo", &[&gate]).ok();
    let script = format!("echo > {}; cat {}", begun.display(), gate.display());
    solo.case.spec["hooks"]["createRuntime"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let run = Client::start(&solo, &mut solo.run_command(&[]), "run");
    assert!(wait::exists(&begun, false, LIMIT), "{}", run.complaint());
    run.asked(Signal::SIGTERM);
    run.asked(Signal::SIGINT);
    run.asked(Signal::SIGINT);
    let said = run.leaves(125);
    assert!(said.contains(WORDS) && said.contains("still being made"), "{said}");
    // Whoever opens it to write lets the hook end: the container is made without us.
    drop(fs::File::options().write(true).open(&gate).unwrap());
    let ran = wait::until(Duration::from_millis(10), LIMIT, || {
        let line = solo.ps().unwrap();
        (line.contains("Up ") || line.contains("Exited")).then_some(())
    });
    assert!(ran.is_some(), "{:?}", solo.ps());
}

#[test]
fn exec_leaves_at_the_third_time_and_the_command_goes_on() {
    let solo = Solo::new();
    solo.hold();
    let exec = Client::start(&solo, &mut solo.command(&["exec", solo.name(), "/probe", "stubborn"]), "exec");
    assert!(wait::file(&exec.files.stdout, LIMIT, |text| text.contains("ready")), "{}", exec.complaint());
    for _ in 0..3 {
        exec.asked(Signal::SIGTERM);
    }
    let said = exec.leaves(1);
    assert!(said.contains(WORDS), "{said}");
    // It writes what it is sent, and nobody reads: that must not end it.
    for _ in 0..3 {
        solo.shim(&["exec", solo.name(), "/probe", "say", "there"]).ok();
        let processes = solo.shim(&["top", solo.name()]).ok().stdout;
        let line = processes.lines().find(|line| line.contains("/probe stubborn")).expect(&processes);
        let pid: i32 = line.split_whitespace().nth(1).unwrap().parse().expect(line);
        kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    }
    solo.shim(&["stop", solo.name()]).ok();
}

#[test]
fn a_terminal_is_not_attached_to_from_something_that_is_none() {
    let solo = Solo::new();
    solo.run(&["-d", "-t"]).ok();
    let out = solo.shim(&["attach", solo.name()]).is(1);
    assert!(out.stderr.contains("the input device is not a TTY") && out.stderr.contains("--no-stdin"), "{out}");
    let attach = Client::start(&solo, &mut solo.command(&["attach", "--no-stdin", solo.name()]), "attach");
    let seen = wait::until(Duration::from_millis(20), LIMIT, || {
        solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
        fs::read_to_string(&attach.files.stdout).unwrap().contains("SIGUSR1").then_some(())
    });
    assert!(seen.is_some(), "{}", attach.complaint());
    solo.shim(&["stop", solo.name()]).ok();
    attach.leaves(0);
}
