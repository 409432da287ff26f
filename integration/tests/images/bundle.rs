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

#[test]
fn options_of_docker_run_reach_the_process() {
    let place = Place::new();
    described(&place);
    fs::write(place.dir.join("env"), "# file\nFROM_FILE=yes\nKEY=file\n").unwrap();
    let env = place.dir.join("env");
    let path = bundle(
        &place,
        &[
            "--env-file",
            env.to_str().unwrap(),
            "-e",
            "KEY=flag",
            "--tmpfs",
            "/scratch:size=1m",
            "--mount",
            "type=volume,source=kept,target=/kept",
            "--ulimit",
            "nofile=64:128",
            "--security-opt",
            "no-new-privileges",
            "--security-opt",
            "seccomp=unconfined",
            "--group-add",
            "4321",
            "--add-host",
            "db:192.0.2.1",
            "--dns",
            "192.0.2.53",
            "--label",
            "mine=1",
            "--stop-signal",
            "SIGUSR1",
            "--health-cmd",
            "true",
            "--copy",
            "described:1",
        ],
    );
    let report = run(&place, &path).ok().report();
    assert_eq!((report.env["FROM_FILE"].as_str(), report.env["KEY"].as_str()), ("yes", "flag"));
    assert!(report.mount("/scratch").is_some() && report.mount("/kept").is_some());
    assert_eq!(report.seccomp, 0);
    assert!(report.groups.contains(&4321));
    assert!(fs::read_to_string(format!("{path}/etc/hosts")).unwrap().contains("192.0.2.1\tdb"));
    assert_eq!(fs::read_to_string(format!("{path}/etc/resolv.conf")).unwrap(), "nameserver 192.0.2.53\n");
    let config = config(&path);
    assert_eq!(config["process"]["rlimits"][0]["soft"], 64);
    assert_eq!(config["annotations"]["mine"], "1");
    assert_eq!(config["annotations"]["org.opencontainers.image.stopSignal"], "SIGUSR1");
    assert!(config["annotations"]["org.tare.healthcheck"].as_str().unwrap().contains("CMD-SHELL"));
    place.ours("imgtool", &["unbundle", &path]).ok();
    assert!(place.dir.join("store/volumes/kept").is_dir());
}

#[test]
fn limits_devices_and_sysctls_reach_the_container() {
    let place = Place::new();
    place.small_image();
    let look = "cat /proc/sys/net/core/somaxconn; ls -l /dev/zilch; echo x >/dev/zilch && echo written; \
                cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max; \
                cat pids/pids.max 2>/dev/null || cat pids.max; cat cpu/cpu.cfs_quota_us 2>/dev/null || cat cpu.max";
    let options = ["--sysctl", "net.core.somaxconn=77", "--device", "/dev/null:/dev/zilch:rw", "-m", "64m"];
    let more = ["--pids-limit", "50", "--cpus", "0.5", "--userns", "host", "small:1", "--", "sh", "-c", look];
    let path = bundle(&place, &[&options[..], &more].concat());
    let said = run(&place, &path).ok().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3], lines[4]), ("77", "written", "67108864", "50"), "{said}");
    assert!(lines[1].starts_with('c') && lines[1].contains("1,   3"), "{said}");
    assert!(lines[5].starts_with("50000"), "{said}");
    place.ours("imgtool", &["unbundle", &path]).ok();
}

#[test]
fn a_privileged_container_has_what_the_host_has() {
    let place = Place::new();
    place.small_image();
    let path = bundle(&place, &["--privileged", "small:1", "--", "/probe", "report"]);
    let report = run(&place, &path).ok().report();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ours = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    assert_eq!(format!("{:016x}", report.caps.bounding), ours);
    assert_eq!(report.seccomp, 0);
    assert!(report.mount("/proc/kcore").is_none() && report.mount("/proc/sys").is_none(), "nothing is masked");
    assert!(!report.mount("/sys").unwrap().options.iter().any(|option| option == "ro"));
    place.ours("imgtool", &["unbundle", &path]).ok();
}

#[test]
fn what_a_container_changed_is_listed_committed_and_exported() {
    let place = Place::new();
    place.small_image();
    let path = bundle(&place, &["small:1", "--", "/probe", "say", "x"]);
    let rootfs = std::path::Path::new(&path).join("rootfs");
    fs::create_dir(rootfs.join("new")).unwrap();
    fs::write(rootfs.join("new/file"), "made").unwrap();
    fs::write(rootfs.join("etc/group"), "changed:x:1:\n").unwrap();
    fs::remove_file(rootfs.join("etc/passwd")).unwrap();
    let listed = place.ours("imgtool", &["diff", &path]).ok().stdout;
    assert_eq!(listed, "C /etc\nC /etc/group\nD /etc/passwd\nA /new\nA /new/file\n");
    let exported = place.dir.join("exported.tar");
    place.ours("imgtool", &["export", "-o", exported.to_str().unwrap(), &path]).ok();
    let names = integration::command::tool("tar", &["-tf", exported.to_str().unwrap()]).ok().stdout;
    assert!(names.contains("new/file\n") && !names.contains("passwd") && names.contains("probe\n"), "{names}");

    let commit = ["commit", "--compression", "zstd", "-c", "ENV ADDED=1", "-m", "why", &path, "changed:1"];
    place.ours("imgtool", &commit).ok();
    // The same changes at the same time are the same layer.
    place.ours("imgtool", &["commit", "--compression", "zstd", &path, "again:1"]).ok();
    let inspect = |name: &str| place.ours("imgtool", &["inspect", name]).ok().json()[0].clone();
    let (one, two) = (inspect("changed:1"), inspect("again:1"));
    assert_eq!(one["layers"][1]["diffId"], two["layers"][1]["diffId"]);
    assert_eq!(one["config"]["history"][1]["comment"], "why");
    // And at a given time the same image to the bit.
    let at_a_time = |name: &str| {
        let mut command = std::process::Command::new(integration::programs::ours("imgtool"));
        command.env("TARE_TEST", &place.id).env("SOURCE_DATE_EPOCH", "1000000000").stdin(std::process::Stdio::null());
        command.arg("--root").arg(place.dir.join("store")).args(["commit", &path, name]);
        integration::command::run(&mut command, &integration::command::Files::new(&place.dir, name)).ok();
        let image = inspect(name);
        assert_eq!(image["config"]["created"], "2001-09-09T01:46:40Z");
        image["digest"].clone()
    };
    let first = at_a_time("epoch");
    fs::File::open(rootfs.join("new/file")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(at_a_time("later"), first);
    // umount and mount, as a restart would.
    place.ours("imgtool", &["umount", &path]).ok();
    assert!(!rootfs.join("probe").exists());
    place.ours("imgtool", &["mount", &path]).ok();
    assert_eq!(fs::read_to_string(rootfs.join("new/file")).unwrap(), "made");
    place.ours("imgtool", &["unbundle", &path]).ok();

    let second = bundle(&place, &["changed:1", "--", "/probe", "report"]);
    let out = std::path::Path::new(&second).join("rootfs");
    assert_eq!(fs::read_to_string(out.join("new/file")).unwrap(), "made");
    assert!(!out.join("etc/passwd").exists());
    assert_eq!(run(&place, &second).ok().report().env["ADDED"], "1");
    place.ours("imgtool", &["unbundle", &second]).ok();
    // Others unpack it to the same.
    let layout = place.dir.join("layout");
    let layout = layout.to_str().unwrap();
    place.ours("imgtool", &["copy", "--quiet", "store:changed:1", &format!("oci:{layout}:x")]).ok();
    let target = format!("dir:{}", place.dir.join("dir").display());
    integration::command::tool("skopeo", &["--insecure-policy", "copy", "-q", &format!("oci:{layout}:x"), &target])
        .ok();
}

#[test]
fn the_store_is_tidied_measured_and_checked() {
    let place = Place::new();
    let tar = place.small_image();
    place.ours("imgtool", &["tag", "small:1", "other:2"]).ok();
    assert_eq!(place.ours("imgtool", &["images", "-q"]).ok().stdout.lines().count(), 1, "one image by two names");
    assert!(place.ours("imgtool", &["history", "other:2"]).ok().stdout.contains("imgtool import"));
    let du = place.ours("imgtool", &["du", "--format", "json"]).ok().json();
    assert!(du["store"]["blobs"]["size"].as_u64().unwrap() > 10_000, "{du}");
    assert_eq!(du["images"].as_array().unwrap().len(), 2, "{du}");
    place.ours("imgtool", &["fsck"]).ok();
    // One bit of a blob turns.
    let layer = place.ours("imgtool", &["inspect", "small:1"]).ok().json()[0]["layers"][0]["digest"].clone();
    let blob = place.dir.join("store/blobs/sha256").join(&layer.as_str().unwrap()[7..]);
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let out = place.ours("imgtool", &["fsck"]);
    assert!(out.code == 1 && out.stdout.contains(layer.as_str().unwrap()), "{out}");
    let out = place.ours("imgtool", &["fsck", "--repair"]);
    assert!(out.stdout.contains("mended") && !blob.exists(), "{out}");
    place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), "small:1"]).ok();
    place.ours("imgtool", &["fsck"]).ok();
    place.ours("imgtool", &["rm", "other:2"]).ok();
    let out = place.ours("imgtool", &["prune", "--all"]).ok();
    assert!(out.stdout.contains("Untagged") && out.stdout.contains("reclaimed"), "{out}");
    assert_eq!(place.ours("imgtool", &["images", "-q"]).ok().stdout, "");
    assert_eq!(fs::read_dir(place.dir.join("store/blobs/sha256")).unwrap().count(), 0);
}
