//! exec in a cgroup below the container's, and in a container whose init has moved to one.

use std::fs;
use std::path::{Path, PathBuf};

use integration::case::Case;
use integration::cgroups::{self, Mode};
use integration::command::Out;
use integration::{not_on, skip};

/// The line of v2, which is the last one on a host that has v1 as well.
fn line(case: &Case, flags: &[&str]) -> String {
    lines(case, flags).lines().find(|line| line.starts_with("0::")).unwrap().to_owned()
}

/// /proc/PID/cgroup of a process that is run there.
fn lines(case: &Case, flags: &[&str]) -> String {
    let pid_file = case.dir.join("exec.pid");
    let mut all = vec!["--detach", "--pid-file", pid_file.to_str().unwrap()];
    all.extend(flags);
    case.exec_with(&all, &["/probe", "hold"]).ok();
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
    lines
}

fn refused(case: &Case, cgroup: &str) -> Out {
    let out = case.exec_with(&["--cgroup", cgroup], &["/probe", "say", "hello"]);
    assert!(out.code != 0 && out.stdout.is_empty(), "{out}");
    out
}

fn v2_case() -> Option<(Case, PathBuf)> {
    let case = Case::new();
    if case.runtime.is("crun") {
        return None;
    }
    drop(case);
    let case = Case::on_v2();
    case.hold();
    let dir = case.cgroup_dir();
    Some((case, dir))
}

#[test]
fn on_v1_each_controller_can_have_its_own() {
    let case = Case::new();
    not_on!(case, "crun", "has one --cgroup for all");
    if cgroups::mode() == Mode::V2 {
        skip!("v2 has one hierarchy");
    }
    case.hold();
    let dir = |controller| cgroups::dir(case.pid(), controller).unwrap();
    fs::create_dir(dir("memory").join("below")).unwrap();
    fs::create_dir(dir("pids").join("deeper")).unwrap();
    let lines = lines(&case, &["--cgroup", "memory:below", "--cgroup", "pids:/deeper"]);
    assert!(lines.contains(&format!(":memory:/{}/below\n", case.id)), "{lines}");
    assert!(lines.contains(&format!(":pids:/{}/deeper\n", case.id)), "{lines}");
    assert!(lines.contains(&format!(":freezer:/{}\n", case.id)), "{lines}");
    for (cgroup, words) in [
        ("cpu:nonexistent", "o such file or directory"),
        ("nonexistent", "o such file or directory"),
        ("whaaat:/", "unknown controller "),
        ("..", "bad sub cgroup path"),
        ("memory:../..", "bad sub cgroup path"),
    ] {
        let out = refused(&case, cgroup);
        assert!(out.peer || out.stderr.contains(words), "{cgroup}: {out}");
    }
    case.exec_with(&["--cgroup", "/"], &["/probe", "say", "hello"]).ok();
}

#[test]
fn on_v2_a_path_names_it() {
    let Some((case, dir)) = v2_case() else {
        skip!("crun leads out of the container's cgroup, older ones cannot run on cgroup v2 alone here")
    };
    fs::create_dir_all(dir.join("below/deeper")).unwrap();
    for (flag, expected) in [("below", "below"), ("/below/deeper", "below/deeper"), ("below/../below", "below")] {
        assert_eq!(line(&case, &["--cgroup", flag]), format!("0::{}/{expected}", case.cgroup()));
    }
    assert_eq!(line(&case, &["--cgroup", "/"]), format!("0::{}", case.cgroup()));
    refused(&case, "nonexistent");
    refused(&case, "..");
    refused(&case, "below/../..");
}

#[test]
fn a_process_goes_where_init_went_when_the_containers_cgroup_takes_none() {
    let Some((case, dir)) = v2_case() else {
        skip!("crun leads out of the container's cgroup, older ones cannot run on cgroup v2 alone here")
    };
    let moved = dir.join("moved");
    fs::create_dir(&moved).unwrap();
    fs::write(moved.join("cgroup.procs"), case.pid().to_string()).unwrap();
    // It still takes processes: nothing is handed down.
    assert_eq!(line(&case, &[]), format!("0::{}", case.cgroup()));
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap();
    // One that works on processes, not on threads.
    let Some(domain) = controllers.split_whitespace().find(|c| ["memory", "io", "hugetlb", "misc"].contains(c)) else {
        skip!("no controller to hand down");
    };
    fs::write(dir.join("cgroup.subtree_control"), format!("+{domain}")).unwrap();
    assert_eq!(line(&case, &[]), format!("0::{}/moved", case.cgroup()));
    let out = refused(&case, "/");
    assert!(out.stderr.contains("evice or resource busy"), "{out}");
}

#[test]
fn a_process_is_never_left_in_the_callers_cgroup() {
    let Some((case, dir)) = v2_case() else {
        skip!("crun leads out of the container's cgroup, older ones cannot run on cgroup v2 alone here")
    };
    not_on!(case, "crun", "refuses");
    not_on!(case, "runc version 1.1", "refuses");
    // Its init has left, and its cgroup is gone.
    let other = Path::new("/sys/fs/cgroup").join(format!("{}-other", case.id));
    fs::create_dir(&other).unwrap();
    fs::write(other.join("cgroup.procs"), case.pid().to_string()).unwrap();
    // systemd does it by itself.
    let _ = fs::remove_dir(&dir);
    assert!(!dir.exists());
    assert_eq!(line(&case, &[]), format!("0::/{}-other", case.id));
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    fs::remove_dir(&other).unwrap();
}
