//! The whole job on a real image: Debian's minbase and a layer of packages, from a registry to a container that lives on.

use std::time::Duration;

use integration::command::{self, LIMIT};
use integration::peer::containerd::Containerd;
use integration::peer::dockerd::Dockerd;
use integration::peer::image;
use integration::peer::registry::Registry;
use integration::programs::Runtime;
use integration::{skip, wait};

use integration::place::Place;

/// What is run in it: python3, which came with the second layer, on the libraries of the first.
const SCRIPT: &str =
    "import os, sys, time; print('pid', os.getpid(), sys.version_info[0], flush=True); time.sleep(1000)";

/// A registry with the image in it; its reference.
fn registry(place: &Place) -> Result<(Registry, String), String> {
    let layout = image::debian()?;
    let registry = Registry::start(&place.id, &place.dir);
    let reference = format!("{}/debian:python", registry.host);
    let source = format!("oci:{}:debian", layout.display());
    let target = format!("docker://{reference}");
    command::tool("skopeo", &["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &source, &target]).ok();
    Ok((registry, reference))
}

macro_rules! registry {
    ($place:expr) => {
        match registry($place) {
            Ok(got) => got,
            Err(reason) => skip!("{reason}"),
        }
    };
}

#[test]
fn from_a_registry_to_a_container_under_the_shim() {
    let place = Place::new();
    let (_registry, reference) = registry!(&place);
    let imgtool = |args: &[&str]| place.ours("imgtool", args);
    let shim = |args: &[&str]| place.ours("shim", args);

    imgtool(&["pull", "--quiet", &reference]).ok();
    assert!(imgtool(&["images"]).ok().stdout.contains("debian"));
    let inspected = imgtool(&["inspect", &reference]).ok().stdout;
    assert!(inspected.contains("org.example.test"), "{inspected}");
    let environment = format!("TARE_TEST={}", place.id);
    let out = imgtool(&[
        "bundle",
        "--quiet",
        "--pull",
        "never",
        "-e",
        &environment,
        &reference,
        "--",
        "python3",
        "-c",
        SCRIPT,
    ])
    .ok();
    let bundle = out.stdout.trim().to_owned();

    assert_eq!(shim(&["run", "-d", "--name", "web", &bundle]).ok().stdout, "web\n");
    let said = wait::until(Duration::from_millis(20), LIMIT, || {
        shim(&["logs", "web"]).ok().stdout.contains("pid 1 3").then_some(())
    });
    assert!(said.is_some(), "{}", shim(&["logs", "web"]));
    assert_eq!(shim(&["exec", "web", "python3", "-c", "print(6 * 7)"]).ok().stdout, "42\n");
    // dpkg's database, the C library's name service and a shell of the first layer work too.
    assert!(shim(&["exec", "web", "dpkg-query", "-W", "python3-minimal"]).ok().stdout.contains("python3-minimal"));
    assert_eq!(shim(&["exec", "web", "bash", "-c", "cd ~ && pwd && id -un"]).ok().stdout, "/root\nroot\n");
    assert!(shim(&["exec", "web", "apt-get", "--version"]).ok().stdout.starts_with("apt "));
    assert!(shim(&["exec", "web", "sh", "-c", "echo new >/etc/new && cat /etc/new"]).ok().stdout.contains("new"));

    let out = imgtool(&["umount", &bundle]).is(1);
    assert!(out.stderr.contains("runs in it"), "{out}");
    shim(&["stop", "-t", "2", "web"]).ok();
    assert!(shim(&["ps", "-a"]).ok().stdout.contains("Exited"));
    // As after a restart of the machine.
    imgtool(&["umount", &bundle]).ok();
    let out = shim(&["start", "web"]).is(1);
    assert!(out.stderr.contains(&format!("`imgtool mount {bundle}`")), "{out}");
    imgtool(&["mount", &bundle]).ok();
    shim(&["start", "web"]).ok();
    shim(&["rm", "-f", "web"]).ok();

    // A second bundle has nothing of what the first container wrote.
    let second = imgtool(&["bundle", "--quiet", &reference, "--", "ls", "/etc/new"]).ok().stdout.trim().to_owned();
    let out = shim(&["run", "--rm", "--name", "second", &second]);
    assert!(out.code != 0 && out.stderr.contains("/etc/new"), "{out}");

    imgtool(&["unbundle", &bundle, &second]).ok();
    imgtool(&["rm", &reference]).ok();
    assert!(!imgtool(&["images"]).ok().stdout.contains("debian"));
}

#[test]
fn the_same_image_through_containerd() {
    let place = Place::new();
    let (_registry, reference) = registry!(&place);
    let containerd = Containerd::start(&place.id, &place.dir);
    containerd.ctr(&["images", "pull", "--plain-http", &reference]).ok();
    let shim = Containerd::runtime();
    let runtime = ["--runtime", shim.as_str()];
    let mut args = vec!["run", "--rm"];
    args.extend(runtime);
    args.extend([reference.as_str(), "once", "python3", "-c", "print(6 * 7)"]);
    assert_eq!(containerd.ctr(&args).ok().stdout, "42\n");
    let mut args = vec!["run", "-d"];
    args.extend(runtime);
    args.extend([reference.as_str(), "web", "python3", "-c", SCRIPT]);
    containerd.ctr(&args).ok();
    let out = containerd.ctr(&["tasks", "exec", "--exec-id", "e", "web", "dpkg-query", "-W", "python3-minimal"]).ok();
    assert!(out.stdout.contains("python3-minimal"));
    containerd.ctr(&["tasks", "kill", "-s", "KILL", "web"]).ok();
    let deleted = wait::until(Duration::from_millis(50), LIMIT, || {
        (containerd.ctr(&["tasks", "delete", "web"]).code == 0).then_some(())
    });
    assert!(deleted.is_some());
    containerd.ctr(&["containers", "delete", "web"]).ok();
}

#[test]
fn the_same_image_through_docker() {
    let place = Place::new();
    let (_registry, reference) = registry!(&place);
    let docker = Dockerd::start(&place.id, &place.dir, Runtime::under_test());
    docker.docker(&["pull", "-q", &reference]).ok();
    let out = docker
        .docker(&["run", "--rm", "--runtime", "tare", "--network", "none", &reference, "python3", "-c", "print(6 * 7)"])
        .ok();
    assert_eq!(out.stdout, "42\n");
    docker
        .docker(&[
            "run",
            "-d",
            "--name",
            "web",
            "--runtime",
            "tare",
            "--network",
            "none",
            &reference,
            "python3",
            "-c",
            SCRIPT,
        ])
        .ok();
    let out = docker.docker(&["exec", "web", "dpkg-query", "-W", "python3-minimal"]).ok();
    assert!(out.stdout.contains("python3-minimal"));
    docker.docker(&["rm", "-f", "web"]).ok();
}
