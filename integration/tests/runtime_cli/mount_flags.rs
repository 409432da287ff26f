//! What a bind mount makes of the flags of its source, with and without a user namespace.

use std::path::PathBuf;

use integration::case::Case;
use integration::not_on;
use integration::report::Mount;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tmpfs on the host whose mount has these flags, and inside it perhaps another with the same.
struct Source(PathBuf);

impl Source {
    fn new(case: &Case, flags: MsFlags, inner: bool) -> Self {
        let root = case.dir.join("flagged");
        let all = if inner { vec![root.clone(), root.join("inner")] } else { vec![root.clone()] };
        for at in &all {
            std::fs::create_dir(at).unwrap();
            mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        for at in &all {
            let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
            mount(None::<&str>, at, None::<&str>, remount, None::<&str>).unwrap();
        }
        Self(root)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// The mount at /mnt of a container that binds such a source with these options; or what was said instead.
#[track_caller]
fn bind(flags: MsFlags, options: &str, user_namespace: bool) -> Result<Mount, String> {
    let mut case = Case::new();
    if user_namespace {
        case.user_namespace();
    }
    let source = Source::new(&case, flags, false);
    case.mount("/mnt", "bind", source.0.to_str().unwrap(), &options.split(',').collect::<Vec<_>>());
    case.args(&["/probe", "report"]);
    let out = case.run();
    if out.code != 0 {
        return Err(out.refused(&["mounts[7]", "operation not permitted"]).stderr);
    }
    Ok(out.report().mount("/mnt").unwrap().clone())
}

#[track_caller]
fn expect(flags: MsFlags, options: &str, user_namespace: bool, has: &str, has_not: &str) {
    let mount = bind(flags, options, user_namespace).unwrap_or_else(|said| panic!("{options}: {said}"));
    let words = |list: &str| list.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    for word in words(has) {
        assert!(mount.options.contains(&word), "{options} has no {word}: {mount:?}");
    }
    for word in words(has_not) {
        assert!(!mount.options.contains(&word), "{options} has {word}: {mount:?}");
    }
}

const RDONLY: MsFlags = MsFlags::MS_RDONLY;
const NODEV: MsFlags = MsFlags::MS_NODEV;
const NOSUID: MsFlags = MsFlags::MS_NOSUID;
const NOEXEC: MsFlags = MsFlags::MS_NOEXEC;
const NOATIME: MsFlags = MsFlags::MS_NOATIME;
const NODIRATIME: MsFlags = MsFlags::MS_NODIRATIME;
const STRICTATIME: MsFlags = MsFlags::MS_STRICTATIME;
const RELATIME: MsFlags = MsFlags::MS_RELATIME;

/// Peers that only ever add flags.
macro_rules! needs_clearing {
    () => {
        let case = Case::new();
        not_on!(case, "runc version 1.1", "keeps the flags of the source");
        not_on!(case, "crun", "keeps the flags of the source");
    };
}

#[test]
fn without_a_flag_all_of_the_source_are_kept() {
    not_on!(Case::new(), "crun", "drops all of them");
    for user_namespace in [false, true] {
        expect(RDONLY | NOEXEC | NODIRATIME, "bind", user_namespace, "ro noexec nodiratime", "rw");
        expect(NOATIME, "bind,rprivate", user_namespace, "noatime", "ro relatime");
    }
}

#[test]
fn with_a_flag_only_those_that_are_named_are_there() {
    needs_clearing!();
    expect(RDONLY | NOEXEC | NODIRATIME, "bind,dev", false, "rw nodiratime", "ro noexec");
    expect(RDONLY, "bind,nosuid,nodev,rprivate", false, "rw nosuid nodev", "ro");
    expect(NODEV | NOSUID | NOEXEC | NOATIME, "bind,ro", false, "ro noatime", "nodev nosuid noexec");
    expect(NODEV | NOSUID | NOATIME, "bind,dev,suid,exec,atime", false, "rw noatime", "nodev nosuid noexec");
}

#[test]
fn access_times_change_when_another_way_is_named() {
    needs_clearing!();
    expect(NOATIME, "bind,norelatime", false, "noatime", "relatime");
    expect(NOATIME, "bind,relatime", false, "relatime", "noatime");
    expect(NOATIME, "bind,nodiratime", false, "nodiratime relatime", "noatime");
    expect(NODIRATIME, "bind,strictatime", false, "", "nodiratime noatime relatime");
    expect(NOATIME, "bind,nodiratime,strictatime", false, "nodiratime", "noatime relatime");
    expect(NOATIME, "bind,nodiratime,norelatime", false, "nodiratime relatime", "noatime");
}

#[test]
fn in_a_user_namespace_flags_of_the_host_stay() {
    needs_clearing!();
    expect(RDONLY | NOEXEC, "bind,dev", true, "ro noexec", "rw");
    expect(RDONLY, "bind,nosuid,nodev", true, "ro nosuid nodev", "rw");
    expect(NODEV | NOSUID | NOATIME, "bind,ro,exec", true, "ro nodev nosuid noatime", "noexec");
    expect(STRICTATIME, "bind,nostrictatime", true, "", "noatime relatime");
    expect(NOATIME | NODIRATIME, "bind,atime", true, "noatime nodiratime", "relatime");
}

#[test]
fn in_a_user_namespace_taking_them_off_is_refused() {
    needs_clearing!();
    for (flags, options) in [
        (RDONLY, "bind,rw,nosuid"),
        (NODEV | NOATIME, "bind,dev"),
        (NODIRATIME, "bind,strictatime"),
        (RELATIME, "bind,noatime"),
        (RELATIME, "bind,nodiratime"),
        (STRICTATIME, "bind,relatime"),
        (NOATIME, "bind,relatime"),
    ] {
        assert!(bind(flags, options, true).is_err(), "{flags:?} {options}");
    }
}

/// What is below a recursive bind mount keeps its flags, but for those that are asked for recursively.
#[test]
fn recursive_flags_reach_the_mounts_below() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "clears no access times");
    not_on!(case, "crun", "clears no access times");
    let source = Source::new(&case, NOATIME, true);
    let source = source.0.to_str().unwrap();
    for (i, options) in ["ro", "rro", "rro,rrw,rnosuid", "rrelatime", "rstrictatime,rnodiratime"].iter().enumerate() {
        let mut all = vec!["rbind"];
        all.extend(options.split(','));
        case.mount(&format!("/mnt/{i}"), "bind", source, &all);
    }
    let report = case.report();
    let of = |at: &str, option: &str| report.mount(at).unwrap().options.iter().any(|o| o == option);
    for (at, has, has_not) in [
        ("/mnt/0", "ro noatime", "rw"),
        ("/mnt/0/inner", "rw noatime", "ro"),
        ("/mnt/1/inner", "ro noatime", "rw"),
        ("/mnt/2/inner", "rw nosuid", "ro"),
        ("/mnt/3", "relatime", "noatime"),
        ("/mnt/3/inner", "relatime", "noatime"),
        ("/mnt/4/inner", "nodiratime", "noatime relatime"),
    ] {
        assert!(has.split(' ').all(|option| of(at, option)), "{at} {has}: {:?}", report.mount(at));
        assert!(!has_not.split(' ').any(|option| of(at, option)), "{at} {has_not}: {:?}", report.mount(at));
    }
}

/// Places in it are made before it becomes read-only.
#[test]
fn a_read_only_tmpfs_can_have_mounts_in_it() {
    let mut case = Case::new();
    case.mount("/mnt", "tmpfs", "tmpfs", &["ro", "mode=755"]);
    case.mount("/mnt/inner", "tmpfs", "tmpfs", &[]);
    for mount in case.spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev" {
            mount["options"].as_array_mut().unwrap().push("ro".into());
        }
    }
    case.attempts(&[
        ("create /mnt/new", Err("EROFS")),
        ("create /mnt/inner/new", Ok("")),
        ("create /dev/new", Err("EROFS")),
        ("write /dev/null x", Ok("")),
    ]);
}

/// The mode of the directory that it covers, unless it is told another.
#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers() {
    let mut case = Case::new();
    not_on!(case, "crun", "has a mode of its own");
    not_on!(case, "runc version 1.1", "changes the mode afterwards, and loses higher bits");
    use std::os::unix::fs::PermissionsExt;
    let covered = case.rootfs().join("covered");
    std::fs::create_dir(&covered).unwrap();
    std::fs::set_permissions(&covered, PermissionsExt::from_mode(0o2710)).unwrap();
    case.mount("/covered", "tmpfs", "tmpfs", &["nodev"]);
    case.mount("/new", "tmpfs", "tmpfs", &["nodev"]);
    case.attempts(&[("stat /covered", Ok("dir 2710 0 0 0:0")), ("stat /new", Ok("dir 1777 0 0 0:0"))]);
    case.spec["mounts"].as_array_mut().unwrap()[7]["options"] = serde_json::json!(["mode=1500"]);
    case.attempts(&[("stat /covered", Ok("dir 1500 0 0 0:0"))]);
}

/// Longer than what the kernel takes as one value.
#[test]
fn an_overlay_of_long_paths() {
    let mut case = Case::new();
    not_on!(case, "crun", "hands over paths that the kernel cuts");
    let dir = case.dir.join("a".repeat(120)).join("b".repeat(150));
    let path = |name: &str| {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (lower1, lower2, upper, work) = (path("lower1"), path("lower2"), path("upper"), path("work"));
    std::fs::write(dir.join("lower1/one"), "").unwrap();
    std::fs::write(dir.join("lower2/two"), "").unwrap();
    let options = [format!("lowerdir={lower1}:{lower2}"), format!("upperdir={upper}"), format!("workdir={work}")];
    // An overlay on an overlay may have no writable layer: the test's directory is on whatever /tmp is.
    case.mount("/mnt", "overlay", "overlay", &options.each_ref().map(String::as_str));
    case.attempts(&[("list /mnt", Ok("one two")), ("create /mnt/three", Ok(""))]);
    assert!(dir.join("upper/three").exists());
}

/// A link of the image whose target does not exist yet.
#[test]
fn a_mount_goes_through_links_that_dangle() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "follows no link that dangles");
    not_on!(case, "crun", "follows no link that dangles");
    use std::os::unix::fs::symlink;
    symlink("/tmp/deep/down", case.rootfs().join("jump")).unwrap();
    symlink("/jump/er/hosts", case.rootfs().join("etc/hosts")).unwrap();
    let file = case.dir.join("hosts");
    std::fs::write(&file, "mine").unwrap();
    case.mount("/etc/hosts", "bind", file.to_str().unwrap(), &["bind"]);
    case.attempts(&[("read /tmp/deep/down/er/hosts", Ok("mine")), ("read /etc/hosts", Ok("mine"))]);
}
