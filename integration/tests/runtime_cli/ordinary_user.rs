//! Containers of an ordinary user, whose cgroups a manager of the user's own makes. Needs a host that systemd has booted,
//! with a user of the number 1000 (`hack/vm`).

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use integration::case::{self, Case};
use integration::skip;
use serde_json::json;

const USER: u32 = 1000;
const RUNTIME_DIR: &str = "/run/user/1000";

/// A bundle of the user's, in a user namespace where the user is root.
fn case() -> Case {
    let mut case = Case::new();
    case.global = vec!["--systemd-cgroup".to_owned()];
    case.namespace("user", None);
    let map = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
    case.spec["linux"]["uidMappings"] = map.clone();
    case.spec["linux"]["gidMappings"] = map;
    case.spec["linux"]["cgroupsPath"] = json!(format!("user.slice:test:{}", case.id));
    // Group 5 is not the user's to give.
    let mounts = case.spec["mounts"].as_array_mut().unwrap();
    for mount in mounts.iter_mut().filter(|mount| mount["type"] == "devpts") {
        mount["options"] = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    }
    case.write();
    case::give(&case.dir, USER);
    case
}

#[test]
fn a_users_container_is_a_scope_of_the_users_manager_with_its_limits() {
    if !Path::new(RUNTIME_DIR).join("bus").exists() {
        skip!("no user {USER} with a session bus");
    }
    let mut case = case();
    case.spec["linux"]["resources"] = json!({ "memory": { "limit": 67_108_864 }, "pids": { "limit": 44 } });
    case.args(&["/probe", "hold"]);
    case.write();
    let log = case.dir.join("log");
    let mut command = case.command();
    command
        .args(["run", "--detach", "--bundle"])
        .arg(case.bundle())
        .arg("--pid-file")
        .arg(case.dir.join("pid"))
        .arg(&case.id)
        .env("XDG_RUNTIME_DIR", RUNTIME_DIR)
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
        .stdout(fs::File::create(&log).unwrap())
        .stderr(fs::File::create(case.dir.join("errors")).unwrap())
        .uid(USER)
        .gid(USER);
    let status = command.status().unwrap();
    assert!(status.success(), "{}", fs::read_to_string(case.dir.join("errors")).unwrap());
    let pid = fs::read_to_string(case.dir.join("pid")).unwrap();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let expected = format!("/user@{USER}.service/user.slice/test-{}.scope", case.id);
    assert!(cgroup.trim().ends_with(&expected), "{cgroup}");
    let dir = Path::new("/sys/fs/cgroup").join(cgroup.trim().strip_prefix("0::/").unwrap());
    for (name, value) in [("memory.max", "67108864"), ("pids.max", "44")] {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap().trim(), value, "{name}");
    }
    let mut delete = case.command();
    delete.args(["delete", "--force", &case.id]).env("XDG_RUNTIME_DIR", RUNTIME_DIR).uid(USER).gid(USER);
    let out = delete.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!dir.exists());
    case.nothing_left();
}
