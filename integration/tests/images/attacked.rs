//! What other users of the machine, or whoever made a directory that we are pointed to, may put in our way.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use integration::command::{self, Files, Out, tool};
use integration::place::Place;
use nix::sys::stat::Mode;

use crate::{bundle, run};

/// Nobody that is known here.
const OTHER: u32 = 54_321;

/// imgtool, which has so many seconds.
fn in_time(place: &Place, args: &[&str]) -> Out {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "20"]).arg(integration::programs::ours("imgtool"));
    command.arg("--root").arg(place.dir.join("store")).args(args);
    command.env("TARE_TEST", &place.id).stdin(Stdio::null());
    command::run(&mut command, &Files::new(&place.dir, "in-time"))
}

/// An honest layout, made anew.
fn layout(place: &Place, name: &str) -> std::path::PathBuf {
    let directory = place.dir.join(name);
    let target = format!("oci:{}:x", directory.display());
    place.ours("imgtool", &["copy", "--quiet", "store:small:1", &target]).ok();
    directory
}

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
}

fn link(target: &str, path: &Path) {
    let _ = fs::remove_file(path);
    symlink(target, path).unwrap();
}

#[test]
fn a_layout_of_somebody_else_is_read_as_files_only() {
    let place = Place::new();
    place.small_image();
    let manifest = place.ours("imgtool", &["inspect", "small:1"]).ok().json()[0].clone();
    let blob = |directory: &Path, digest: &serde_json::Value| {
        directory.join("blobs/sha256").join(&digest.as_str().unwrap()[7..])
    };
    let (config, layer) = (&manifest["id"], &manifest["layers"][0]["digest"]);
    type Attack<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>, &'a str);
    let attacks: Vec<Attack<'_>> = vec![
        ("index-pipe", Box::new(|dir| pipe(&dir.join("index.json"))), "index.json: not a regular file"),
        ("index-zero", Box::new(|dir| link("/dev/zero", &dir.join("index.json"))), "index.json: not a regular file"),
        ("version-pipe", Box::new(|dir| pipe(&dir.join("oci-layout"))), "oci-layout: not a regular file"),
        ("version-zero", Box::new(|dir| link("/dev/zero", &dir.join("oci-layout"))), "not a regular file"),
        (
            "index-huge",
            Box::new(|dir| fs::File::create(dir.join("index.json")).unwrap().set_len(1 << 40).unwrap()),
            "larger than",
        ),
        ("config-pipe", Box::new(|dir| pipe(&blob(dir, config))), "not a regular file"),
        ("layer-pipe", Box::new(|dir| pipe(&blob(dir, layer))), "not a regular file"),
        ("layer-zero", Box::new(|dir| link("/dev/zero", &blob(dir, layer))), "not a regular file"),
        ("layer-host", Box::new(|dir| link("/etc/passwd", &blob(dir, layer))), "mismatch"),
    ];
    for (name, attack, want) in attacks {
        let directory = layout(&place, name);
        attack(&directory);
        let got = place.dir.join(format!("{name}.got"));
        let (source, target) = (format!("oci:{}:x", directory.display()), format!("oci:{}:x", got.display()));
        let out = in_time(&place, &["copy", "--quiet", &source, &target]);
        assert!(!got.join("index.json").exists(), "{name}");
        assert!(out.code == 1 && out.stderr.contains(want) && out.stderr.lines().count() == 1, "{name}: {out}");
    }
    // And what we are to write into.
    let directory = layout(&place, "target");
    pipe(&directory.join("index.json"));
    in_time(&place, &["copy", "--quiet", "store:small:1", &format!("oci:{}:y", directory.display())])
        .refused(&["not a regular file"]);
    // Layouts whose blobs are links to files are in use.
    let directory = layout(&place, "linked");
    let (file, elsewhere) = (blob(&directory, layer), place.dir.join("elsewhere"));
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    let target = format!("oci:{}:x", place.dir.join("copied").display());
    in_time(&place, &["copy", "--quiet", &format!("oci:{}:x", directory.display()), &target]).ok();
    // A pipe among the blobs of the store is damage like any other.
    let file = blob(&place.dir.join("store"), layer);
    pipe(&file);
    let out = in_time(&place, &["fsck"]).is(1);
    assert!(out.stdout.contains("not a regular file"), "{out}");
    in_time(&place, &["fsck", "--repair"]);
    assert!(!file.exists());
}

#[test]
fn a_bundle_that_another_user_can_change_is_not_acted_on() {
    let place = Place::new();
    place.small_image();
    let path = bundle(&place, &["small:1", place.dir.join("mine").to_str().unwrap(), "--", "/probe", "say", "x"]);
    let verbs: [&[&str]; 6] = [
        &["diff", &path],
        &["commit", &path, "theirs:1"],
        &["export", "-o", "/dev/null", &path],
        &["mount", &path],
        &["umount", &path],
        &["unbundle", &path],
    ];
    for verb in verbs {
        chown(&path, Some(OTHER), Some(OTHER)).unwrap();
        place.ours("imgtool", verb).refused(&["belongs to another user", "54321"]);
        chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o707)).unwrap();
        place.ours("imgtool", verb).refused(&["every user can change it"]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(run(&place, &path).ok().stdout, "x\n", "nothing was touched");
    place.ours("imgtool", &["unbundle", &path]).ok();
    // Nor is one made where another user can put things in the way.
    let theirs = place.dir.join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(OTHER), None).unwrap();
    place.ours("imgtool", &["bundle", "--quiet", "small:1", theirs.to_str().unwrap()]).refused(&["another user"]);
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
}

#[test]
fn what_a_bundle_from_elsewhere_says_of_its_network_is_not_acted_on() {
    let place = Place::new();
    place.small_image();
    let path = bundle(&place, &["small:1", place.dir.join("made").to_str().unwrap(), "--", "x"]);
    let (copy, plugins, witness) = (place.dir.join("copy"), place.dir.join("plugins"), place.dir.join("witness"));
    fs::create_dir(&plugins).unwrap();
    fs::write(plugins.join("evil"), format!("#!/bin/sh\ntouch {}\n", witness.display())).unwrap();
    fs::set_permissions(plugins.join("evil"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&copy).unwrap();
    fs::copy(format!("{path}/bundle.json"), copy.join("bundle.json")).unwrap();
    let plan =
        r#"{"hostname":"h","hosts":"","ports":[],"cni":{"name":"n","cniVersion":"0.4.0","plugins":[{"type":"evil"}]}}"#;
    let unbundle = |directory: &Path| {
        fs::write(directory.join("network.json"), plan).unwrap();
        fs::write(directory.join("network-state.json"), r#"{"id":"x","result":null}"#).unwrap();
        let mut command = Command::new(integration::programs::ours("imgtool"));
        command.arg("--root").arg(place.dir.join("store")).arg("unbundle").arg(directory);
        command.env("CNI_PATH", &plugins).env("TARE_TEST", &place.id).stdin(Stdio::null());
        command::run(&mut command, &Files::new(&place.dir, "unbundle")).ok();
    };
    unbundle(&copy);
    assert!(!witness.exists() && !copy.exists(), "its files go, and nothing else is done");
    unbundle(Path::new(&path));
    assert!(witness.exists(), "for a bundle that was made here it is done");
}

#[test]
fn a_store_that_another_user_can_change_is_not_used() {
    let place = Place::new();
    let tar = place.small_image();
    let store = place.dir.join("store");
    let import = ["import", "--quiet", tar.to_str().unwrap(), "again:1"];
    chown(&store, Some(OTHER), None).unwrap();
    place.ours("imgtool", &import).refused(&["store", "belongs to another user"]);
    place.ours("imgtool", &["bundle", "--quiet", "small:1"]).refused(&["belongs to another user"]);
    chown(&store, Some(0), None).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o777)).unwrap();
    place.ours("imgtool", &import).refused(&["every user can change it (mode 777)"]);
    // Where all can add, what is there must be ours.
    fs::set_permissions(&store, fs::Permissions::from_mode(0o1777)).unwrap();
    place.ours("imgtool", &import).ok();
    chown(store.join("layers"), Some(OTHER), None).unwrap();
    place.ours("imgtool", &import).refused(&["layers", "belongs to another user"]);
    chown(store.join("layers"), Some(0), None).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    place.ours("imgtool", &import).ok();
    // Whatever the umask is, what we make is ours alone.
    let new = place.dir.join("new");
    let script = "umask 000; \"$0\" --root \"$1\" import --quiet \"$2\" small:1";
    let imgtool = integration::programs::ours("imgtool");
    tool("sh", &["-c", script, imgtool.to_str().unwrap(), new.to_str().unwrap(), tar.to_str().unwrap()]).ok();
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["blobs", "blobs/sha256", "layers", "layers/sha256", "uses", "locks", "tmp", "ingest"] {
        assert_eq!(fs::metadata(new.join(name)).unwrap().permissions().mode() & 0o077, 0, "{name}");
    }
}

#[test]
fn where_nothing_can_be_said_the_work_is_done_all_the_same() {
    let place = Place::new();
    let tar = place.small_image();
    let imgtool = integration::programs::ours("imgtool");
    for (number, progress) in ["plain", "json"].iter().enumerate() {
        let script = "\"$0\" --root \"$1\" import --progress \"$2\" \"$3\" \"$4\" 2>/dev/full";
        let name = format!("silent:{number}");
        let store = place.dir.join("store");
        let args = [imgtool.to_str().unwrap(), store.to_str().unwrap(), progress, tar.to_str().unwrap(), &name];
        tool("sh", &[&["-c", script], &args[..]].concat()).ok();
        place.ours("imgtool", &["inspect", &name]).ok();
    }
    let script = "\"$0\" --root \"$1\" rm nosuch neither 2>/dev/full";
    let store = place.dir.join("store");
    tool("sh", &["-c", script, imgtool.to_str().unwrap(), store.to_str().unwrap()]).is(1);
}
