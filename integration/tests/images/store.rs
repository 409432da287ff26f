//! What is in the store: images by name and without one, named volumes. Nothing goes that nobody asked for.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use integration::place::Place;

use crate::{bundle, run};

/// Two images, the first of which has lost its name to the second.
fn replaced(place: &Place) -> (String, String) {
    let tar = place.small_image();
    let id = || place.ours("imgtool", &["images", "-q", "small:1"]).ok().stdout.trim().to_owned();
    let first = id();
    place.ours("imgtool", &["import", "--quiet", "-m", "another", tar.to_str().unwrap(), "small:1"]).ok();
    (first, id())
}

#[test]
fn an_image_that_lost_its_name_stays_until_it_is_pruned() {
    let place = Place::new();
    let (first, second) = replaced(&place);
    assert_ne!(first, second);
    let listed = || {
        let table = place.ours("imgtool", &["images"]).ok().stdout;
        let is_it = |line: &str| line.split_whitespace().take(3).eq(["<none>", "<none>", &first]);
        (table.lines().any(is_it), table)
    };
    assert!(listed().0, "{}", listed().1);
    // What fails touches nothing, and what succeeds nothing else.
    place.ours("imgtool", &["rm", "nosuch"]).refused(&["nosuch", "no such image"]);
    assert!(listed().0, "{}", listed().1);
    let out = place.ours("imgtool", &["rm", "nosuch", "small:1", "neither"]).is(1);
    assert!(out.stdout.contains("Untagged: docker.io/library/small:1"), "{out}");
    assert!(out.stderr.contains("nosuch") && out.stderr.contains("neither"), "{out}");
    assert!(listed().0, "{}", listed().1);
    place.ours("imgtool", &["fsck"]).ok();
    let path = bundle(&place, &[&first, "--", "/probe", "say", "still here"]);
    assert_eq!(run(&place, &path).ok().stdout, "still here\n");
    // One that a bundle stands on is no rubbish.
    place.ours("imgtool", &["prune"]).ok();
    assert!(listed().0, "{}", listed().1);
    place.ours("imgtool", &["unbundle", &path]).ok();
    let out = place.ours("imgtool", &["prune"]).ok();
    assert!(out.stdout.contains("Deleted: sha256:"), "{out}");
    assert_eq!(place.ours("imgtool", &["images", "-q"]).ok().stdout, "");
    assert_eq!(fs::read_dir(place.dir.join("store/blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn an_image_without_a_name_is_removed_by_its_id_and_named_by_tag() {
    let place = Place::new();
    let (first, _) = replaced(&place);
    place.ours("imgtool", &["tag", &first, "old:1"]).ok();
    let names = place.ours("imgtool", &["images", "--format", "json"]).ok().json();
    assert!(names.as_array().unwrap().iter().all(|image| image["name"].is_string()), "it has a name again: {names}");
    place.ours("imgtool", &["rm", "old:1"]).ok();
    place.ours("imgtool", &["inspect", &first]).refused(&["no such image"]);
    let place = Place::new();
    let (first, second) = replaced(&place);
    place.ours("imgtool", &["rm", &first]).ok();
    assert_eq!(place.ours("imgtool", &["images", "-q"]).ok().stdout.trim(), second);
}

#[test]
fn volumes_are_listed_made_and_removed_as_docker_does() {
    let place = Place::new();
    let volume = |args: &[&str]| place.ours("imgtool", &[&["volume"], args].concat());
    assert_eq!(volume(&["ls"]).ok().stdout, "DRIVER   VOLUME NAME\n");
    volume(&["rm", "nosuch"]).refused(&["nosuch", "no such volume"]);
    assert_eq!(volume(&["rm", "-f", "nosuch"]).ok().stdout, "nosuch\n");
    assert_eq!(volume(&["prune"]).ok().stdout, "Total reclaimed space: 0B\n");
    place.small_image();
    assert_eq!(volume(&["create", "kept"]).ok().stdout, "kept\n");
    assert_eq!(volume(&["create", "kept"]).ok().stdout, "kept\n", "it is there");
    let unnamed = volume(&["create"]).ok().stdout.trim().to_owned();
    assert_eq!(unnamed.len(), 64);
    for bad in ["../x", ".x", "a/b", ""] {
        assert_eq!(volume(&["create", bad]).code, 1, "{bad}");
    }
    assert!(!place.dir.join("store/x").exists());

    let write = ["small:1", "--", "/bin/sh", "-c", "echo mine >/data/file"];
    let path = bundle(&place, &[&["-v", "kept:/data", "-v", "made:/etc"], &write[..]].concat());
    run(&place, &path).ok();
    let inspected = volume(&["inspect", "kept"]).ok().json()[0].clone();
    let mountpoint = std::path::PathBuf::from(inspected["Mountpoint"].as_str().unwrap());
    assert_eq!(fs::read_to_string(mountpoint.join("file")).unwrap(), "mine\n");
    assert_eq!((&inspected["Name"], &inspected["Driver"]), (&"kept".into(), &"local".into()));
    assert_eq!(inspected["Bundles"][0], path.as_str());
    assert!(inspected["CreatedAt"].as_str().unwrap().ends_with('Z'), "{inspected}");
    let names = format!("{unnamed}\nkept\nmade\n");
    let mut listed: Vec<_> = names.lines().collect();
    listed.sort_unstable();
    assert_eq!(volume(&["ls", "-q"]).ok().stdout.lines().collect::<Vec<_>>(), listed);
    assert_eq!(volume(&["ls", "-q", "-f", "dangling=true"]).ok().stdout.trim(), unnamed);
    assert_eq!(volume(&["ls", "--format", "json"]).ok().json().as_array().unwrap().len(), 3);

    // What a bundle uses stays.
    volume(&["rm", "kept"]).refused(&["kept", "in use", &path]);
    let out = volume(&["prune", "--all", "--force"]).ok();
    assert!(out.stdout.starts_with(&format!("Deleted Volumes:\n{unnamed}\n\nTotal")), "{out}");
    place.ours("imgtool", &["unbundle", &path]).ok();
    // Nobody named this one; the others are somebody's.
    let unnamed = volume(&["create"]).ok().stdout.trim().to_owned();
    let out = volume(&["prune"]).ok();
    assert!(out.stdout.contains(&unnamed) && !out.stdout.contains("kept"), "{out}");
    assert_eq!(volume(&["rm", "kept", "nosuch"]).is(1).stdout, "kept\n");
    assert_eq!(volume(&["ls", "-q"]).ok().stdout, "made\n");
    let du = place.ours("imgtool", &["du", "--format", "json"]).ok().json();
    assert!(du["store"]["volumes"]["reclaimable"].as_u64().unwrap() > 0, "{du}");
}

#[test]
fn a_volume_is_open_to_the_containers_users_whatever_the_umask() {
    let place = Place::new();
    place.small_image();
    let imgtool = integration::programs::ours("imgtool");
    let store = place.dir.join("store");
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "umask 077; \"$0\" --root \"$1\" volume create one; \"$0\" --root \"$1\" bundle --quiet -v two:/two small:1",
    ]);
    command.arg(imgtool).arg(&store).env("TARE_TEST", &place.id).stdin(std::process::Stdio::null());
    let out = integration::command::run(&mut command, &integration::command::Files::new(&place.dir, "umask")).ok();
    for name in ["one", "two"] {
        assert_eq!(fs::metadata(store.join("volumes").join(name)).unwrap().mode() & 0o777, 0o755, "{name}");
    }
    place.ours("imgtool", &["unbundle", out.stdout.lines().last().unwrap()]).ok();
}

#[test]
fn an_image_that_is_not_here_is_said_not_to_be_here() {
    let place = Place::new();
    place.small_image();
    // Nothing listens there.
    let out = place.ours("imgtool", &["bundle", "--quiet", "127.0.0.1:1/typo", "--", "x"]);
    let store = place.dir.join("store");
    let absent = format!("127.0.0.1:1/typo:latest: no such image in {}, and not to be had", store.display());
    out.refused(&[&absent, "127.0.0.1:1/typo:latest"]);
    place.ours("imgtool", &["bundle", "--quiet", "-m", "1k", "small:1"]).is(2);
}

#[test]
fn what_every_container_has_mounted_is_no_change_of_it() {
    let place = Place::new();
    place.small_image();
    let root = place.dir.join("small");
    fs::remove_dir(root.join("dev")).unwrap();
    fs::remove_dir(root.join("sys")).unwrap();
    fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o751)).unwrap();
    let tar = place.dir.join("bare.tar");
    crate::tar(&root, &tar);
    place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "bare:1"]).ok();
    for image in ["bare:1", "small:1"] {
        // As `docker diff` has it: places for volumes and the working directory are the container's, those of the files that
        // name it, of /dev, /proc and /sys are not.
        let say = ["--", "/bin/sh", "-c", "echo x >/mine; ls -ld /etc"];
        let options = ["-v", "/data", "--tmpfs", "/scratch", "-w", "/work", "--dns", "192.0.2.1", "--hostname", "h"];
        let path = bundle(&place, &[&options[..], &[image], &say].concat());
        let out = run(&place, &path).ok();
        if image == "bare:1" {
            assert!(out.stdout.starts_with("drwxr-x--x"), "the directory is still the image's: {out}");
        }
        let changes = place.ours("imgtool", &["diff", &path]).ok().stdout;
        assert_eq!(changes, "A /data\nA /mine\nA /scratch\nA /work\n", "{image}");
        place.ours("imgtool", &["umount", &path]).ok();
        place.ours("imgtool", &["mount", &path]).ok();
        assert!(std::path::Path::new(&path).join("rootfs/etc/resolv.conf").exists());
        place.ours("imgtool", &["commit", &path, "committed:1"]).ok();
        place.ours("imgtool", &["unbundle", &path]).ok();
        let copied = bundle(&place, &["--copy", "--dns", "192.0.2.1", "committed:1", "--", "x"]);
        let files = fs::read_dir(std::path::Path::new(&copied).join("rootfs/etc")).unwrap().count();
        assert_eq!(files, 2, "passwd and group");
        place.ours("imgtool", &["unbundle", &copied]).ok();
    }
}

#[test]
fn what_a_killed_copy_left_beside_its_archive_goes_with_the_next() {
    let place = Place::new();
    place.small_image();
    let beside = place.dir.join("archives");
    fs::create_dir(&beside).unwrap();
    let make = |name: &str, mode: u32| {
        let directory = beside.join(name);
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(directory.join("blobs/sha256/x"), "left").unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        directory
    };
    let (left, held, other) =
        (make(".imgtool-left", 0o700), make(".imgtool-held", 0o700), make(".imgtool-other", 0o755));
    std::os::unix::fs::symlink(&other, beside.join(".imgtool-link")).unwrap();
    let lock = fs::File::open(&held).unwrap();
    lock.lock().unwrap();
    let archive = format!("oci-archive:{}", beside.join("a.tar").display());
    place.ours("imgtool", &["copy", "--quiet", "store:small:1", &archive]).ok();
    assert!(!left.exists(), "nobody works in it");
    assert!(held.join("blobs/sha256/x").exists(), "somebody works in it");
    assert!(other.join("blobs/sha256/x").exists(), "not as ours are");
    let mut names: Vec<_> = fs::read_dir(&beside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".imgtool-held", ".imgtool-link", ".imgtool-other", "a.tar"]);
}

#[test]
fn what_is_removed_and_found_is_told_to_machines_too() {
    let place = Place::new();
    let (first, _) = replaced(&place);
    let json = |args: &[&str]| place.ours("imgtool", &[args, &["--format", "json"]].concat()).ok().json();
    assert_eq!(json(&["fsck"]), serde_json::json!([]));
    assert_eq!(json(&["inspect", "small:1"])[0]["name"], "docker.io/library/small:1");
    assert_eq!(json(&["images", "-a"]).as_array().unwrap().len(), 2);
    let removed = json(&["rmi", "small:1"]);
    assert_eq!(removed["untagged"], serde_json::json!(["docker.io/library/small:1"]));
    // The layer is the other image's too.
    assert_eq!(removed["deleted"].as_array().unwrap().len(), 2, "manifest and config: {removed}");
    let config = place.ours("imgtool", &["inspect", &first]).ok().json()[0]["id"].as_str().unwrap().to_owned();
    fs::write(place.dir.join("store/blobs/sha256").join(&config[7..]), "{}").unwrap();
    let out = place.ours("imgtool", &["fsck", "--format", "json"]).is(1);
    let faults = out.json();
    assert_eq!((&faults[0]["kind"], &faults[0]["what"]), (&"blob".into(), &config.as_str().into()), "{faults}");
    assert_eq!(faults[0]["mended"], false);
    let pruned = json(&["prune", "-a", "-f"]);
    assert_eq!(pruned["layers"].as_array().unwrap().len(), 1, "{pruned}");
    assert!(pruned["reclaimed"].as_u64().unwrap() > 100_000, "{pruned}");
    assert_eq!(place.ours("imgtool", &["images", "-q"]).ok().stdout, "");
}
