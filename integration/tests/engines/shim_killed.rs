//! SIGKILL to the shim under containerd, and many rounds at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration::command::{Files, LIMIT};
use integration::peer::containerd::Containerd;
use integration::place::Place;
use integration::{leak, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::containerd::{IMAGE, containerd, status, web};

/// Pids of the shims of this containerd.
pub(crate) fn shims(containerd: &Containerd) -> Vec<i32> {
    let mut pids = leak::processes(&containerd.id);
    pids.retain(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).starts_with("containerd-shim-")
    });
    pids
}

/// The sockets of these shims.
pub(crate) fn sockets(pids: &[i32]) -> Vec<PathBuf> {
    let line = |pid: &i32| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap()).into_owned();
    let path = |line: String| line.split('\0').find_map(|word| word.strip_prefix("unix://").map(PathBuf::from));
    pids.iter().filter_map(|pid| path(line(pid))).collect()
}

/// Everything that bears the id but containerd itself and its directory's mounts.
#[track_caller]
fn nothing_of(containerd: &Containerd, what: &str) {
    let left = || {
        let mut left = leak::find(&containerd.id);
        // The namespace's own cgroup outlives its containers, as with other shims.
        left.retain(|line| !line.contains("containerd --config") && !line.ends_with(&format!("/{}", containerd.id)));
        // What the runtime has on record of them goes last, by a helper that containerd starts and ends with itself.
        let records = std::fs::read_dir(Path::new("/run/containerd/tare").join(&containerd.id));
        left.extend(records.into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()));
        left
    };
    let gone = wait::until(Duration::from_millis(20), LIMIT, || left().is_empty().then_some(()));
    assert!(gone.is_some(), "{what}: left behind:\n{}\n{}", left().join("\n"), containerd.said());
}

#[test]
fn a_killed_shim_is_noticed_and_cleaned_up_after() {
    let place = Place::new();
    let containerd = containerd(&place);
    web(&containerd);
    let pids = shims(&containerd);
    let sockets = sockets(&pids);
    assert_eq!((pids.len(), sockets.len()), (1, 1));
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
    let ended = wait::until(Duration::from_millis(20), LIMIT, || {
        (!matches!(status(&containerd, "web").as_str(), "RUNNING")).then_some(())
    });
    assert!(ended.is_some(), "{}", containerd.said());
    let _ = containerd.ctr(&["tasks", "delete", "--force", "web"]);
    containerd.ctr(&["containers", "delete", "web"]).ok();
    nothing_of(&containerd, "killed while the container runs");
    assert!(!sockets[0].exists(), "its socket is removed");
}

#[test]
fn a_shim_that_is_killed_at_any_moment_leaves_nothing() {
    let place = Place::new();
    let containerd = containerd(&place);
    let runtime = Containerd::runtime();
    for n in 0..24 {
        let name = format!("c{n}");
        let mut run = containerd.ctr_command(&["run", "-d", "--runtime", &runtime, IMAGE, &name]);
        let files = Files::new(&place.dir, &name);
        files.attach(&mut run);
        let mut run = run.spawn().unwrap();
        let start = Instant::now();
        let victim = wait::until(Duration::from_millis(1), LIMIT, || shims(&containerd).first().copied());
        // A different moment each time, from its first to well after the start.
        let moment = Duration::from_millis(n * 4);
        let _: Option<()> = wait::until(moment, moment, || None);
        if let Some(victim) = victim {
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
        }
        assert!(wait::exited(i32::try_from(run.id()).unwrap(), LIMIT), "{name}: ctr hangs");
        let _ = run.wait();
        let what = format!("{name}, killed after {moment:?} of {:?}", start.elapsed());
        let _ = containerd.ctr(&["tasks", "delete", "--force", &name]);
        let _ = containerd.ctr(&["containers", "delete", &name]);
        nothing_of(&containerd, &what);
    }
}

#[test]
fn many_rounds_of_start_exec_and_kill_at_once() {
    const CONTAINERS: usize = 20;
    let all = std::env::var("TARE_TEST_ROUNDS").ok().and_then(|all| all.parse::<usize>().ok());
    let rounds = all.map_or(2, |all| all / CONTAINERS);
    let place = Place::new();
    let containerd = containerd(&place);
    let runtime = Containerd::runtime();
    let run = |words: &[&str], file: &str| {
        let files = Files::new(&place.dir, file);
        integration::command::run(&mut containerd.ctr_command(words), &files)
    };
    std::thread::scope(|scope| {
        for n in 0..CONTAINERS {
            let (run, runtime) = (&run, &runtime);
            scope.spawn(move || {
                let name = format!("c{n}");
                for round in 0..rounds {
                    run(&["run", "-d", "--runtime", runtime, IMAGE, &name], &name).ok();
                    let exec = ["tasks", "exec", "--exec-id", "e", &name, "/probe", "exit", "3"];
                    run(&exec, &name).is(3);
                    run(&["tasks", "kill", "-s", "SIGKILL", &name], &name).ok();
                    let ended = wait::until(Duration::from_millis(20), LIMIT, || {
                        let table = run(&["tasks", "ls"], &name).ok().stdout;
                        let line = table.lines().find(|line| line.split_whitespace().next() == Some(&name))?.to_owned();
                        line.contains("STOPPED").then_some(())
                    });
                    assert!(ended.is_some(), "{name}, round {round}: its end is lost");
                    let out = run(&["tasks", "delete", &name], &name);
                    assert!(out.code == 137 || out.stderr.contains("exit code 137"), "{out}");
                    run(&["containers", "delete", &name], &name).ok();
                }
            });
        }
    });
    nothing_of(&containerd, "after all rounds");
}
