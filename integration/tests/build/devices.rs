//! Devices by name, in steps of a build and in bundles.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::Yard;

/// Two devices of one kind, described in two files.
fn described(yard: &Yard) -> PathBuf {
    let cdi = yard.place.dir.join("cdi");
    fs::create_dir(&cdi).unwrap();
    let seen = yard.place.dir.join("hook-was-here");
    let hook = yard.place.dir.join("hook");
    fs::write(&hook, format!("#!/bin/sh\ncat > {}\n", seen.display())).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(yard.place.dir.join("library"), "of the driver\n").unwrap();
    let yaml = format!(
        "\
cdiVersion: 0.7.0
kind: vendor.com/dev
containerEdits:
  env: [COMMON=yes]
devices:
- name: zero # not of the machine's usual ones in a container by this name
  annotations: {{org.mobyproject.buildkit.device.class: fast}}
  containerEdits:
    env: [WHICH=zero]
    deviceNodes:
    - {{path: /dev/vendor-zero, hostPath: /dev/zero, permissions: r}}
    mounts:
    - {{hostPath: {dir}/library, containerPath: /usr/lib/vendor/lib.so, options: [ro, rbind, nosuid]}}
    hooks:
    - {{hookName: createRuntime, path: {hook}, args: [hook], timeout: 60}}
    additionalGids: [4242]
",
        dir = yard.place.dir.display(),
        hook = hook.display()
    );
    fs::write(cdi.join("vendor.yaml"), yaml).unwrap();
    let json = r#"{"cdiVersion":"0.6.0","kind":"free.com/dev","devices":[{"name":"one","containerEdits":{"env":["FREE=one"]}}],
        "annotations":{"org.mobyproject.buildkit.device.autoallow":"true"}}"#;
    fs::write(cdi.join("free.json"), json).unwrap();
    cdi
}

const LOOK: &str = "echo $COMMON $WHICH; busybox id -G; busybox head -c 3 /dev/vendor-zero | busybox wc -c; \
    ! echo x > /dev/vendor-zero; cat /usr/lib/vendor/lib.so; ! echo x > /usr/lib/vendor/lib.so";

#[test]
fn a_step_has_the_devices_that_the_build_is_allowed() {
    let yard = Yard::new();
    let cdi = described(&yard);
    let cdi = ["--cdi-spec-dir", cdi.to_str().unwrap()];
    let build = |run: &str, args: &[&str]| yard.build(&format!("FROM base\nRUN {run}\n"), &[&cdi[..], args].concat());
    let refused = |run: &str, args: &[&str], why: &str| {
        let out = build(run, args);
        assert!(out.code == 1 && out.stderr.contains(why) && out.stderr.contains("Dockerfile:2:"), "{why}: {out}");
    };
    let whole = format!("--device=vendor.com/dev=zero {LOOK}");
    refused(&whole, &[], "vendor.com/dev=zero is not allowed: give --allow device=vendor.com/dev=zero");
    refused(&whole, &["--allow", "device=free.com/dev=one"], "not allowed");
    refused(&whole, &["--allow", "security.insecure,network.host"], "not allowed");
    assert!(!yard.place.dir.join("hook-was-here").exists(), "nothing of it is done");
    let seen = " yes zero\n";
    for allow in ["device", "device=vendor.com/dev=zero", "device=vendor.com/dev", "device=fast"] {
        let out = build(&whole, &["--no-cache", "--allow", allow]).ok();
        for line in [seen, " 0 4242\n", " 3\n", " of the driver\n"] {
            assert!(out.stderr.contains(line), "{allow}: {line}: {out}");
        }
    }
    assert!(
        fs::read_to_string(yard.place.dir.join("hook-was-here")).unwrap().contains("\"status\""),
        "the state object"
    );
    // Nothing of the places where it was shown stays.
    assert_eq!(
        yard.prints("app", &["/bin/sh", "-c", "ls /usr/lib/vendor /dev/vendor-zero 2>&1; true"])
            .matches("No such")
            .count(),
        2
    );
    // By its kind, its class, or the name that the Dockerfile has for it; once although it is asked for twice.
    for (request, allow) in [
        ("--device=vendor.com/dev --device=fast", "device"),
        ("--device=fast", "device=fast"),
        ("--device=vendor.com/dev=*,required", "device"),
        ("--device=gpu,required", "device=vendor.com/dev=zero,alias=gpu"),
    ] {
        let out = build(&format!("{request} echo $COMMON $WHICH"), &["--no-cache", "--allow", allow]).ok();
        assert!(out.stderr.contains(seen), "{request}: {out}");
    }
    // Its specification says that nobody need allow it.
    assert!(build("--device=free.com/dev=one echo $FREE", &[]).ok().stderr.contains(" one\n"));
    // What is not there may be missing, unless it is required.
    let out = build("--device=absent.com/dev=x echo without", &["--allow", "device"]).ok();
    assert!(out.stderr.contains("device absent.com/dev=x: not in ") && out.stderr.contains(" without\n"), "{out}");
    refused("--device=absent.com/dev=x,required true", &["--allow", "device"], "absent.com/dev=x: not in ");
    refused("--device=,required true", &[], "no name");
    refused("--device=x,y true", &[], "unknown \"y\"");
    // With and without are two steps.
    let again = build(&whole, &["--allow", "device"]).ok();
    assert!(again.stderr.contains("CACHED"), "{again}");
    assert!(!build("--device=fast true", &["--allow", "device"]).ok().stderr.contains("CACHED"));
    assert!(!build("true", &["--allow", "device"]).ok().stderr.contains("CACHED"));
}

#[test]
fn a_specification_that_others_can_write_counts_for_nothing() {
    let yard = Yard::new();
    let cdi = described(&yard);
    fs::set_permissions(cdi.join("vendor.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    let args = ["--allow", "device", "--cdi-spec-dir", cdi.to_str().unwrap()];
    let out = yard.build("FROM base\nRUN --device=vendor.com/dev=zero,required true\n", &args);
    assert!(out.code == 1 && out.stderr.contains("vendor.yaml: may be written by others (mode 0666)"), "{out}");
    assert!(!yard.place.dir.join("hook-was-here").exists());
}

#[test]
fn a_bundle_has_a_device_by_name_beside_those_by_path() {
    let yard = Yard::new();
    let cdi = described(&yard);
    let args = ["bundle", "--quiet", "--cdi-spec-dir", cdi.to_str().unwrap(), "--device"];
    let bundle = |device: &str, more: &[&str]| {
        yard.place.ours("imgtool", &[&args[..], &[device], more, &["base", "--", "/bin/sh", "-c", LOOK]].concat())
    };
    let out = bundle("vendor.com/dev=zero", &["--device", "/dev/null:/dev/other"]).ok();
    let path = out.stdout.trim().to_owned();
    let config: Value =
        serde_json::from_str(&fs::read_to_string(PathBuf::from(&path).join("config.json")).unwrap()).unwrap();
    let devices = config["linux"]["devices"].as_array().unwrap();
    assert!(
        ["/dev/other", "/dev/vendor-zero"].iter().all(|path| devices.iter().any(|d| d["path"] == *path)),
        "{devices:?}"
    );
    let runtime = &integration::programs::Runtime::under_test().binary;
    let mut call = std::process::Command::new(runtime);
    call.arg("--root").arg(yard.place.dir.join("state")).args(["run", "--bundle", &path, &yard.place.id]);
    call.env("TARE_TEST", &yard.place.id).stdin(std::process::Stdio::null());
    let files = integration::command::Files::new(&yard.place.dir, "device");
    let out = integration::command::run(&mut call, &files).ok();
    assert_eq!(out.stdout, "yes zero\n0 4242\n3\nof the driver\n", "{out}");
    assert!(yard.place.dir.join("hook-was-here").exists());
    yard.place.ours("imgtool", &["unbundle", &path]).ok();
    let out = bundle("vendor.com/dev=two", &[]);
    assert!(out.code == 1 && out.stderr.contains("--device: device vendor.com/dev=two: not in "), "{out}");
    let left = fs::read_dir(yard.place.dir.join("store/bundles")).unwrap().count();
    assert_eq!(left, 0, "what is refused makes no bundle");
}
