//! Namespaces: new ones, shared ones, joined ones, and user namespaces with their mappings.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use integration::case::Case;
use integration::programs::Kind;
use integration::{command, not_on, wait};
use serde_json::json;

const KINDS: [(&str, &str); 6] =
    [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt"), ("cgroup", "cgroup")];

fn own(name: &str) -> u64 {
    fs::metadata(format!("/proc/thread-self/ns/{name}")).unwrap().ino()
}

fn of(pid: i32, name: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{name}")).unwrap().ino()
}

#[test]
fn each_namespace_that_is_asked_for_is_new() {
    let mut case = Case::new();
    let report = case.report();
    for (kind, name) in KINDS {
        assert_ne!(report.namespaces[name], own(name), "{kind}");
    }
    assert_eq!(report.namespaces["user"], own("user"), "the user namespace was not asked for");
}

#[test]
fn each_namespace_that_is_left_out_is_the_callers() {
    for (kind, name) in KINDS {
        if kind == "mount" {
            continue; // Without it there is no root file system of one's own: a case of its own.
        }
        let mut case = Case::new();
        case.without_namespace(kind);
        if kind == "uts" {
            case.spec.as_object_mut().unwrap().remove("hostname");
        }
        if kind == "network" || kind == "ipc" || kind == "pid" {
            // A new sysfs belongs to a new network namespace, a new mqueue to a new ipc namespace.
            let mounts = case.spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| !["/sys", "/sys/fs/cgroup", "/dev/mqueue"].iter().any(|d| m["destination"] == *d));
        }
        let report = case.report();
        assert_eq!(report.namespaces[name], own(name), "{kind}");
        for (_, other) in KINDS.iter().filter(|(k, _)| *k != kind) {
            assert_ne!(report.namespaces[*other], own(other), "without {kind}: {other}");
        }
    }
}

#[test]
fn namespaces_of_another_container_are_joined_by_path() {
    let first = Case::new();
    first.hold();
    let mut second = Case::new();
    for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        let path = format!("/proc/{}/ns/{name}", first.pid());
        second.namespace(kind, Some(&path));
    }
    second.spec.as_object_mut().unwrap().remove("hostname");
    let report = second.report();
    for name in ["net", "ipc", "uts", "pid"] {
        assert_eq!(report.namespaces[name], of(first.pid(), name), "{name}");
    }
    for name in ["mnt", "cgroup"] {
        assert_ne!(report.namespaces[name], of(first.pid(), name), "{name}");
        assert_ne!(report.namespaces[name], own(name), "{name}");
    }
    assert_eq!(report.hostname, "tare-test", "the hostname is the first container's");
    assert_eq!(report.processes.get(&1).map(String::as_str), Some("probe"));
    assert_ne!(report.pid, 1, "the first container has that already");
}

#[test]
fn a_container_in_a_joined_pid_namespace_ends_alone() {
    let mut first = Case::new();
    first.args(&["/probe", "crowd", "1"]);
    first.hold();
    let mut second = Case::new();
    second.namespace("pid", Some(&format!("/proc/{}/ns/pid", first.pid())));
    second.hold();
    second.kill("KILL").ok();
    assert_eq!(second.wait(), 137);
    second.delete().ok();
    second.nothing_left();
    assert_eq!(first.status(), "running");
    first.exec(&["/probe", "say", "alive"]).ok();
}

#[test]
fn a_pid_namespace_whose_init_has_ended_is_named() {
    let first = Case::new();
    first.hold();
    let namespace = fs::File::open(format!("/proc/{}/ns/pid", first.pid())).unwrap();
    first.kill("KILL").ok();
    first.wait();
    let mut second = Case::new();
    not_on!(second, "runc", "has words of its own");
    not_on!(second, "crun", "has words of its own");
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    second.namespace("pid", Some(&path));
    second.create().is(1).refused(&[&path, "its init has ended"]);
    second.nothing_left();
}

#[test]
fn a_new_network_namespace_has_a_loopback_that_is_up() {
    let mut case = Case::new();
    assert_eq!(case.report().interfaces, ["lo"]);
    // sysfs shows the network namespace that it was mounted in. Bit 0 is IFF_UP.
    case.args(&["/probe", "try", "read /sys/class/net/lo/flags"]);
    let flags = case.run().ok().outcomes()[0].value.trim().to_owned();
    assert_eq!(u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap() & 1, 1, "lo is up");
}

#[test]
fn the_cgroup_namespace_hides_where_the_container_is() {
    let mut case = Case::new();
    let report = case.report();
    for line in &report.cgroups {
        // Hierarchies that the container was not put into stay relative to the caller's own place.
        assert!(!line.contains(&case.id), "{line}");
    }
    case.without_namespace("cgroup");
    let report = case.report();
    assert!(report.cgroups.iter().any(|line| line.ends_with(&format!(":{}", case.cgroup()))), "{:?}", report.cgroups);
}

#[test]
fn a_user_namespace_maps_ids() {
    let mut case = Case::new();
    case.user_namespace();
    case.hold();
    let status = fs::metadata(format!("/proc/{}", case.pid())).unwrap();
    assert_eq!((status.uid(), status.gid()), (100_000, 100_000));
    let map = fs::read_to_string(format!("/proc/{}/uid_map", case.pid())).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert_ne!(of(case.pid(), "user"), own("user"));
    case.exec_attempts(&[
        ("create /mnt/mine", Ok("")),
        ("stat /mnt/mine", Ok("file 644 0 0 0:0")),
        ("chown /mnt/mine 1000", Ok("")),
        // An id that has no place in the map.
        ("chown /mnt/mine 70000", Err("EINVAL")),
        ("mknod /mnt/null c 1 3", Err("EPERM")),
    ]);
    let meta = fs::metadata(case.rootfs().join("mnt/mine")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (101_000, 100_000));
    let files = ["stat /dev/null", "stat /dev/pts", "stat /dev/shm", "stat /dev/mqueue"];
    let mut args = vec!["/probe", "try"];
    args.extend(files);
    for outcome in case.exec(&args).ok().outcomes() {
        assert!(outcome.errno.is_none(), "{outcome:?}");
    }
}

#[test]
fn another_user_in_a_user_namespace() {
    let mut case = Case::new();
    case.user_namespace();
    case.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [2000] });
    let report = case.report();
    assert_eq!((report.uid, report.gid, report.groups), (vec![1000; 4], vec![1000; 4], vec![2000]));
}

#[test]
fn a_user_that_the_mapping_leaves_out_is_refused() {
    let mut case = Case::new();
    case.user_namespace();
    case.spec["process"]["user"] = json!({ "uid": 70000, "gid": 0 });
    case.create().refused(&["70000"]);
    case.nothing_left();
}

#[test]
fn capabilities_in_a_user_namespace_are_none_on_the_host() {
    let mut case = Case::new();
    case.user_namespace();
    let all = json!(["CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_NET_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_MKNOD"]);
    case.spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    let outside = case.dir.join("hosts");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "host").unwrap();
    case.mount("/mnt", "bind", outside.to_str().unwrap(), &["bind"]);
    case.attempts(&[
        ("stat /mnt/file", Ok("file 644 65534 65534 0:0")),
        ("chown /mnt/file 0", Err("EPERM")),
        ("write /mnt/file x", Err("EACCES")),
        ("sethostname other", Ok("")),
        ("mknod /tmp/x c 1 3", Err("EPERM")),
    ]);
}

#[test]
fn a_user_namespace_is_joined_by_path() {
    let mut first = Case::new();
    first.user_namespace();
    first.hold();
    let mut second = Case::new();
    not_on!(second, "runc version 1.1", "wants mappings for a joined user namespace");
    integration::case::give(&second.rootfs(), 100_000);
    for (kind, name) in [("user", "user"), ("network", "net"), ("ipc", "ipc")] {
        second.namespace(kind, Some(&format!("/proc/{}/ns/{name}", first.pid())));
    }
    if second.runtime.kind != Kind::Tare {
        second.spec["linux"]["uidMappings"] = first.spec["linux"]["uidMappings"].clone();
        second.spec["linux"]["gidMappings"] = first.spec["linux"]["gidMappings"].clone();
    }
    second.hold();
    for name in ["user", "net", "ipc"] {
        assert_eq!(of(second.pid(), name), of(first.pid(), name), "{name}");
    }
    assert_eq!(fs::metadata(format!("/proc/{}", second.pid())).unwrap().uid(), 100_000);
    let report = second.exec(&["/probe", "report"]).ok().report();
    assert_eq!(report.uid, [0; 4]);
}

#[test]
fn a_user_namespace_that_denies_setgroups_is_joined() {
    // As an ordinary user makes one: with a map of the user's own id alone.
    const USER: u32 = 65_534;
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "wants mappings for a joined user namespace");
    not_on!(case, "crun", "calls setgroups all the same");
    let id = USER.to_string();
    let words =
        ["--reuid", &id, "--regid", &id, "--clear-groups", "unshare", "--user", "--map-root-user", "sleep", "1000"];
    let mut holder = std::process::Command::new("setpriv")
        .args(words)
        .env("TARE_TEST", &case.id)
        .spawn()
        .expect("setpriv: run hack/setup");
    let pid = holder.id();
    let denied = wait::until(Duration::from_millis(5), integration::command::LIMIT, || {
        let is = |file: &str, text: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}")).is_ok_and(|it| it.contains(text))
        };
        (is("setgroups", "deny") && is("uid_map", &id) && is("comm", "sleep")).then_some(())
    });
    integration::case::give(&case.rootfs(), USER);
    case.namespace("user", Some(&format!("/proc/{pid}/ns/user")));
    // Limits of what is another user's take more privilege than a test machine may give.
    case.spec["process"]["rlimits"] = json!([]);
    for mount in case.spec["mounts"].as_array_mut().unwrap() {
        mount["options"].as_array_mut().unwrap().retain(|option| option != "gid=5");
    }
    case.args(&["/probe", "report"]);
    let out = denied.map(|()| case.run());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(out.expect("the namespace was made").ok().report().uid, [0; 4]);
}

#[test]
fn network_settings_are_the_containers_own() {
    let mut case = Case::new();
    case.spec["linux"]["sysctl"] = json!({
        "net.ipv4.ip_forward": "1",
        "net/ipv4/ip_default_ttl": "77",
        "kernel.shmmax": "123456",
        "fs.mqueue.msg_max": "33",
    });
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    case.attempts(&[
        ("read /proc/sys/net/ipv4/ip_forward", Ok("1")),
        ("read /proc/sys/net/ipv4/ip_default_ttl", Ok("77")),
        ("read /proc/sys/kernel/shmmax", Ok("123456")),
        ("read /proc/sys/fs/mqueue/msg_max", Ok("33")),
    ]);
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(), before);
}

#[test]
fn a_container_without_pid_namespace_is_seen_with_the_hosts_pid() {
    let mut case = Case::new();
    case.without_namespace("pid");
    case.hold();
    let pid = case.pid();
    let report = case.exec(&["/probe", "report"]).ok().report();
    assert!(report.processes.contains_key(&pid));
    assert!(report.processes.contains_key(&(std::process::id() as i32)), "it sees the host's processes");
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn zombies_of_a_container_without_pid_namespace_do_not_keep_it_alive() {
    let mut case = Case::new();
    case.without_namespace("pid").args(&["/probe", "exit", "0"]);
    case.create().ok();
    case.start().ok();
    // Not reaped: this is how the runtime sees it whose caller is slow.
    assert!(integration::wait::exited(case.pid(), command::LIMIT));
    assert_eq!(case.status(), "stopped");
    case.delete().ok();
}

#[test]
fn what_is_bound_from_procfs_is_of_the_containers_network() {
    const TTL: &str = "/proc/sys/net/ipv4/ip_default_ttl";
    let mut case = Case::new();
    let host = std::fs::read_to_string(TTL).unwrap();
    std::os::unix::fs::symlink(TTL, case.dir.join("link")).unwrap();
    case.mount("/mnt/ttl", "bind", case.dir.join("link").to_str().unwrap(), &["bind", "rw"]);
    case.mount("/mnt/net", "bind", "/proc/self/ns/net", &["bind"]);
    case.attempts(&[("write /mnt/ttl 77", Ok("")), ("read /mnt/ttl", Ok("77"))]);
    let now = std::fs::read_to_string(TTL).unwrap();
    std::fs::write(TTL, &host).unwrap();
    assert_eq!(now, host, "the host's setting has changed");
    case.args(&["/probe", "hold"]).hold();
    let inode = |path: String| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let pid = case.pid();
    assert_eq!(inode(format!("/proc/{pid}/root/mnt/net")), inode(format!("/proc/{pid}/ns/net")));
}
