//! What a store has, listed, filtered, and taken in as a directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use integration::console::Pty;
use integration::place::Place;
use integration::programs;

use crate::{bundle, run};

/// Four images: three of them made one after the other, of which one lost its name, and a second name.
fn images(place: &Place) {
    let tar = integration::peer::image::busybox_tar(&place.dir);
    let import = |changes: &[&str], epoch: &str, name: &str| {
        let mut command = Command::new(programs::ours("imgtool"));
        command.env("TARE_TEST", &place.id).env("SOURCE_DATE_EPOCH", epoch).stdin(std::process::Stdio::null());
        command.arg("--root").arg(place.dir.join("store")).args(["import", "--quiet"]);
        command.args(changes.iter().flat_map(|change| ["-c", change])).arg(&tar).arg(name);
        integration::command::run(&mut command, &integration::command::Files::new(&place.dir, &format!("e{epoch}")))
            .ok();
    };
    import(&["LABEL team=a"], "1000000000", "app/web:1");
    import(&["LABEL team=b kind=db"], "1100000000", "app/db:1");
    import(&["LABEL team=a"], "1200000000", "lost:1");
    import(&["CMD sh"], "1300000000", "lost:1");
}

#[test]
fn images_are_filtered_in_dockers_words() {
    let place = Place::new();
    images(&place);
    let listed = |args: &[&str]| -> Vec<String> {
        let all = place.ours("imgtool", &[&["images", "--format", "json"], args].concat()).ok().json();
        let name = |image: &serde_json::Value| image["name"].as_str().unwrap_or("none").replace("docker.io/", "");
        let mut names: Vec<_> = all.as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    };
    for (filters, want) in [
        (&[][..], &["app/db:1", "app/web:1", "library/lost:1", "none"][..]),
        (&["reference=app/*"], &["app/db:1", "app/web:1"]),
        (&["reference=app/w*:1", "reference=lost"], &["app/web:1", "library/lost:1"]),
        (&["reference=docker.io/app/db:?"], &["app/db:1"]),
        (&["reference=*"], &["library/lost:1"]),
        (&["dangling=true"], &["none"]),
        (&["dangling=false", "label=team"], &["app/db:1", "app/web:1"]),
        (&["label=team=a"], &["app/web:1", "none"]),
        (&["label=team=b", "label=kind=db"], &["app/db:1"]),
        (&["label=team=b", "label=kind=x"], &[]),
        (&["before=app/db:1"], &["app/web:1"]),
        (&["since=app/db:1"], &["library/lost:1", "none"]),
        (&["since=app/web:1", "before=lost:1", "dangling=false"], &["app/db:1"]),
    ] {
        let args: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        assert_eq!(listed(&args), want, "{filters:?}");
    }
    assert_eq!(place.ours("imgtool", &["images", "-q", "-f", "dangling=true"]).ok().stdout.lines().count(), 1);
    place.ours("imgtool", &["images", "-f", "before=absent:1"]).refused(&["--filter absent:1", "no such image"]);
    place.ours("imgtool", &["images", "-f", "until=1h"]).is(2);
}

#[test]
fn bundles_are_listed_with_what_they_take_and_who_uses_them() {
    let place = Place::new();
    place.small_image();
    assert_eq!(place.ours("imgtool", &["bundles", "-q"]).ok().stdout, "");
    let write = ["small:1", "--", "/bin/sh", "-c", "busybox dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null"];
    let here = place.dir.join("here");
    let (first, second) = (bundle(&place, &write), bundle(&place, &["small:1", here.to_str().unwrap(), "--", "x"]));
    run(&place, &first).ok();
    place.ours("imgtool", &["umount", &second]).ok();
    let rows = place.ours("imgtool", &["bundles", "--format", "json"]).ok().json();
    let row = |path: &str| rows.as_array().unwrap().iter().find(|row| row["bundle"] == path).unwrap().clone();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert!((3 << 20..4 << 20).contains(&row(&first)["size"].as_u64().unwrap()), "its own, not the image's: {rows}");
    assert_eq!((&row(&first)["mounted"], &row(&second)["mounted"]), (&true.into(), &false.into()));
    assert_eq!(row(&second)["image"], "docker.io/library/small:1");
    assert!(row(&first)["usedBy"].is_null() && row(&first)["digest"].as_str().unwrap().starts_with("sha256:"));
    // Somebody is in it.
    let mut inside = Command::new("chroot");
    inside.arg(Path::new(&first).join("rootfs")).args(["/bin/cat"]).stdin(std::process::Stdio::piped());
    let mut inside = inside.env("TARE_TEST", &place.id).spawn().unwrap();
    let used = format!("process {}", inside.id());
    let seen = integration::wait::until(std::time::Duration::from_millis(20), integration::command::LIMIT, || {
        let table = place.ours("imgtool", &["bundles"]).ok().stdout;
        table.contains(&used).then_some(table)
    });
    let table = seen.expect("it is in the root directory after a while");
    assert!(table.starts_with("BUNDLE") && table.contains("MB   yes"), "{table}");
    drop(inside.stdin.take());
    inside.wait().unwrap();
    place.ours("imgtool", &["unbundle", &first, &second]).ok();
    assert_eq!(place.ours("imgtool", &["bundles", "--format", "json"]).ok().json(), serde_json::json!([]));
}

#[test]
fn a_layout_is_loaded_as_an_archive_is() {
    let place = Place::new();
    place.small_image();
    let layout = place.dir.join("layout");
    let target = format!("oci:{}:small", layout.display());
    place.ours("imgtool", &["copy", "--quiet", "store:small:1", &target]).ok();
    let digest = place.ours("imgtool", &["inspect", "small:1"]).ok().json()[0]["digest"].clone();
    place.ours("imgtool", &["rm", "small:1"]).ok();
    let load = |args: &[&str]| place.ours("imgtool", &[&["load", "-q", "-i", layout.to_str().unwrap()], args].concat());
    load(&["--name", "loaded:1"]).ok();
    assert_eq!(place.ours("imgtool", &["inspect", "loaded:1"]).ok().json()[0]["digest"], digest);
    let path = bundle(&place, &["--pull", "never", "loaded:1", "--", "/bin/echo", "hello"]);
    assert_eq!(run(&place, &path).ok().stdout, "hello\n");
    place.ours("imgtool", &["unbundle", &path]).ok();
    place.ours("imgtool", &["rm", "loaded:1"]).ok();
    // A blob that is a link to a file of the host's, one that is a pipe, and one that is altered.
    let blobs = layout.join("blobs/sha256");
    let blob = blobs.join(&digest.as_str().unwrap()[7..]);
    let text = fs::read(&blob).unwrap();
    let refused = |word: &str| {
        crate::refused(&place, &["load", "-q", "-i", layout.to_str().unwrap()], word);
        fs::remove_file(&blob).unwrap();
    };
    fs::write(&blob, [&text[..], b" "].concat()).unwrap();
    refused("mismatch");
    std::os::unix::fs::symlink("/etc/passwd", &blob).unwrap();
    refused("");
    integration::command::tool("mkfifo", &[blob.to_str().unwrap()]).ok();
    refused("not a regular file");
    crate::refused(&place, &["load", "-q", "-i", layout.to_str().unwrap()], "the archive has no blobs/");
    crate::refused(&place, &["load", "-q", "-i", place.dir.join("small").to_str().unwrap()], "");
}

#[test]
fn prune_asks_on_a_terminal() {
    let place = Place::new();
    images(&place);
    let prune = |args: &[&str]| {
        let mut command = Command::new(programs::ours("imgtool"));
        command.arg("--root").arg(place.dir.join("store")).arg("prune").args(args);
        command
    };
    let left = || place.ours("imgtool", &["images", "-q", "-f", "dangling=true"]).ok().stdout.lines().count();
    for (answer, code_left) in [("n\n", 1), ("\n", 1), ("y\n", 0)] {
        let pty = Pty::open();
        let mut asked = pty.spawn(&mut prune(&[]), &place.id);
        let mut terminal = pty.terminal;
        let seen = terminal.sees("[y/N]").to_owned();
        assert!(seen.contains("all images without a name"), "{seen}");
        terminal.types(answer);
        terminal.sees("Total reclaimed space");
        assert!(asked.wait().unwrap().success());
        assert_eq!(left(), code_left, "{answer:?}");
    }
    // Who is sure is not asked.
    let pty = Pty::open();
    let mut sure = pty.spawn(&mut prune(&["--all", "--force"]), &place.id);
    let mut terminal = pty.terminal;
    assert!(!terminal.sees("Total reclaimed space").contains("[y/N]"));
    assert!(sure.wait().unwrap().success());
    assert_eq!(place.ours("imgtool", &["images", "-q"]).ok().stdout, "");
}
