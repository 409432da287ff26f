//! create, start, kill, delete, run: what each does, when each is refused, and what they leave.

use std::time::Duration;

use integration::case::Case;
use integration::command::{self, LIMIT};
use integration::programs::Kind;
use integration::{not_on, wait};

#[test]
fn a_container_lives_from_create_to_delete() {
    let case = Case::new();
    case.create().ok();
    let state = case.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], case.id.as_str());
    assert_eq!(state["pid"], case.pid());
    assert_eq!(state["bundle"], case.bundle().to_str().unwrap());
    assert_eq!(case.output(), "", "nothing of the user's runs before start");

    case.start().ok();
    case.says("ready");
    assert_eq!(case.status(), "running");

    case.kill("TERM").ok();
    assert_eq!(case.wait(), 0);
    assert_eq!(case.status(), "stopped");

    case.delete().ok();
    case.call(&["state", &case.id]).refused(&[&case.id, "does not exist"]);
    case.nothing_left();
}

#[test]
fn run_ends_with_the_status_of_the_process() {
    for status in [0, 1, 7, 255] {
        let mut case = Case::new();
        case.args(&["/probe", "exit", &status.to_string()]);
        case.run().is(status);
        case.nothing_left();
    }
}

#[test]
fn run_ends_with_128_and_the_signal_that_killed_the_process() {
    let mut case = Case::new();
    // Outside a pid namespace of its own the process is nobody's init, so that a signal's default action works.
    case.without_namespace("pid").args(&["/probe", "wait"]);
    case.write();
    let files = case.files();
    let mut command = case.command();
    command.args(["run", "--bundle"]).arg(case.bundle()).arg("--pid-file").arg(case.dir.join("pid")).arg(&case.id);
    files.attach(&mut command);
    let mut run = command.spawn().unwrap();
    assert!(wait::file(&case.dir.join("pid"), LIMIT, |text| !text.is_empty()));
    let running = wait::until(Duration::from_millis(5), LIMIT, || {
        let out = case.call(&["state", &case.id]);
        (out.code == 0 && out.json()["status"] == "running").then_some(())
    });
    running.expect("a running container");
    case.kill("KILL").ok();
    assert_eq!(command::code(run.wait().unwrap()), 137);
    case.nothing_left();
}

#[test]
fn run_connects_stdin_stdout_and_stderr() {
    let mut case = Case::new();
    case.args(&["/probe", "cat"]);
    case.write();
    let input = case.dir.join("input");
    std::fs::write(&input, "some words").unwrap();
    let mut command = case.command();
    command.args(["run", "--bundle"]).arg(case.bundle()).arg(&case.id).stdin(std::fs::File::open(&input).unwrap());
    assert_eq!(command::run(&mut command, &case.files()).ok().stdout, "some words");

    case.args(&["/probe", "complain", "on", "stderr"]);
    let out = case.run().ok();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", "on stderr\n"));
}

#[test]
fn run_passes_signals_on_to_the_process() {
    let case = Case::new();
    case.write();
    let files = case.files();
    let mut command = case.command();
    command.args(["run", "--bundle"]).arg(case.bundle()).arg(&case.id);
    files.attach(&mut command);
    let mut run = command.spawn().unwrap();
    assert!(wait::file(&files.stdout, LIMIT, |text| text.contains("ready")));
    let pid = nix::unistd::Pid::from_raw(run.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    assert!(wait::file(&files.stdout, LIMIT, |text| text.contains("SIGHUP")), "SIGHUP reaches the process");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(command::code(run.wait().unwrap()), 2, "SIGINT reaches the process, whose status is run's");
    case.nothing_left();
}

#[test]
fn run_detached_returns_while_the_container_goes_on() {
    let case = Case::new();
    case.run_detached(&[]).ok();
    case.says("ready");
    let state = case.state();
    assert_eq!(state["status"], "running");
    assert_eq!(state["pid"], case.pid());
    let text = std::fs::read_to_string(case.dir.join("pid")).unwrap();
    assert_eq!(text, case.pid().to_string(), "a pid file is digits and no newline");
    case.kill("KILL").ok();
    assert_eq!(case.wait(), 137);
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn run_keeps_the_container_when_asked() {
    let mut case = Case::new();
    not_on!(case, "crun version 1.8.1", "has no --keep");
    case.args(&["/probe", "exit", "3"]);
    case.run_with(&["--keep"]).is(3);
    assert_eq!(case.status(), "stopped");
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn the_bundle_is_the_working_directory_unless_said_otherwise() {
    let mut case = Case::new();
    case.args(&["/probe", "say", "here"]);
    case.write();
    let mut command = case.command();
    command.args(["run", &case.id]).current_dir(case.bundle());
    assert_eq!(command::run(&mut command, &case.files()).ok().stdout, "here\n");

    let mut command = case.command();
    command.args(["run", "-b", "bundle", &case.id]).current_dir(&case.dir);
    assert_eq!(command::run(&mut command, &case.files()).ok().stdout, "here\n");
}

#[test]
fn a_pid_file_is_relative_to_the_callers_directory() {
    let case = Case::new();
    not_on!(case, "crun", "takes it relative to the bundle");
    case.write();
    let mut command = case.command();
    command
        .args(["create", "--bundle"])
        .arg(case.bundle())
        .args(["--pid-file", "here.pid", &case.id])
        .current_dir(&case.dir);
    command::run(&mut command, &case.files()).ok();
    let text = std::fs::read_to_string(case.dir.join("here.pid")).unwrap();
    assert_eq!(text, case.state()["pid"].to_string());
}

#[test]
fn a_process_that_ends_at_once_is_stopped_and_can_be_deleted() {
    let mut case = Case::new();
    case.args(&["/probe", "exit", "0"]);
    case.create().ok();
    case.start().ok();
    assert_eq!(case.wait(), 0);
    assert_eq!(case.status(), "stopped");
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn start_twice_is_refused_and_harms_nobody() {
    let case = Case::new();
    case.hold();
    case.start().refused(&[&case.id]);
    assert_eq!(case.status(), "running");
}

#[test]
fn start_of_a_stopped_container_is_refused() {
    let case = Case::new();
    case.hold();
    case.kill("TERM").ok();
    case.wait();
    case.start().refused(&[&case.id]);
    assert_eq!(case.status(), "stopped");
}

#[test]
fn kill_takes_names_and_numbers_and_means_term_without() {
    let case = Case::new();
    case.hold();
    for (signal, said) in [("SIGHUP", "SIGHUP"), ("USR2", "SIGUSR2"), ("28", "SIGWINCH")] {
        case.kill(signal).ok();
        case.says(said);
    }
    case.call(&["kill", &case.id]).ok();
    assert_eq!(case.wait(), 0, "TERM ends the probe with 0");
}

#[test]
fn a_signals_name_may_be_in_lower_case() {
    let case = Case::new();
    not_on!(case, "crun", "knows names in upper case only");
    case.hold();
    case.kill("usr1").ok();
    case.says("SIGUSR1");
}

#[test]
fn kill_of_a_stopped_container_is_refused() {
    let case = Case::new();
    case.hold();
    case.kill("KILL").ok();
    assert_eq!(case.wait(), 137);
    case.kill("TERM").refused(&["not running"]);
}

#[test]
fn kill_of_a_created_container_ends_it() {
    let case = Case::new();
    case.create().ok();
    case.kill("KILL").ok();
    assert_eq!(case.wait(), 137);
    assert_eq!(case.status(), "stopped");
    assert_eq!(case.output(), "");
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn kill_all_reaches_every_process_of_a_container_without_pid_namespace() {
    let mut case = Case::new();
    case.without_namespace("pid").args(&["/probe", "crowd", "3"]);
    case.hold();
    assert_eq!(integration::leak::processes(&case.id).len(), 4);
    case.call(&["kill", "--all", &case.id, "KILL"]).ok();
    assert_eq!(case.wait(), 137);
    let gone = wait::until(Duration::from_millis(5), LIMIT, || {
        integration::leak::processes(&case.id).is_empty().then_some(())
    });
    assert!(gone.is_some(), "every process is dead");
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn the_end_of_pid_1_ends_every_process_of_its_namespace() {
    let mut case = Case::new();
    case.args(&["/probe", "crowd", "3"]);
    case.hold();
    case.kill("KILL").ok();
    assert_eq!(case.wait(), 137);
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn delete_of_a_running_container_is_refused_and_harms_nobody() {
    let case = Case::new();
    case.hold();
    case.delete().refused(&[&case.id, "running"]);
    assert_eq!(case.status(), "running");
    case.exec(&["/probe", "say", "alive"]).ok();
}

#[test]
fn delete_with_force_ends_a_running_container() {
    let mut case = Case::new();
    case.args(&["/probe", "crowd", "2"]);
    case.hold();
    case.call(&["delete", "--force", &case.id]).ok();
    assert_eq!(case.wait(), 137);
    case.nothing_left();
}

#[test]
fn delete_with_force_ends_processes_that_share_the_hosts_pid_namespace() {
    let mut case = Case::new();
    case.without_namespace("pid").args(&["/probe", "crowd", "2"]);
    not_on!(case, "crun", "deletes with force while children in the host's pid namespace live on");
    not_on!(case, "runc version 1.1", "leaves the cgroup now and then, when the processes die late");
    case.hold();
    case.call(&["delete", "--force", &case.id]).ok();
    case.wait();
    let gone = wait::until(Duration::from_millis(5), LIMIT, || {
        integration::leak::processes(&case.id).is_empty().then_some(())
    });
    assert!(gone.is_some(), "every process is dead");
    case.nothing_left();
}

#[test]
fn delete_with_force_of_nothing_is_no_error() {
    let case = Case::new();
    case.call(&["delete", "--force", &case.id]).ok();
    case.delete().refused(&[&case.id, "does not exist"]);
}

#[test]
fn delete_of_a_created_container_ends_it() {
    let case = Case::new();
    case.create().ok();
    case.delete().ok();
    assert_eq!(case.wait(), 137);
    case.nothing_left();
}

#[test]
fn an_existing_id_is_refused_and_harms_nobody() {
    let case = Case::new();
    case.hold();
    let pid = case.pid();
    let out = case.call(&["create", "--bundle", case.bundle().to_str().unwrap(), &case.id]);
    out.refused(&[&case.id, "exists"]);
    assert_eq!(case.status(), "running");
    assert_eq!(case.state()["pid"], pid);
    case.exec(&["/probe", "say", "alive"]).ok();
}

#[test]
fn of_two_creates_at_once_one_wins() {
    for _ in 0..5 {
        let case = Case::new();
        not_on!(case, "runc version 1.1", "now and then both lose");
        case.write();
        let files = [case.files(), case.files()];
        let mut rivals: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(n, files)| {
                let mut command = case.command();
                command.args(["create", "--bundle"]).arg(case.bundle());
                command.arg("--pid-file").arg(case.dir.join(format!("rival{n}"))).arg(&case.id);
                files.attach(&mut command);
                command.spawn().unwrap()
            })
            .collect();
        let codes: Vec<i32> = rivals.iter_mut().map(|r| command::code(r.wait().unwrap())).collect();
        let said: Vec<String> = files.iter().map(|f| std::fs::read_to_string(&f.stderr).unwrap()).collect();
        assert_eq!(codes.iter().filter(|c| **c == 0).count(), 1, "exactly one wins: {codes:?} {said:?}");
        let loser = codes.iter().position(|c| *c != 0).unwrap();
        if case.runtime.kind == Kind::Tare {
            assert_eq!(codes[loser], 1, "{said:?}");
            assert_eq!(said[loser].lines().count(), 1, "{said:?}");
            assert!(said[loser].contains(&case.id), "{said:?}");
        }
        let winner = std::fs::read_to_string(case.dir.join(format!("rival{}", 1 - loser))).unwrap();
        assert_eq!(case.state()["pid"].to_string(), winner, "the state is the winner's");
        case.start().ok();
        case.call(&["delete", "--force", &case.id]).ok();
        integration::leak::reap(winner.parse().unwrap());
        case.nothing_left();
    }
}

#[test]
fn fifty_containers_one_after_the_other_leave_nothing() {
    let mut case = Case::new();
    case.args(&["/probe", "exit", "0"]);
    for _ in 0..50 {
        case.run().ok();
    }
    case.nothing_left();
}
