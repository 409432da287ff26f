//! `--init`: a program of the host's as PID 1.

use std::fs;
use std::path::Path;

use integration::place::Place;
use integration::{programs, skip};

use crate::{bundle, run};

/// An init that needs nothing of an image.
fn init() -> Option<&'static str> {
    ["/usr/bin/tini-static", "/usr/bin/docker-init", "/usr/bin/catatonit"].into_iter().find(|it| Path::new(it).exists())
}

/// PID 1, and an orphan: gone as soon as it is reaped, by whoever got it.
const ORPHAN: &str = "read -r name </proc/1/comm; echo $name; (sleep 0 & echo $! >/tmp/pid; exec true); \
    while [ -e /proc/$(cat /tmp/pid) ]; do sleep 0.02; done; echo reaped; exit 7";

#[test]
fn an_init_reaps_what_the_command_leaves_and_ends_as_it_did() {
    let place = Place::new();
    place.small_image();
    let Some(program) = init() else { skip!("no static init is installed") };
    for options in [&["--init"][..], &["--init-path", program]] {
        let path = bundle(&place, &[options, &["--tmpfs", "/tmp", "small:1", "--", "/bin/sh", "-c", ORPHAN]].concat());
        let out = run(&place, &path).is(7);
        assert_eq!(out.stdout, "podman-init\nreaped\n", "{out}");
        // It is nothing that the container made.
        assert_eq!(place.ours("imgtool", &["diff", &path]).ok().stdout, "");
        place.ours("imgtool", &["unbundle", &path]).ok();
    }
}

#[test]
fn the_images_links_do_not_lead_the_init_out_of_it() {
    let place = Place::new();
    let Some(program) = init() else { skip!("no static init is installed") };
    integration::peer::image::busybox_tar(&place.dir);
    let (root, outside) = (place.dir.join("small"), place.dir.join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("podman-init"), "the host's").unwrap();
    let tar = place.dir.join("evil.tar");
    // By a directory that is a link, and by a file that is one; both ways.
    for (link, target) in [
        ("run", outside.clone()),
        ("run", "../../../../..".into()),
        ("run/podman-init", outside.join("podman-init")),
        ("run/podman-init", outside.join("absent")),
    ] {
        let run_directory = root.join("run");
        let _ = fs::remove_file(&run_directory).or_else(|_| fs::remove_dir_all(&run_directory));
        if link.contains('/') {
            fs::create_dir(&run_directory).unwrap();
        }
        std::os::unix::fs::symlink(&target, root.join(link)).unwrap();
        crate::tar(&root, &tar);
        place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "evil:1"]).ok();
        let path = bundle(&place, &["--init-path", program, "evil:1", "--", "/bin/echo", "hello"]);
        let out = run(&place, &path);
        assert!(out.stdout == "hello\n" || out.code != 0, "{out}");
        place.ours("imgtool", &["unbundle", &path]).ok();
        assert_eq!(fs::read_to_string(outside.join("podman-init")).unwrap(), "the host's");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{link} -> {}", target.display());
    }
}

#[test]
fn without_an_init_the_packages_are_named() {
    let place = Place::new();
    place.small_image();
    let mut command = std::process::Command::new(programs::ours("imgtool"));
    // Where there is none.
    command.env("PATH", "/proc").env("TARE_TEST", &place.id).stdin(std::process::Stdio::null());
    command.arg("--root").arg(place.dir.join("store")).args(["bundle", "-q", "--init", "small:1", "--", "x"]);
    let elsewhere = ["/usr/libexec/podman/catatonit", "/usr/lib/podman/catatonit", "/usr/libexec/docker/docker-init"];
    if elsewhere.iter().any(|it| Path::new(it).exists()) {
        skip!("an init is installed beside PATH");
    }
    let out = integration::command::run(&mut command, &integration::command::Files::new(&place.dir, "none"));
    out.refused(&["install tini, catatonit or docker.io", "--init-path"]);
    place.ours("imgtool", &["bundle", "-q", "--init-path", "/etc", "small:1"]).refused(&["/etc", "not a program"]);
}
