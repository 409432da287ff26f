//! run, ps, exec, stop, start, wait, kill, rm.

use std::fs;
use std::os::unix::process::CommandExt;

use integration::command::{self, LIMIT};
use integration::wait;
use serde_json::json;

use crate::{Solo, over_others};

#[test]
fn the_whole_life_of_a_detached_container() {
    let solo = Solo::new();
    solo.hold();
    let line = solo.ps().expect("a line in ps");
    assert!(line.contains("Up "), "{line}");
    assert!(solo.shim(&["ps"]).ok().stdout.contains(solo.name()));

    let report = solo.shim(&["exec", solo.name(), "/probe", "report"]).ok().report();
    assert_eq!(report.processes.get(&1).map(String::as_str), Some("probe"));
    assert_eq!(report.hostname, "tare-test");

    assert_eq!(solo.shim(&["stop", solo.name()]).ok().stdout, format!("{}\n", solo.name()));
    assert!(!solo.shim(&["ps"]).ok().stdout.contains(solo.name()), "ps shows what runs");
    let line = solo.ps().expect("ps -a shows what ended");
    assert!(line.contains("Exited (0)"), "{line}");
    assert!(solo.shim(&["logs", solo.name()]).ok().stdout.contains("SIGTERM"));
    let exit = solo.exit_json();
    assert_eq!(exit["code"], 0);
    assert!(exit["finished"].as_str().unwrap() >= exit["started"].as_str().unwrap());

    solo.shim(&["rm", solo.name()]).ok();
    assert!(solo.ps().is_none());
    solo.gone();
}

#[test]
fn the_same_over_other_runtimes() {
    over_others(|solo| {
        solo.hold();
        assert_eq!(solo.shim(&["exec", solo.name(), "/probe", "say", "hello"]).ok().stdout, "hello\n");
        solo.shim(&["exec", solo.name(), "/probe", "exit", "5"]).is(5);
        solo.shim(&["stop", solo.name()]).ok();
        assert_eq!(solo.exit_json()["code"], 0);
        solo.shim(&["rm", solo.name()]).ok();
        solo.gone();
    });
}

#[test]
fn in_the_foreground_it_passes_output_and_status_on() {
    let solo = Solo::running(&["/probe", "say", "hello"]);
    let out = solo.run(&["--rm"]).ok();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("hello\n", ""));
    solo.gone();
    let solo = Solo::running(&["/probe", "complain", "hello"]);
    let out = solo.run(&["--rm"]).ok();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", "hello\n"));
    for status in [1, 7, 255] {
        let solo = Solo::running(&["/probe", "exit", &status.to_string()]);
        solo.run(&["--rm"]).is(status);
    }
}

#[test]
fn in_the_foreground_signals_reach_the_container() {
    let solo = Solo::new();
    let files = solo.case.files();
    let mut command = solo.run_command(&["--rm"]);
    files.attach(&mut command);
    let mut run = command.spawn().unwrap();
    assert!(
        wait::file(&files.stdout, LIMIT, |t| t.contains("ready")),
        "{}",
        fs::read_to_string(&files.stderr).unwrap()
    );
    let pid = nix::unistd::Pid::from_raw(run.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    assert!(wait::file(&files.stdout, LIMIT, |t| t.contains("SIGHUP")));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(command::code(run.wait().unwrap()), 2);
}

#[test]
fn it_lives_on_when_the_session_that_started_it_dies() {
    let solo = Solo::new();
    // A shell in a process group and session of its own, killed with everything in it right after.
    let mut command = solo.run_command(&["-d"]);
    let mut shell = std::process::Command::new("setsid");
    shell
        .args(["-w", "sh", "-c", "\"$@\" && kill -KILL -$$", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.env("TARE_TEST", solo.name()).stdin(solo.case.stdin());
    let files = solo.case.files();
    files.attach(&mut shell);
    let _ = shell.process_group(0).status().unwrap();
    let _ = command.stdin(std::process::Stdio::null());
    solo.logged("ready");
    solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
    solo.logged("SIGUSR1");
    assert!(solo.ps().unwrap().contains("Up "));
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 0);
}

#[test]
fn the_end_is_recorded_though_nobody_watches() {
    let solo = Solo::running(&["/probe", "exit", "9"]);
    solo.run(&["-d"]).ok();
    let out = solo.shim(&["wait", solo.name()]).ok();
    assert_eq!(out.stdout, "9\n");
    assert_eq!(solo.exit_json()["code"], 9);
    assert!(solo.ps().unwrap().contains("Exited (9)"));
    // And again, long after.
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "9\n");
}

#[test]
fn a_signals_death_is_128_and_its_number() {
    let solo = Solo::running(&["/probe", "wait"]);
    solo.run(&["-d"]).ok();
    solo.shim(&["kill", solo.name()]).ok();
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "137\n");
    let exit = solo.exit_json();
    assert_eq!((&exit["code"], &exit["signal"]), (&json!(137), &json!(9)));
}

#[test]
fn stop_asks_with_the_images_signal_first() {
    let mut solo = Solo::new();
    solo.case.spec["annotations"] = json!({ "org.opencontainers.image.stopSignal": "SIGINT" });
    solo.hold();
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 2, "SIGINT ends the probe with 2");
}

#[test]
fn stop_kills_what_does_not_listen() {
    let solo = Solo::running(&["/probe", "wait"]);
    solo.run(&["-d"]).ok();
    solo.shim(&["stop", "-t", "1", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 137);
    // Stopping what has stopped is no error.
    solo.shim(&["stop", solo.name()]).ok();
}

#[test]
fn it_can_be_started_again() {
    let solo = Solo::new();
    solo.hold();
    solo.shim(&["stop", solo.name()]).ok();
    solo.shim(&["start", solo.name()]).ok();
    assert!(solo.ps().unwrap().contains("Up "));
    solo.shim(&["exec", solo.name(), "/probe", "say", "again"]).ok();
    solo.shim(&["stop", solo.name()]).ok();
    let log = solo.shim(&["logs", solo.name()]).ok().stdout;
    assert_eq!(log.matches("SIGTERM").count(), 2, "the log goes on: {log}");
}

#[test]
fn exec_ends_with_the_commands_status_and_takes_stdin() {
    let solo = Solo::new();
    solo.hold();
    for status in [0, 3, 255] {
        solo.shim(&["exec", solo.name(), "/probe", "exit", &status.to_string()]).is(status);
    }
    fs::write(solo.case.dir.join("words"), "through exec").unwrap();
    let mut command = solo.command(&["exec", "-i", solo.name(), "/probe", "cat"]);
    command.stdin(fs::File::open(solo.case.dir.join("words")).unwrap());
    assert_eq!(command::run(&mut command, &solo.case.files()).ok().stdout, "through exec");
    let out = solo.shim(&["exec", solo.name(), "/no/such/program"]);
    assert!(matches!(out.code, 126 | 127), "{out}");
    assert!(out.stderr.contains("/no/such/program") && out.stderr.lines().count() == 1, "{out}");
    assert!(solo.ps().unwrap().contains("Up "));
}

#[test]
fn exec_detached_goes_on_beside() {
    let solo = Solo::new();
    solo.hold();
    solo.shim(&["exec", "-d", solo.name(), "/probe", "wait"]).ok();
    let report = solo.shim(&["exec", solo.name(), "/probe", "report"]).ok().report();
    assert_eq!(report.processes.len(), 3, "{:?}", report.processes);
    solo.shim(&["stop", solo.name()]).ok();
}

#[test]
fn rm_refuses_what_runs_unless_forced() {
    let solo = Solo::new();
    solo.hold();
    let out = solo.shim(&["rm", solo.name()]).is(1);
    assert!(out.stderr.contains(solo.name()) && out.stderr.lines().count() == 1, "{out}");
    assert!(solo.ps().unwrap().contains("Up "));
    solo.shim(&["rm", "-f", solo.name()]).ok();
    assert!(solo.ps().is_none());
    solo.gone();
}

#[test]
fn with_rm_nothing_stays_after_the_end() {
    let solo = Solo::new();
    solo.run(&["-d", "--rm"]).ok();
    let _ = solo.shim(&["stop", solo.name()]);
    solo.gone();
}

#[test]
fn the_monitors_death_is_seen_and_cleaned_up() {
    let solo = Solo::new();
    solo.hold();
    let monitor = solo.monitor();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(wait::exited(monitor, LIMIT));
    integration::leak::reap(monitor);
    let line = solo.ps().expect("it is still listed");
    assert!(line.contains("Up ") && line.contains("lost"), "{line}");
    // The container itself lives, and can be entered and removed.
    assert!(!integration::leak::processes(solo.name()).is_empty());
    solo.shim(&["rm", "-f", solo.name()]).ok();
    solo.gone();
}

#[test]
fn twenty_at_once() {
    let solos: Vec<Solo> = (0..20).map(|_| Solo::new()).collect();
    let mut runs: Vec<_> = solos
        .iter()
        .map(|solo| {
            let mut command = solo.run_command(&["-d"]);
            solo.case.files().attach(&mut command);
            command.spawn().unwrap()
        })
        .collect();
    for run in &mut runs {
        assert_eq!(command::code(run.wait().unwrap()), 0);
    }
    for solo in &solos {
        solo.logged("ready");
        solo.shim(&["exec", solo.name(), "/probe", "exit", "0"]).ok();
    }
    for solo in &solos {
        solo.shim(&["stop", solo.name()]).ok();
        assert_eq!(solo.exit_json()["code"], 0);
    }
}
