//! An ordinary user's containers: with its own id alone, and with ranges by newuidmap and newgidmap.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use integration::case::{Case, give};
use integration::cgroups::{self, Mode};
use integration::command::Out;
use integration::{not_on, skip};
use serde_json::{Value, json};

/// Nobody's id on an ordinary machine.
const USER: u32 = 61_234;

/// Turns the case into one of the user: it owns the bundle, and asks for no cgroup of its own.
fn of_user(case: &mut Case, maps: (Value, Value)) {
    case.namespace("user", None);
    case.spec["linux"]["uidMappings"] = maps.0;
    case.spec["linux"]["gidMappings"] = maps.1;
    case.spec["linux"]["resources"] = json!({});
    case.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    let mounts = case.spec["mounts"].as_array_mut().unwrap();
    // What needs the host's privilege, or ids that are not mapped.
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    for mount in mounts {
        if mount["destination"] == "/dev/pts" {
            mount["options"].as_array_mut().unwrap().retain(|option| option != "gid=5");
        }
    }
    case.write();
    give(&case.dir, USER);
    fs::set_permissions(&case.dir, PermissionsExt::from_mode(0o755)).unwrap();
    // A binary that everybody may read and nobody of them may change.
    let runtime = case.dir.join("runtime");
    fs::copy(&case.runtime.binary, &runtime).unwrap();
    chown(&runtime, Some(0), Some(0)).unwrap();
    case.runtime.binary = runtime;
}

fn own_ids() -> (Value, Value) {
    let map = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
    (map.clone(), map)
}

/// The runtime, called by the user.
#[track_caller]
fn call(case: &Case, args: &[&str]) -> Out {
    let id = USER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(&case.runtime.binary);
    command.arg("--root").arg(case.state_dir()).args(args).env("TARE_TEST", &case.id).stdin(case.stdin());
    case.finish(&mut command, &case.files())
}

fn bundle(case: &Case) -> String {
    case.bundle().to_str().unwrap().to_owned()
}

/// Starts the container; its command holds.
#[track_caller]
fn run(case: &Case) {
    let pid_file = case.dir.join("pid");
    call(case, &["run", "-d", "--pid-file", pid_file.to_str().unwrap(), "-b", &bundle(case), &case.id]).ok();
    case.adopt(&pid_file);
}

#[test]
fn a_cgroup_mount_shows_the_callers_cgroup_to_who_has_none() {
    let mut case = Case::new();
    if cgroups::mode() != Mode::V2 {
        skip!("written for cgroup v2");
    }
    if !needs_namespaces(&case) {
        skip!("this host makes no user namespaces");
    }
    for namespace in [true, false] {
        case = Case::new();
        of_user(&mut case, own_ids());
        if namespace {
            case.namespace("cgroup", None);
        } else {
            case.without_namespace("cgroup");
        }
        let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"] });
        case.spec["mounts"].as_array_mut().unwrap().push(mount);
        case.write();
        run(&case);
        let pid = fs::read_to_string(case.dir.join("pid")).unwrap();
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let line = table.lines().find(|line| line.contains(" /sys/fs/cgroup ")).expect("it is mounted");
        assert!(line.contains(" ro,") && line.contains(" - cgroup2 "), "{line}");
        call(&case, &["delete", "--force", &case.id]).ok();
    }
}

/// A user with a lingering manager, as the virtual machine has one.
const MANAGED: u32 = 1000;

#[test]
fn a_container_of_the_users_manager_can_be_entered() {
    let mut case = Case::new();
    let runtime_dir = format!("/run/user/{MANAGED}");
    if cgroups::mode() != Mode::V2 || !Path::new(&runtime_dir).join("systemd/private").exists() {
        skip!("user {MANAGED} has no systemd of its own with cgroup v2 here");
    }
    let map = json!([{ "containerID": 0, "hostID": MANAGED, "size": 1 }]);
    of_user(&mut case, (map.clone(), map));
    give(&case.dir, MANAGED);
    chown(&case.runtime.binary, Some(0), Some(0)).unwrap();
    let call = |args: &[&str]| {
        let id = MANAGED.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(&case.runtime.binary);
        command.arg("--systemd-cgroup").arg("--root").arg(case.state_dir()).args(args).stdin(case.stdin());
        command.env("XDG_RUNTIME_DIR", &runtime_dir).env("TARE_TEST", &case.id);
        case.finish(&mut command, &case.files())
    };
    let pid_file = case.dir.join("pid");
    call(&["run", "-d", "--pid-file", pid_file.to_str().unwrap(), "-b", &bundle(&case), &case.id]).ok();
    let init = case.adopt(&pid_file);
    let other_file = case.dir.join("other");
    call(&["exec", "-d", "--pid-file", other_file.to_str().unwrap(), &case.id, "/probe", "hold"]).ok();
    let other = case.adopt(&other_file);
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup(init).contains(&format!("user@{MANAGED}.service")));
    assert_eq!(cgroup(other), cgroup(init));
    let own = cgroup(init).trim_end().strip_prefix("0::/").unwrap().to_owned();
    let below = Path::new("/sys/fs/cgroup").join(&own).join("below");
    let id = MANAGED.to_string();
    let mut made = Command::new("setpriv");
    made.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--", "mkdir"]).arg(&below);
    assert!(made.status().unwrap().success());
    let flags = ["exec", "-d", "--pid-file", other_file.to_str().unwrap(), "--cgroup", "below"];
    call(&[&flags[..], &[&case.id, "/probe", "hold"]].concat()).ok();
    assert_eq!(cgroup(case.adopt(&other_file)), format!("0::/{own}/below\n"));
    call(&["delete", "--force", &case.id]).ok();
}

fn needs_namespaces(case: &Case) -> bool {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    limit.trim() != "0" && case.dir.exists()
}

#[test]
fn a_users_container_runs_and_can_be_entered() {
    let mut case = Case::new();
    not_on!(case, "crun", "sets no no_new_privs for exec, older ones want a cgroup manager");
    if !needs_namespaces(&case) {
        skip!("this host makes no user namespaces");
    }
    of_user(&mut case, own_ids());
    run(&case);
    let out = call(&case, &["exec", &case.id, "/probe", "report"]).ok();
    let report = out.report();
    assert_eq!((report.uid[0], report.gid[0]), (0, 0));
    assert_eq!(report.caps.effective, integration::spec::CAPABILITY_MASK, "over its own namespaces");
    assert!(report.no_new_privs && report.hostname == "tare-test");
    assert!(report.processes.contains_key(&1), "{:?}", report.processes);
    assert_eq!(report.fds.keys().filter(|fd| **fd > 2).count(), 0, "{:?}", report.fds);
    // Its root is the user on the host.
    let out = call(&case, &["exec", &case.id, "/probe", "try", "create /made", "read /proc/self/uid_map"]).ok();
    let outcomes = out.outcomes();
    assert_eq!(outcomes[0].errno, None);
    assert_eq!(outcomes[1].value.split_whitespace().collect::<Vec<_>>(), ["0", "61234", "1"]);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(case.rootfs().join("made")).unwrap().uid(), USER);
    assert_eq!(call(&case, &["state", &case.id]).ok().json()["status"], "running");
    call(&case, &["delete", "--force", &case.id]).ok();
    assert!(!Path::new(&case.state_dir()).join(&case.id).exists());
}

#[test]
fn a_users_container_may_have_the_id_of_one_of_roots() {
    let roots = Case::new();
    if cgroups::mode() == Mode::V2 {
        not_on!(roots, "runc version 1.1", "wants that cgroup, where there is cgroup v2");
    }
    if !needs_namespaces(&roots) {
        skip!("this host makes no user namespaces");
    }
    roots.hold();
    let mut case = Case::new();
    of_user(&mut case, own_ids());
    // Lived in, and empty.
    for lives in [true, false] {
        if !lives {
            roots.call(&["kill", &roots.id, "KILL"]).ok();
            roots.wait();
        }
        let pid_file = case.dir.join("pid");
        call(&case, &["run", "-d", "--pid-file", pid_file.to_str().unwrap(), "-b", &bundle(&case), &roots.id]).ok();
        case.adopt(&pid_file);
        assert_eq!(roots.status(), if lives { "running" } else { "stopped" });
        call(&case, &["delete", "--force", &roots.id]).ok();
        assert_eq!(roots.status(), if lives { "running" } else { "stopped" });
    }
}

#[test]
fn another_users_container_is_not_entered() {
    let mut case = Case::new();
    if case.runtime.kind != integration::programs::Kind::Tare {
        skip!("{}: other words", case.runtime.name);
    }
    of_user(&mut case, own_ids());
    run(&case);
    // Who may read the state may not yet enter.
    fs::set_permissions(case.state_dir(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "61235", "--regid", "61235", "--clear-groups", "--"]).arg(&case.runtime.binary);
    command.arg("--root").arg(case.state_dir()).args(["exec", &case.id, "/probe", "exit", "0"]).stdin(case.stdin());
    let out = case.finish(&mut command, &case.files());
    assert!(out.code == 255 && (out.stderr.contains("denied") || out.stderr.contains("not permitted")), "{out}");
    call(&case, &["delete", "--force", &case.id]).ok();
}

#[test]
fn ids_of_others_take_the_helpers() {
    let mut case = Case::new();
    not_on!(case, "runc", "has words of its own");
    not_on!(case, "crun", "has words of its own");
    if integration::programs::find(Path::new("newuidmap")).is_none() {
        skip!("newuidmap is not installed");
    }
    let maps =
        || json!([{ "containerID": 0, "hostID": USER, "size": 1 }, { "containerID": 1, "hostID": 700_000, "size": 9 }]);
    of_user(&mut case, (maps(), maps()));
    // The user has no ranges on this machine.
    let out = call(&case, &["run", "-b", &bundle(&case), &case.id]);
    out.refused(&["newgidmap", "/etc/subuid"]);
    case.nothing_left();
}

#[test]
fn what_the_host_forbids_is_said() {
    let mut case = Case::new();
    not_on!(case, "runc", "has words of its own");
    not_on!(case, "crun", "has words of its own");
    of_user(&mut case, own_ids());
    case.spec["linux"]["resources"] = json!({ "pids": { "limit": 10 } });
    case.write();
    let out = call(&case, &["run", "-b", &bundle(&case), &case.id]);
    if out.code == 0 {
        skip!("this host lets everybody make cgroups");
    }
    out.refused(&["linux.resources.pids.limit", "delegated"]);
    case.nothing_left();
}

#[test]
fn who_says_so_gets_no_container_without_its_cgroup() {
    let mut case = Case::new();
    not_on!(case, "crun", "has no such flag");
    if !needs_namespaces(&case) {
        skip!("this host makes no user namespaces");
    }
    of_user(&mut case, own_ids());
    let start = |rootless: &str| {
        let flag = format!("--rootless={rootless}");
        let mut command = Command::new("setpriv");
        let id = USER.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(&case.runtime.binary);
        command.arg("--root").arg(case.state_dir()).args([&flag, "create", "-b", &bundle(&case), &case.id]);
        case.finish(command.env("TARE_TEST", &case.id).stdin(case.stdin()), &case.files())
    };
    let out = start("false");
    if out.code == 0 {
        call(&case, &["delete", "--force", &case.id]).ok();
        skip!("this host lets everybody make cgroups");
    }
    out.refused(&["cgroup", "permission denied"]);
    case.nothing_left();
    for rootless in ["auto", "true"] {
        start(rootless).ok();
        call(&case, &["delete", "--force", &case.id]).ok();
    }
    not_on!(case, "runc", "takes it for auto");
    let out = start("perhaps");
    assert!(out.code == 1 && out.stderr.contains("--rootless"), "{out}");
    case.nothing_left();
}
