//! Bad Dockerfiles are refused with their place, and what is probably not meant is told.

use integration::{programs, skip};

use crate::Yard;

#[test]
fn an_error_points_at_the_line_and_names_what_was_expected() {
    let yard = Yard::new();
    for (dockerfile, place, why) in [
        ("FROM base\nRNU ls\n", "2:1", "did you mean RUN"),
        ("FROM base\nCOPY --form=x a b\n", "2:6", "did you mean from"),
        ("FROM base\nCOPY missing /x\n", "2:6", "must be in the context"),
        ("FROM base\nADD a\n", "2:5", "two arguments"),
        ("FROM base\nUSER nobody-here\nRUN true\n", "3:1", "no such user"),
        ("FROM base\nCOPY --chown=no:one Dockerfile /x\n", "2:1", "no such user"),
        ("FROM base\nENV A=${B:?must-be-given}\n", "2:5", "must-be-given"),
        ("FROM base\nEXPOSE 99999\n", "2:8", "1 to 65535"),
        ("FROM base\nSTOPSIGNAL SIGNOPE\n", "2:12", "no such signal"),
        ("FROM base\nCOPY . . /x\n", "2:1", "end with a /"),
        ("FROM base\nRUN --mount=type=cache ls\n", "2:5", "target"),
        ("FROM base\nRUN [\"/no/such/program\"]\n", "2:1", "did not complete"),
        ("FROM base AS a\nFROM base\nCOPY --from=b /x /y\nFROM a AS b\n", "3:6", "defined before"),
        ("FROM no-such-image\n", "1:6", "no such image"),
        ("FROM base\nRUN exit 42\n", "2:1", "exit code: 42"),
    ] {
        let out = yard.build(dockerfile, &["--pull=never"]);
        assert_eq!(out.code, 1, "{out}");
        let last = out.stderr.lines().last().unwrap();
        assert!(
            last.starts_with(&format!("imgtool: build: Dockerfile:{place}: "))
                || last.contains(&format!("Dockerfile:{place}:")),
            "{place}: {out}"
        );
        assert!(last.contains(why), "{why}: {out}");
        assert!(
            out.stderr.contains(">>> ") && out.stderr.contains("     ^") || out.stderr.contains(" |     ^"),
            "no excerpt: {out}"
        );
        assert_eq!(yard.place.ours("imgtool", &["images", "-q", "app"]).ok().stdout, "", "no image: {dockerfile}");
    }
}

#[test]
fn files_that_are_missing_are_named() {
    let yard = Yard::new();
    let context = yard.context.to_str().unwrap();
    let refused = |args: &[&str], why: &str| {
        let out = yard.place.ours("imgtool", &[&["build"], args].concat());
        assert!(out.code != 0 && out.stderr.contains(why), "{why}: {out}");
        assert!(out.code == 2 || out.stderr.lines().count() == 1, "{out}");
    };
    refused(&[context], "no Dockerfile");
    refused(&["-f", "no-such-file", context], "no-such-file");
    refused(&["/no/such/context"], "/no/such/context");
    yard.file("Dockerfile", "FROM base\n");
    refused(&["--target", "nope", context], "nope");
    refused(&["--secret", "id=a,src=/no/such", context], "/no/such");
    refused(&["-o", "type=nope", context], "unknown type");
    refused(&["--build-arg", "=x", context], "NAME=VALUE");
    yard.file("Dockerfile", "FROM base\nRUN true\n");
    let out = yard.place.ours("imgtool", &["build", "-q", "--runtime", "/no/such/runtime", context]);
    assert!(out.code == 1 && out.stderr.contains("/no/such/runtime"), "{out}");
}

#[test]
fn without_a_tunnel_device_pastas_error_says_what_can_be_done() {
    if programs::find(std::path::Path::new("pasta")).is_none() {
        skip!("pasta is not installed");
    }
    let yard = Yard::new();
    yard.file("Dockerfile", "FROM base\nRUN true\n");
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", "{ [ ! -d /dev/net ] || mount -t tmpfs none /dev/net; } && exec \"$@\"", "sh"]);
    command.arg(programs::ours("imgtool")).arg("--root").arg(yard.place.dir.join("store"));
    command.args(["build", "-q", "--runtime"]).arg(&programs::Runtime::under_test().binary).arg(&yard.context);
    // No plugins: pasta is what there is.
    command.env("TARE_TEST", &yard.place.id).env("CNI_PATH", "/nowhere").stdin(std::process::Stdio::null());
    let out = integration::command::run(&mut command, &integration::command::Files::new(&yard.place.dir, "tunnel"));
    let last = out.stderr.lines().last().unwrap_or_default();
    assert!(out.code == 1 && last.contains("/dev/net/tun: ") && last.contains("--network none"), "{out}");
}

#[test]
fn a_quiet_build_that_fails_shows_the_last_of_its_steps_output() {
    let yard = Yard::new();
    yard.file(
        "Dockerfile",
        "FROM base\nRUN echo fine\nRUN for n in $(busybox seq 30); do echo line $n; done; exit 3\n",
    );
    let runtime = integration::programs::Runtime::under_test().binary.to_str().unwrap();
    let args = ["build", "-q", "--network", "none", "--runtime", runtime, yard.context.to_str().unwrap()];
    let out = yard.place.ours("imgtool", &args);
    assert!(out.code == 1 && out.stderr.contains("line 30\n") && out.stderr.contains("Dockerfile:3:1"), "{out}");
    assert!(out.stderr.lines().all(|line| line != "fine" && line != "line 10"), "{out}");
}

#[test]
fn checks_are_told_and_fail_only_if_asked() {
    let yard = Yard::new();
    let dockerfile = "FROM base as Build\nMAINTAINER me\nCMD echo x\n";
    let out = yard.build(dockerfile, &[]).ok();
    assert!(out.stderr.contains("WARNING: StageNameCasing") && out.stderr.contains("Dockerfile:1:14"), "{out}");
    let out = yard.build(dockerfile, &["--check"]);
    assert!(out.code == 1 && out.stdout.contains("Check complete, 4 warnings have been found!"), "{out}");
    assert!(
        out.stdout.contains(
            "WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
        ),
        "{out}"
    );
    let out = yard.build(&format!("# check=error=true\n{dockerfile}"), &[]);
    assert!(out.code == 1 && out.stderr.contains("check=error=true"), "{out}");
    let out = yard.build(&format!("# check=skip=all\n{dockerfile}"), &["--check"]).ok();
    assert_eq!(out.stdout, "Check complete, no warnings found.\n");
    let out = yard.build("FROM base\nARG A\n", &["--build-arg", "B=1"]).ok();
    assert!(out.stderr.contains("[B] were not consumed"), "{out}");
}
