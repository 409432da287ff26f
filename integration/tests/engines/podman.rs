//! Podman 4.3 with the runtime under test, and its own conmon between them.

use std::process::Command;

use integration::command::{self, Files, Out};
use integration::place::Place;
use integration::programs::Runtime;
use integration::skip;

/// `podman` with everything below the test's directory.
struct Podman<'a>(&'a Place, std::cell::Cell<u32>);

impl Podman<'_> {
    #[track_caller]
    fn podman(&self, args: &[&str]) -> Out {
        let at = |name: &str| self.0.dir.join("podman").join(name);
        self.1.set(self.1.get() + 1);
        let mut command = Command::new("podman");
        command.arg("--root").arg(at("data")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "overlay"]);
        command.arg("--runtime").arg(&Runtime::under_test().binary).args(args);
        command.env("TARE_TEST", &self.0.id).stdin(std::process::Stdio::null());
        command::run(&mut command, &Files::new(&self.0.dir, &format!("podman{}", self.1.get())))
    }

    /// `run` without what a test machine may not give: a network, and limits above its own.
    #[track_caller]
    fn run(&self, args: &[&str]) -> Out {
        let parent = format!("--cgroup-parent=/{}", self.0.id);
        let mut all =
            vec!["run", &parent, "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        all.extend(args);
        self.podman(&all)
    }
}

#[test]
fn a_container_lives_under_podman() {
    let place = Place::new();
    if integration::programs::find("podman".as_ref()).is_none() {
        skip!("podman is not installed");
    }
    place.small_image();
    let archive = place.dir.join("small.tar");
    place.ours("imgtool", &["save", "--quiet", "-o", archive.to_str().unwrap(), "small:1"]).ok();
    let podman = Podman(&place, std::cell::Cell::new(0));
    podman.podman(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();

    assert_eq!(podman.run(&["--rm", "small:1", "/probe", "say", "hello"]).ok().stdout, "hello\n");
    podman.run(&["--rm", "small:1", "/probe", "exit", "42"]).is(42);
    let out = podman.run(&["--rm", "small:1", "/no/such/program"]);
    assert!(out.code == 127 && out.stderr.contains("/no/such/program"), "{out}");
    let report = podman.run(&[
        "--rm",
        "-m",
        "64m",
        "--read-only",
        "--hostname",
        "named",
        "-u",
        "web",
        "small:1",
        "/probe",
        "report",
    ]);
    let report = report.ok().report();
    assert_eq!((report.hostname.as_str(), report.uid[0], report.seccomp), ("named", 33, 2));
    assert!(report.mount("/").unwrap().has("ro"));

    podman.run(&["-d", "--name", "web", "small:1"]).ok();
    assert_eq!(podman.podman(&["exec", "web", "/probe", "say", "inside"]).ok().stdout, "inside\n");
    podman.podman(&["exec", "web", "/probe", "exit", "9"]).is(9);
    podman.podman(&["pause", "web"]).ok();
    podman.podman(&["unpause", "web"]).ok();
    podman.podman(&["stop", "-t", "5", "web"]).ok();
    let state = podman.podman(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"]).ok().stdout;
    assert_eq!(state, "exited 0\n");
    assert_eq!(podman.podman(&["logs", "web"]).ok().stdout, "ready\nSIGTERM\n");
    podman.podman(&["rm", "web"]).ok();
    podman.podman(&["rmi", "-a", "-f"]).ok();
    // The parent that was asked for by name is ours to remove, with what Podman put beside the containers.
    integration::leak::remove(&place.id);
}
