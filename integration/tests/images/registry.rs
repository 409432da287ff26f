//! Pulling from a real registry.

use integration::command::tool;
use integration::peer::registry::Registry;
use integration::place::Place;

use crate::{bundle, run};

/// A registry with the small image as `small:1`, and `small:zstd` with its layer compressed by zstd.
fn registry(place: &Place) -> Registry {
    let registry = Registry::start(&place.id, &place.dir);
    let maker = Place::new();
    maker.small_image();
    let archive = maker.dir.join("small.tar");
    maker.ours("imgtool", &["save", "--quiet", "-o", archive.to_str().unwrap(), "small:1"]).ok();
    let source = format!("oci-archive:{}", archive.display());
    for (tag, more) in [("1", &[][..]), ("zstd", &["--dest-compress-format", "zstd"])] {
        let target = format!("docker://{}/team/small:{tag}", registry.host);
        let mut args = vec!["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
        args.extend(more);
        args.extend([source.as_str(), &target]);
        tool("skopeo", &args).ok();
    }
    registry
}

#[test]
fn by_tag_and_by_digest() {
    let place = Place::new();
    let registry = registry(&place);
    let reference = format!("{}/team/small:1", registry.host);
    place.ours("imgtool", &["pull", "--quiet", &reference]).ok();
    let path = bundle(&place, &["--pull", "never", &reference, "--", "/probe", "say", "pulled"]);
    assert_eq!(run(&place, &path).ok().stdout, "pulled\n");
    place.ours("imgtool", &["unbundle", &path]).ok();

    let target = format!("docker://{reference}");
    let inspected = tool("skopeo", &["inspect", "--tls-verify=false", &target]).ok().json();
    let digest = inspected["Digest"].as_str().unwrap();
    let other = Place::new();
    other.ours("imgtool", &["pull", "--quiet", &format!("{}/team/small@{digest}", registry.host)]).ok();
    assert!(other.ours("imgtool", &["images", "--digests", "--no-trunc"]).ok().stdout.contains(digest));
}

#[test]
fn zstd_layers() {
    let place = Place::new();
    let registry = registry(&place);
    let reference = format!("{}/team/small:zstd", registry.host);
    let path = bundle(&place, &[&reference, "--", "/probe", "say", "zstd"]);
    assert_eq!(run(&place, &path).ok().stdout, "zstd\n");
    place.ours("imgtool", &["unbundle", &path]).ok();
}

#[test]
fn bundle_pulls_what_is_missing_and_only_that() {
    let place = Place::new();
    let registry = registry(&place);
    let reference = format!("{}/team/small:1", registry.host);
    let out = place.ours("imgtool", &["bundle", "--quiet", "--pull", "never", &reference]);
    assert!(out.code == 1 && out.stderr.contains("small"), "{out}");
    let first = bundle(&place, &[&reference]);
    // What is there needs no registry.
    drop(registry);
    let second = bundle(&place, &[&reference]);
    let out = place.ours("imgtool", &["bundle", "--quiet", "--pull", "always", &reference]);
    assert_eq!(out.code, 1, "{out}");
    place.ours("imgtool", &["unbundle", &first, &second]).ok();
}

#[test]
fn the_platform_of_a_list_is_chosen() {
    let place = Place::new();
    let registry = Registry::start(&place.id, &place.dir);
    // Two platforms that differ in one file, joined in a list by buildah.
    let storage = place.dir.join("buildah");
    let storage =
        ["--root", storage.to_str().unwrap(), "--runroot", storage.to_str().unwrap(), "--storage-driver", "vfs"];
    let buildah = |args: &[&str]| {
        let mut all = storage.to_vec();
        all.extend(args);
        tool("buildah", &all).ok().stdout.trim().to_owned()
    };
    buildah(&["manifest", "create", "list"]);
    for platform in ["amd64", "arm64"] {
        let root = place.dir.join(platform);
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("platform"), platform).unwrap();
        let container = buildah(&["from", "--arch", platform, "scratch"]);
        buildah(&["add", "-q", &container, root.to_str().unwrap(), "/"]);
        buildah(&["config", "--arch", platform, "--os", "linux", &container]);
        buildah(&["commit", "-q", &container, platform]);
        buildah(&[
            "manifest",
            "add",
            "--arch",
            platform,
            "--os",
            "linux",
            "list",
            &format!("containers-storage:localhost/{platform}"),
        ]);
    }
    let reference = format!("{}/multi:1", registry.host);
    buildah(&["manifest", "push", "--all", "--tls-verify=false", "list", &format!("docker://{reference}")]);
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    for (flag, expected) in [(None, host), (Some("linux/arm64"), "arm64"), (Some("linux/amd64"), "amd64")] {
        let place = Place::new();
        let mut args = vec!["--quiet"];
        if let Some(flag) = flag {
            args.extend(["--platform", flag]);
        }
        args.push(&reference);
        let mut pull = vec!["pull"];
        pull.extend(&args);
        place.ours("imgtool", &pull).ok();
        let mut bundle = vec!["bundle", "--pull", "never"];
        bundle.extend(&args);
        bundle.extend(["--", "x"]);
        let path = place.ours("imgtool", &bundle).ok().stdout.trim().to_owned();
        assert_eq!(std::fs::read_to_string(format!("{path}/rootfs/platform")).unwrap(), expected);
        place.ours("imgtool", &["unbundle", &path]).ok();
    }
    // The list whole, or one of it: to another repository and to a layout.
    let digest = |reference: &str| {
        let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")]).ok();
        raw.json()["manifests"].as_array().map_or(1, Vec::len)
    };
    let (all, one) = (format!("{}/all:1", registry.host), format!("{}/one:1", registry.host));
    place.ours("imgtool", &["copy", "-q", "--all", &reference, &all]).ok();
    place.ours("imgtool", &["copy", "-q", "--platform", "linux/arm64", &reference, &one]).ok();
    assert_eq!((digest(&reference), digest(&all), digest(&one)), (2, 2, 1));
    let layout = place.dir.join("all");
    let whole = place.ours("imgtool", &["copy", "-q", "--all", &all, &format!("oci:{}:x", layout.display())]).ok();
    assert_eq!(std::fs::read_dir(layout.join("blobs/sha256")).unwrap().count(), 7, "{whole}");
    let other = Place::new();
    let out = other.ours("imgtool", &["pull", "--quiet", "--platform", "linux/s390x", &reference]);
    assert!(out.code == 1 && out.stderr.contains("s390x") && out.stderr.lines().count() == 1, "{out}");
}

#[test]
fn two_pulls_at_once_do_not_disturb_each_other() {
    let place = Place::new();
    let registry = registry(&place);
    let reference = format!("{}/team/small:1", registry.host);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|n| {
                let reference = &reference;
                let place = &place;
                let store = place.dir.join("store");
                let files = integration::command::Files::new(&place.dir, &format!("pull{n}"));
                let mut command = std::process::Command::new(integration::programs::ours("imgtool"));
                command.env("TARE_TEST", &place.id).stdin(std::process::Stdio::null());
                command.arg("--root").arg(store).args(["pull", "--quiet", reference]);
                scope.spawn(move || integration::command::run(&mut command, &files))
            })
            .collect();
        for pull in pulls {
            pull.join().unwrap().ok();
        }
    });
    let path = bundle(&place, &["--pull", "never", &reference, "--", "/probe", "say", "whole"]);
    assert_eq!(run(&place, &path).ok().stdout, "whole\n");
    place.ours("imgtool", &["unbundle", &path]).ok();
}
