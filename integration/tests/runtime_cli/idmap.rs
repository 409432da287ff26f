//! Id-mapped mounts: whose files are seen, and how far a mapping reaches.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use integration::case::Case;
use integration::not_on;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

/// A mapping of `size` ids.
fn map(container: u32, host: u32, size: u32) -> Value {
    json!([{ "containerID": container, "hostID": host, "size": size }])
}

/// A tree on the host with files of 100:200 and 101:201, and, mounted below it, another with one of 100:200.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn new(case: &Case) -> Self {
        let (root, other) = (case.bundle().join("tree"), case.dir.join("other"));
        for (file, id) in [(root.join("a"), 100), (root.join("b"), 101), (other.join("c"), 100)] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            chown(&file, Some(id), Some(id + 100)).unwrap();
        }
        fs::create_dir(root.join("below")).unwrap();
        mount(Some(&other), &root.join("below"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        Self { root }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        umount2(&self.root.join("below"), MntFlags::MNT_DETACH).unwrap();
    }
}

/// Adds an id-mapped bind mount of the tree, by its path relative to the bundle.
fn add(case: &mut Case, at: &str, options: &[&str], maps: Option<(Value, Value)>) {
    case.mount(at, "bind", "tree", options);
    if let Some((uids, gids)) = maps {
        let mount = case.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap();
        mount["uidMappings"] = uids;
        mount["gidMappings"] = gids;
    }
}

/// Peers before runc 1.2 do without, or with half of it.
macro_rules! needs_id_mapped_mounts {
    ($case:expr) => {
        not_on!($case, "runc version 1.1", "has no id-mapped mounts");
        not_on!($case, "crun", "reads mappings its own way");
    };
}

#[test]
fn files_belong_to_the_ids_of_the_mapping() {
    let mut case = Case::new();
    needs_id_mapped_mounts!(case);
    let _tree = Tree::new(&case);
    add(&mut case, "/mnt", &["rbind"], Some((map(100, 1000, 10), map(200, 3000, 10))));
    case.attempts(&[
        ("stat /mnt/a", Ok("file 644 1000 3000 0:0")),
        ("stat /mnt/b", Ok("file 644 1001 3001 0:0")),
        // The mapping is that of the mount alone.
        ("stat /mnt/below/c", Ok("file 644 100 200 0:0")),
        // Root has no id there.
        ("create /mnt/new", Err("EOVERFLOW")),
    ]);
}

#[test]
fn a_recursive_mapping_reaches_the_mounts_below() {
    let mut case = Case::new();
    needs_id_mapped_mounts!(case);
    let _tree = Tree::new(&case);
    let maps = (map(100, 1000, 10), map(200, 3000, 10));
    add(&mut case, "/mnt", &["rbind", "ridmap"], Some(maps.clone()));
    add(&mut case, "/home", &["rbind", "idmap"], Some(maps));
    case.attempts(&[
        ("stat /mnt/a", Ok("file 644 1000 3000 0:0")),
        ("stat /mnt/below/c", Ok("file 644 1000 3000 0:0")),
        ("stat /home/below/c", Ok("file 644 100 200 0:0")),
    ]);
}

#[test]
fn without_own_mappings_those_of_the_container_count() {
    let mut case = Case::new();
    needs_id_mapped_mounts!(case);
    let tree = Tree::new(&case);
    fs::create_dir(tree.root.join("own")).unwrap();
    case.user_namespace();
    add(&mut case, "/mnt", &["rbind", "ridmap"], None);
    add(&mut case, "/home", &["rbind", "idmap"], None);
    case.attempts(&[
        ("stat /mnt/a", Ok("file 644 100 200 0:0")),
        ("stat /mnt/below/c", Ok("file 644 100 200 0:0")),
        ("stat /home/below/c", Ok("file 644 65534 65534 0:0")),
        ("create /mnt/own/new", Ok("")),
        ("stat /mnt/own/new", Ok("file 644 0 0 0:0")),
    ]);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(tree.root.join("own/new")).unwrap().uid(), 0, "on the disk it is root's");
}

#[test]
fn a_joined_user_namespace_lends_its_mapping() {
    let mut owner = Case::new();
    needs_id_mapped_mounts!(owner);
    owner.user_namespace();
    owner.hold();
    let mut case = Case::new();
    let _tree = Tree::new(&case);
    integration::case::give(&case.rootfs(), 100_000);
    case.namespace("user", Some(&format!("/proc/{}/ns/user", owner.pid())));
    add(&mut case, "/mnt", &["rbind", "idmap"], None);
    case.attempts(&[
        ("stat /mnt/a", Ok("file 644 100 200 0:0")),
        ("stat /mnt/below/c", Ok("file 644 65534 65534 0:0")),
    ]);
}

/// What was mounted before can be the source of what is mounted later, mapped or not.
#[test]
fn a_source_in_the_containers_own_root_has_what_was_mounted_there() {
    for user_namespace in [false, true] {
        let mut case = Case::new();
        needs_id_mapped_mounts!(case);
        let _tree = Tree::new(&case);
        if user_namespace {
            case.user_namespace();
        }
        let rootfs = case.rootfs().to_str().unwrap().to_owned();
        case.mount("/mnt", "bind", "tree", &["rbind"]);
        case.mount(&format!("{rootfs}/home"), "bind", &format!("{rootfs}/mnt"), &["rbind"]);
        add(&mut case, "/tmp", &["rbind", "idmap"], Some((map(100, 100_007, 1), map(200, 100_008, 1))));
        let last = case.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap();
        last["source"] = json!(format!("{rootfs}/home"));
        let seen = if user_namespace { "file 644 7 8 0:0" } else { "file 644 100007 100008 0:0" };
        case.attempts(&[("stat /home/a", Ok("")), ("stat /tmp/a", Ok(seen)), ("list /tmp/below", Ok("c"))]);
    }
}

/// Descriptors of sources do not count against the container's limit, nor stay open.
#[test]
fn many_sources_are_no_matter_of_the_containers_limit() {
    let mut case = Case::new();
    needs_id_mapped_mounts!(case);
    let _tree = Tree::new(&case);
    case.user_namespace();
    for i in 0..48 {
        add(&mut case, &format!("/mnt/{i}"), &["rbind", "idmap"], None);
    }
    case.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 32, "hard": 32 }]);
    let report = case.report();
    assert_eq!(report.mounts.iter().filter(|m| m.at.starts_with("/mnt/") && !m.at.ends_with("below")).count(), 48);
    assert_eq!(report.fds.keys().filter(|fd| **fd > 2).count(), 0, "{:?}", report.fds);
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    let both = || Some((map(0, 100_000, 1), map(0, 100_000, 1)));
    for (kind, options, maps, words) in [
        ("bind", &["bind", "idmap"][..], None, "must have both uid and gid mappings"),
        ("tmpfs", &["idmap"], both(), "only supported for bind-mounts"),
        ("bind", &["bind"], Some((map(0, 1, 1), json!([]))), "must have both uid and gid mappings"),
    ] {
        let mut case = Case::new();
        needs_id_mapped_mounts!(case);
        fs::create_dir(case.bundle().join("tree")).unwrap();
        add(&mut case, "/mnt", options, maps);
        case.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap()["type"] = json!(kind);
        case.create().refused(&["mounts[7]", "id-mapped mounts", words]);
        case.nothing_left();
    }
    // procfs cannot be mapped, whatever the kernel.
    let mut case = Case::new();
    needs_id_mapped_mounts!(case);
    add(&mut case, "/mnt", &["bind"], both());
    case.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap()["source"] = json!("/proc");
    case.create().refused(&["mounts[7]", "MOUNT_ATTR_IDMAP", "idmap mounts on this kernel"]);
    assert!(Path::new("/proc/self").exists());
    case.nothing_left();
}
