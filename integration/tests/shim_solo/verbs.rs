//! restart policies, log drivers, pause, inspect, top, stats, update, events, rename, prune, and flags of ps, logs, exec.

use std::fs;
use std::time::Duration;

use integration::command::{self, LIMIT};
use integration::wait;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::Solo;

fn inspect(solo: &Solo) -> Value {
    let text = solo.shim(&["inspect", solo.name()]).ok().stdout;
    let list: Value = serde_json::from_str(&text).unwrap();
    list[0].clone()
}

#[track_caller]
fn becomes(solo: &Solo, status: &str) {
    let seen = wait::until(Duration::from_millis(10), LIMIT, || (inspect(solo)["status"] == status).then_some(()));
    assert!(seen.is_some(), "{}", inspect(solo));
}

#[test]
fn what_fails_is_run_again_as_often_as_was_said() {
    let solo = Solo::running(&["/probe", "exit", "7"]);
    solo.run(&["-d", "--restart", "on-failure:2"]).ok();
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "7\n");
    let container = inspect(&solo);
    assert_eq!((&container["restarts"], &container["status"]), (&2.into(), &"exited".into()));
    assert_eq!(solo.exit_json()["code"], 7);
    // Started by hand, the count begins anew.
    solo.shim(&["start", solo.name()]).ok();
    solo.shim(&["wait", solo.name()]).ok();
    assert_eq!(inspect(&solo)["restarts"], 2);
}

/// On the cgroups that the test is asked to use, version 1 or 2.
#[test]
fn a_kill_for_memory_is_told() {
    if !integration::cgroups::has("memory") {
        integration::skip!("there is no memory controller");
    }
    let mut solo = Solo::running(&["/probe", "eat"]);
    const LIMIT: u64 = 16 << 20;
    solo.case.spec["linux"]["resources"]["memory"] = serde_json::json!({"limit": LIMIT, "swap": LIMIT});
    solo.run(&["-d"]).ok();
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "137\n");
    assert_eq!(solo.exit_json()["oom_killed"], true, "it is recorded");
    let container = inspect(&solo);
    assert_eq!((&container["oom_killed"], &container["exit"]["oom_killed"]), (&true.into(), &true.into()));
    assert!(solo.ps().unwrap().contains("Exited (137, out of memory)"), "{}", solo.ps().unwrap());
    // A kill by hand is none for memory, and another run is another matter.
    let mut solo = Solo::new();
    solo.case.spec["linux"]["resources"]["memory"] = serde_json::json!({"limit": 4 * LIMIT});
    solo.hold();
    solo.shim(&["kill", solo.name()]).ok();
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "137\n");
    assert_eq!(inspect(&solo)["oom_killed"], false);
    assert!(solo.ps().unwrap().contains("Exited (137) "));
}

#[test]
fn success_is_no_failure() {
    let solo = Solo::running(&["/probe", "exit", "0"]);
    solo.run(&["-d", "--restart", "on-failure"]).ok();
    solo.shim(&["wait", solo.name()]).ok();
    assert_eq!(inspect(&solo)["restarts"], 0);
}

#[test]
fn what_is_always_run_again_can_be_stopped() {
    let solo = Solo::new();
    solo.run(&["-d", "--restart", "always"]).ok();
    solo.logged("ready");
    solo.shim(&["kill", "-s", "INT", solo.name()]).ok();
    let again = wait::until(Duration::from_millis(10), LIMIT, || {
        (solo.shim(&["logs", solo.name()]).ok().stdout.matches("ready").count() == 2).then_some(())
    });
    assert!(again.is_some(), "it is run again");
    solo.shim(&["exec", solo.name(), "/probe", "say", "there"]).ok();
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(inspect(&solo)["status"], "exited");
    // While it rests, too.
    let solo = Solo::running(&["/probe", "exit", "1"]);
    solo.run(&["-d", "--restart", "always"]).ok();
    becomes(&solo, "restarting");
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(inspect(&solo)["status"], "exited");
    solo.shim(&["rm", solo.name()]).ok();
    solo.gone();
}

#[test]
fn what_has_just_ended_is_not_run_again_when_it_is_stopped() {
    let solo = Solo::new();
    solo.run(&["-d", "--restart", "always"]).ok();
    solo.logged("ready");
    let (monitor, init) = (solo.monitor(), inspect(&solo)["pid"].as_i64().unwrap());
    let monitor = nix::unistd::Pid::from_raw(monitor);
    // It ended, and its monitor has not seen that yet.
    kill(monitor, Signal::SIGSTOP).unwrap();
    kill(nix::unistd::Pid::from_raw(init.try_into().unwrap()), Signal::SIGKILL).unwrap();
    let dead = || fs::read_to_string(format!("/proc/{init}/stat")).unwrap().contains(") Z ").then_some(());
    assert!(wait::until(Duration::from_millis(5), LIMIT, dead).is_some());
    let mut stop = solo.command(&["stop", solo.name()]).stdout(std::process::Stdio::null()).spawn().unwrap();
    // Stop waits for the monitor now: it is connected.
    let connected = || {
        let sockets = fs::read_dir(format!("/proc/{}/fd", stop.id())).ok()?.flatten();
        let links: Vec<_> = sockets.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
        links.iter().any(|link| link.to_string_lossy().starts_with("socket:")).then_some(())
    };
    assert!(wait::until(Duration::from_millis(5), LIMIT, connected).is_some());
    kill(monitor, Signal::SIGCONT).unwrap();
    let ended = wait::exited(stop.id().try_into().unwrap(), LIMIT);
    let _: std::io::Result<()> = stop.kill();
    stop.wait().unwrap();
    assert!(ended, "stop waits for an end that does not come");
    assert_eq!(inspect(&solo)["status"], "exited");
}

#[test]
fn a_killed_container_stays_dead_and_an_update_ends_restarts() {
    let solo = Solo::new();
    solo.run(&["-d", "--restart", "unless-stopped"]).ok();
    solo.logged("ready");
    solo.shim(&["kill", solo.name()]).ok();
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "137\n");
    solo.shim(&["start", solo.name()]).ok();
    solo.shim(&["update", "--restart", "no", solo.name()]).ok();
    solo.shim(&["kill", "-s", "INT", solo.name()]).ok();
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "2\n");
}

#[test]
fn who_gives_no_bundle_learns_how_one_is_made() {
    let solo = Solo::new();
    let run = |bundle: &str| solo.shim(&["run", "--name", solo.name(), bundle]).is(125).stderr;
    let said = run("busybox:latest");
    assert!(said.contains("no such directory") && said.contains("imgtool bundle busybox:latest"), "{said}");
    let empty = solo.case.dir.join("empty");
    fs::create_dir(&empty).unwrap();
    let said = run(empty.to_str().unwrap());
    assert!(said.contains("no config.json") && said.contains("imgtool bundle"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    solo.gone();
}

#[test]
fn who_waits_for_one_that_removes_itself() {
    let solo = Solo::new();
    solo.run(&["-d", "--rm"]).ok();
    let files = solo.case.files();
    let mut waiting = solo.command(&["wait", solo.name()]);
    files.attach(&mut waiting);
    let mut waiting = waiting.spawn().unwrap();
    // It is a client of the monitor by then, or comes too late; either way it tells the truth.
    solo.shim(&["kill", "-s", "INT", solo.name()]).ok();
    let code = command::code(waiting.wait().unwrap());
    let (out, err) = (fs::read_to_string(&files.stdout).unwrap(), fs::read_to_string(&files.stderr).unwrap());
    let told = (code, out.as_str()) == (0, "2\n");
    let late = code == 1 && err.contains("no such container") && err.lines().count() == 1;
    assert!(told || late, "{code} {out} {err}");
    // From now on there is none.
    solo.gone();
    let out = solo.shim(&["wait", solo.name()]).is(1);
    assert!(out.stderr.contains("no such container") && out.stdout.is_empty(), "{out}");
}

#[test]
fn contradictions_are_refused() {
    let solo = Solo::new();
    for (flags, words) in [
        (&["-d", "--rm", "--restart", "always"][..], "--rm and --restart"),
        (&["-d", "--restart", "sometimes"], "sometimes"),
        (&["-d", "--log-driver", "paper"], "paper"),
        (&["-d", "--log-opt", "max-size=lots"], "max-size=lots"),
        (&["-d", "--log-opt", "max-file=3"], "max-size"),
        (&["-d", "--detach-keys", "ctrl-1"], "ctrl-1"),
        (&["-d", "--stop-signal", "NONSENSE"], "NONSENSE"),
    ] {
        let out = solo.run(flags).is(125);
        assert!(out.stderr.contains(words), "{out}");
    }
    solo.gone();
}

#[test]
fn logs_rotate_and_are_read_across_files() {
    for driver in ["json-file", "k8s-file"] {
        let solo = Solo::running(&["/probe", "flood", "2000"]);
        let limits = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
        solo.run(&[&["-d", "--log-driver", driver][..], &limits].concat()).ok();
        solo.shim(&["wait", solo.name()]).ok();
        let dir = solo.case.dir.join("containers").join(solo.name());
        for name in ["log", "log.1", "log.2"] {
            let size = fs::metadata(dir.join(name)).unwrap().len();
            assert!(size <= 20 * 1024, "{name}: {size}");
        }
        assert!(!dir.join("log.3").exists());
        let lines: Vec<String> = solo.shim(&["logs", solo.name()]).ok().stdout.lines().map(str::to_owned).collect();
        assert_eq!(lines.last().unwrap(), "line 1999");
        let first: usize = lines[0].strip_prefix("line ").unwrap().parse().unwrap();
        let expected: Vec<_> = (first..2000).map(|number| format!("line {number}")).collect();
        assert!(lines == expected && lines.len() > 300, "{} lines from {first}", lines.len());
        assert_eq!(solo.shim(&["logs", "-n", "2", solo.name()]).ok().stdout, "line 1998\nline 1999\n");
        let followed = solo.shim(&["logs", "-f", "--tail", "1", solo.name()]).ok().stdout;
        assert_eq!(followed, "line 1999\n");
    }
}

#[test]
fn logs_can_be_cut_by_time() {
    let solo = Solo::running(&["/probe", "say", "hello"]);
    solo.run(&["-d"]).ok();
    solo.shim(&["wait", solo.name()]).ok();
    assert_eq!(solo.shim(&["logs", "--since", "1h", solo.name()]).ok().stdout, "hello\n");
    assert_eq!(solo.shim(&["logs", "--until", "1h", solo.name()]).ok().stdout, "");
    assert_eq!(solo.shim(&["logs", "--since", "2999-01-01", solo.name()]).ok().stdout, "");
    let line = solo.shim(&["logs", "-t", solo.name()]).ok().stdout;
    assert!(line.ends_with("Z hello\n") && line.starts_with("20"), "{line}");
    assert!(solo.shim(&["logs", "--since", "yesterday", solo.name()]).is(1).stderr.contains("yesterday"));
    let silent = Solo::running(&["/probe", "say", "hello"]);
    assert_eq!(silent.run(&["--log-driver", "none"]).ok().stdout, "hello\n");
    assert!(silent.shim(&["logs", silent.name()]).is(1).stderr.contains("keeps no log"));
}

#[test]
fn a_paused_container_is_thawed_to_be_stopped() {
    let solo = Solo::new();
    solo.hold();
    solo.shim(&["pause", solo.name()]).ok();
    assert_eq!(inspect(&solo)["status"], "paused");
    assert!(solo.ps().unwrap().contains("(Paused)"));
    solo.shim(&["pause", solo.name()]).is(1);
    let exec = solo.shim(&["exec", solo.name(), "/probe", "say", "there"]).is(1);
    assert!(exec.stderr.contains("unpause it first"), "{exec}");
    solo.shim(&["unpause", solo.name()]).ok();
    assert_eq!(inspect(&solo)["status"], "running");
    solo.shim(&["unpause", solo.name()]).is(1);
    solo.shim(&["pause", solo.name()]).ok();
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 0, "it heard the signal");
    solo.shim(&["start", solo.name()]).ok();
    assert_eq!(inspect(&solo)["status"], "running", "not paused any more");
    solo.shim(&["pause", solo.name()]).ok();
    solo.shim(&["rm", "-f", solo.name()]).ok();
    solo.gone();
}

#[test]
fn ps_filters_and_formats() {
    let solo = Solo::new();
    solo.hold();
    assert_eq!(solo.shim(&["ps", "-q"]).ok().stdout, format!("{}\n", solo.name()));
    assert_eq!(solo.shim(&["ps", "-q", "-f", "name=nobody"]).ok().stdout, "");
    assert_eq!(solo.shim(&["ps", "-q", "-f", "status=exited"]).ok().stdout, "");
    let list: Value = serde_json::from_str(&solo.shim(&["ps", "--format", "json"]).ok().stdout).unwrap();
    assert_eq!((&list[0]["name"], &list[0]["status"]), (&solo.name().into(), &"running".into()));
    assert!(list[0]["pid"].as_u64().unwrap() > 1);
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(solo.shim(&["ps", "-q", "-f", "status=exited"]).ok().stdout, format!("{}\n", solo.name()));
    assert!(solo.shim(&["ps", "-f", "color=red"]).is(1).stderr.contains("color=red"));
}

#[test]
fn restart_rename_and_prune() {
    let solo = Solo::new();
    solo.hold();
    let first = inspect(&solo)["pid"].clone();
    solo.shim(&["restart", solo.name()]).ok();
    assert_ne!(inspect(&solo)["pid"], first);
    let other = format!("{}-other", solo.name());
    assert!(solo.shim(&["rename", solo.name(), &other]).is(1).stderr.contains("stop it first"));
    assert!(solo.shim(&["prune", "--force"]).ok().stdout.is_empty(), "it runs");
    solo.shim(&["stop", solo.name()]).ok();
    solo.shim(&["rename", solo.name(), "a/b"]).is(1);
    solo.shim(&["rename", solo.name(), &other]).ok();
    solo.shim(&["start", &other]).ok();
    solo.shim(&["exec", &other, "/probe", "say", "renamed"]).ok();
    solo.shim(&["stop", &other]).ok();
    assert!(solo.shim(&["prune"]).is(1).stderr.contains("--force"), "nobody is there to ask");
    assert_eq!(solo.shim(&["prune", "--force"]).ok().stdout, format!("{other}\n"));
    solo.gone();
}

#[test]
fn top_and_stats_show_what_runs() {
    let solo = Solo::new();
    solo.hold();
    let top = solo.shim(&["top", solo.name()]).ok().stdout;
    assert!(top.contains("/probe"), "{top}");
    let stats = solo.shim(&["stats", "--no-stream", "--format", "json"]).ok().stdout;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats[0]["name"], solo.name());
    let table = solo.shim(&["stats", "--no-stream", solo.name()]).ok().stdout;
    assert!(table.lines().nth(1).unwrap().starts_with(solo.name()), "{table}");
    solo.shim(&["stop", solo.name()]).ok();
    solo.shim(&["stats", "--no-stream", solo.name()]).is(1);
    solo.shim(&["top", solo.name()]).is(1);
}

#[test]
fn events_tell_a_life() {
    let solo = Solo::new();
    let files = solo.case.files();
    let mut events = solo.command(&["events", "--format", "json"]);
    files.attach(&mut events);
    let mut events = events.spawn().unwrap();
    // It makes the directory before it looks, and looks before it can tell anything: one container to see that it does.
    let told = |words: &str| wait::file(&files.stdout, LIMIT, |text| text.contains(words));
    let listens = wait::until(Duration::from_millis(50), LIMIT, || {
        solo.run(&["-d"]).ok();
        solo.shim(&["rm", "-f", solo.name()]).ok();
        (!fs::read_to_string(&files.stdout).unwrap().is_empty()).then_some(())
    });
    assert!(listens.is_some());
    assert!(told("\"destroy\""));
    solo.hold();
    assert!(told("\"start\""), "{}", fs::read_to_string(&files.stdout).unwrap());
    solo.shim(&["kill", "-s", "INT", solo.name()]).ok();
    assert!(told("\"exit_code\":2"), "{}", fs::read_to_string(&files.stdout).unwrap());
    events.kill().unwrap();
    events.wait().unwrap();
}

#[test]
fn exec_changes_user_directory_and_environment() {
    let solo = Solo::new();
    solo.hold();
    let exec = |flags: &[&str]| {
        let words = [&["exec"][..], flags, &[solo.name(), "/probe", "report"]].concat();
        solo.shim(&words).ok().report()
    };
    let report = exec(&["-u", "33:44", "-w", "/tmp", "-e", "A=b"]);
    assert_eq!((report.uid[0], report.gid[0]), (33, 44));
    assert_eq!(report.cwd, "/tmp");
    assert_eq!(report.env.get("A").map(String::as_str), Some("b"));
    let out = solo.shim(&["exec", "-u", "nobody-knows", solo.name(), "/probe", "report"]).is(1);
    assert!(out.stderr.contains("nobody-knows") && out.stderr.lines().count() == 1, "{out}");
    solo.shim(&["exec", "-w", "relative", solo.name(), "/probe", "report"]).is(1);
}

#[test]
fn a_pidfile_and_the_keys_of_the_container() {
    let solo = Solo::new();
    let pidfile = solo.case.dir.join("pid-of-init");
    solo.run(&["-d", "--pidfile", pidfile.to_str().unwrap(), "--stop-timeout", "3"]).ok();
    let pid: u64 = fs::read_to_string(&pidfile).unwrap().parse().unwrap();
    assert_eq!(inspect(&solo)["pid"], pid);
    solo.shim(&["stop", solo.name()]).ok();
    let gone = wait::until(Duration::from_millis(10), LIMIT, || (!pidfile.exists()).then_some(()));
    assert!(gone.is_some());
}

#[test]
fn an_attached_script_can_leave() {
    let solo = Solo::new();
    solo.hold();
    let files = solo.case.files();
    let mut attach = solo.command(&["attach", "--sig-proxy=false", "--no-stdin", solo.name()]);
    files.attach(&mut attach);
    let mut attach = attach.spawn().unwrap();
    let seen = wait::until(Duration::from_millis(20), LIMIT, || {
        solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
        fs::read_to_string(&files.stdout).unwrap().contains("SIGUSR1").then_some(())
    });
    assert!(seen.is_some());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(attach.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(command::code(attach.wait().unwrap()), 128 + 15);
    assert_eq!(inspect(&solo)["status"], "running");
    assert!(!solo.shim(&["logs", solo.name()]).ok().stdout.contains("SIGTERM"));
}

#[test]
fn exec_gives_all_privileges_when_asked() {
    let solo = Solo::new();
    solo.hold();
    let exec = |flags: &[&str]| {
        let words = [&["exec"][..], flags, &[solo.name(), "/probe", "report"]].concat();
        solo.shim(&words).ok().report()
    };
    let (plain, privileged) = (exec(&[]), exec(&["--privileged"]));
    const SYS_ADMIN: u64 = 1 << 21;
    assert!(plain.no_new_privs && plain.caps.effective & SYS_ADMIN == 0, "{plain:?}");
    assert!(!privileged.no_new_privs, "{privileged:?}");
    for set in [privileged.caps.effective, privileged.caps.bounding, privileged.caps.ambient] {
        assert_ne!(set & SYS_ADMIN, 0, "{privileged:?}");
    }
}
