//! Bundles: the image's configuration becomes the container's, layers are shared, and what is undone is undone.

use std::fs;

use integration::leak;
use integration::place::Place;
use integration::spec::CAPABILITY_MASK;
use serde_json::Value;

use crate::{bundle, run};

const DOCKERFILE: [&str; 9] = [
    "ENTRYPOINT [\"/probe\"]",
    "CMD [\"report\"]",
    "ENV PATH=/bin KEY=value",
    "WORKDIR /made/here",
    "USER web",
    "LABEL org.example.label=yes",
    "STOPSIGNAL SIGQUIT",
    "EXPOSE 80/tcp",
    "VOLUME /data",
];

/// The small image with all that a Dockerfile can say.
fn described(place: &Place) {
    let tar = integration::peer::image::busybox_tar(&place.dir);
    let mut args = vec!["import", "--quiet"];
    for line in &DOCKERFILE {
        args.extend(["-c", line]);
    }
    args.extend([tar.to_str().unwrap(), "described:1"]);
    place.ours("imgtool", &args).ok();
}

fn config(bundle: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(format!("{bundle}/config.json")).unwrap()).unwrap()
}

#[test]
fn the_images_configuration_is_the_containers() {
    let place = Place::new();
    described(&place);
    let path = bundle(&place, &["described:1"]);
    let report = run(&place, &path).ok().report();
    assert_eq!(report.args, ["/probe", "report"]);
    assert_eq!((report.uid[0], report.gid[0]), (33, 33));
    assert!(report.groups.contains(&44), "the user's groups come from the image: {:?}", report.groups);
    assert_eq!(report.cwd, "/made/here");
    assert_eq!(report.env["KEY"], "value");
    assert_eq!(report.env["PATH"], "/bin");
    assert_eq!(report.seccomp, 2);
    assert_eq!(report.caps.bounding, CAPABILITY_MASK);
    assert!(report.mount("/data").is_some(), "a volume is a mount of its own");
    assert_eq!(report.interfaces, ["lo"]);

    let config = config(&path);
    let annotations = &config["annotations"];
    assert_eq!(annotations["org.opencontainers.image.stopSignal"], "SIGQUIT");
    assert_eq!(annotations["org.opencontainers.image.exposedPorts"], "80/tcp");
    assert_eq!(annotations["org.example.label"], "yes");
    assert_eq!(annotations["org.tare.image.ref"], "docker.io/library/described:1");
    assert!(annotations["org.tare.image.digest"].as_str().unwrap().starts_with("sha256:"));
    place.ours("imgtool", &["unbundle", &path]).ok();
}

#[test]
fn the_command_line_has_the_last_word() {
    let place = Place::new();
    described(&place);
    let shared = place.dir.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "from the host").unwrap();
    let volume = format!("{}:/shared:ro", shared.display());
    let path = bundle(
        &place,
        &[
            "-e",
            "KEY=other",
            "-e",
            "NEW=1",
            "-w",
            "/tmp",
            "-u",
            "1000:1001",
            "--hostname",
            "named",
            "--memory",
            "64m",
            "--pids-limit",
            "50",
            "--cap-drop",
            "ALL",
            "--cap-add",
            "CHOWN",
            "-v",
            &volume,
            "--read-only",
            "described:1",
            "--",
            "report",
        ],
    );
    let report = run(&place, &path).ok().report();
    assert_eq!((report.uid[0], report.gid[0]), (1000, 1001));
    assert_eq!(report.cwd, "/tmp");
    assert_eq!((report.env["KEY"].as_str(), report.env["NEW"].as_str()), ("other", "1"));
    assert_eq!(report.hostname, "named");
    assert_eq!(report.caps.bounding, 1);
    assert!(report.mount("/").unwrap().has("ro"));
    assert!(report.mount("/shared").unwrap().has("ro"));
    let resources = &config(&path)["linux"]["resources"];
    assert_eq!(resources["memory"]["limit"], 67_108_864);
    assert_eq!(resources["pids"]["limit"], 50);
    place.ours("imgtool", &["unbundle", &path]).ok();

    let path = bundle(&place, &["--entrypoint", "/bin/echo", "described:1", "--", "other", "program"]);
    assert_eq!(run(&place, &path).ok().stdout, "other program\n");
    place.ours("imgtool", &["unbundle", &path]).ok();
}

#[test]
fn bundles_share_layers_and_keep_what_they_write_to_themselves() {
    let place = Place::new();
    place.small_image();
    let write = |path: &str| run(&place, path);
    let first = bundle(
        &place,
        &["small:1", "--", "/bin/sh", "-c", "echo mine >/etc/mine; echo changed >/etc/passwd; rm /etc/group"],
    );
    let second = bundle(&place, &["small:1", "--", "/bin/sh", "-c", "ls /etc; cat /etc/passwd"]);
    assert_ne!(first, second);
    write(&first).ok();
    let out = run(&place, &second).ok();
    assert!(out.stdout.contains("group") && out.stdout.contains("web:x:33") && !out.stdout.contains("mine"), "{out}");
    // What the first wrote is still there for its next start.
    assert_eq!(fs::read_to_string(format!("{first}/rootfs/etc/mine")).unwrap(), "mine\n");
    let layers = fs::read_dir(place.dir.join("store/layers/sha256")).unwrap().count();
    assert_eq!(layers, 1, "unpacked once");
    place.ours("imgtool", &["unbundle", &first, &second]).ok();
    assert!(leak::mounts(&place.id).is_empty());
    assert_eq!(fs::read_dir(place.dir.join("store/bundles")).unwrap().count(), 0);
}

#[test]
fn a_bundle_at_a_place_of_ones_own() {
    let place = Place::new();
    place.small_image();
    let target = place.dir.join("here");
    let path = bundle(&place, &["small:1", target.to_str().unwrap(), "--", "/bin/echo", "hello"]);
    assert_eq!(path, target.to_str().unwrap());
    assert_eq!(run(&place, &path).ok().stdout, "hello\n");
    // A directory with something in it is not touched.
    let full = place.dir.join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "").unwrap();
    let out = place.ours("imgtool", &["bundle", "--quiet", "small:1", full.to_str().unwrap()]);
    assert!(out.code == 1 && out.stderr.contains("full") && out.stderr.lines().count() == 1, "{out}");
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    place.ours("imgtool", &["unbundle", &path]).ok();
    assert!(!target.exists());
}

#[test]
fn any_runtime_runs_the_bundle() {
    let place = Place::new();
    place.small_image();
    let path = bundle(&place, &["small:1", "--", "/probe", "say", "hello"]);
    for name in ["runc", "crun"] {
        if name == "crun" && integration::cgroups::mode() == integration::cgroups::Mode::Hybrid {
            // crun knows no hybrid.
            integration::cgroups::enter_v1();
        }
        let Some(binary) = integration::programs::find(name.as_ref()) else {
            integration::skip!("{name} is not installed")
        };
        let state = place.dir.join(name);
        let args = ["--root", state.to_str().unwrap(), "run", "--bundle", &path, &place.id];
        assert_eq!(integration::command::tool(binary.to_str().unwrap(), &args).ok().stdout, "hello\n");
    }
    place.ours("imgtool", &["unbundle", &path]).ok();
}

#[test]
fn an_image_in_use_stays_usable() {
    let place = Place::new();
    place.small_image();
    let path = bundle(&place, &["small:1", "--", "/probe", "say", "still here"]);
    let out = place.ours("imgtool", &["rm", "small:1"]);
    assert!(out.code == 1 && out.stderr.lines().count() == 1, "an image that a bundle uses is kept: {out}");
    place.ours("imgtool", &["rm", "--force", "small:1"]).ok();
    assert_eq!(run(&place, &path).ok().stdout, "still here\n");
    place.ours("imgtool", &["unbundle", &path]).ok();
}
