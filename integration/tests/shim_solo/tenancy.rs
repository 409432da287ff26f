//! A bundle that is written to, or that has hooks, serves one container at a time.

use std::fs;

use integration::command::{self, LIMIT, Out};
use integration::programs::{Runtime, find};
use integration::{leak, skip, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::Solo;

/// A second container on the bundle of another one. It goes when it is dropped.
struct Second<'a> {
    solo: &'a Solo,
    name: String,
}

impl<'a> Second<'a> {
    fn beside(solo: &'a Solo) -> Self {
        Self { solo, name: format!("{}-b", solo.name()) }
    }

    #[track_caller]
    fn run(&self) -> Out {
        let bundle = self.solo.case.bundle();
        self.solo.shim(&["run", "-d", "--name", &self.name, bundle.to_str().unwrap()])
    }

    /// Requires that it is refused in one line that names the bundle and who uses it, and that nothing is left of it.
    #[track_caller]
    fn is_refused(&self) {
        let out = self.run().is(125);
        let bundle = self.solo.case.bundle();
        assert_eq!(out.stderr.lines().count(), 1, "{out}");
        let user = format!("in use by container {}:", self.solo.name());
        assert!(out.stderr.contains(bundle.to_str().unwrap()) && out.stderr.contains(&user), "{out}");
        let listed = self.solo.shim(&["ps", "-a", "-q"]).ok().stdout;
        assert_eq!(listed, format!("{}\n", self.solo.name()));
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        command::quietly(&mut self.solo.command(&["rm", "-f", &self.name]));
    }
}

fn writable() -> Solo {
    let mut solo = Solo::new();
    solo.case.spec["root"]["readonly"] = false.into();
    // Each has its cgroup by its own name then.
    solo.case.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    solo
}

fn one_at_a_time(solo: &Solo) {
    let second = Second::beside(solo);
    solo.hold();
    second.is_refused();
    solo.shim(&["stop", solo.name()]).ok();
    // One that has ended does not use it; started again, it does, and finds it taken if it is.
    second.run().ok();
    let out = solo.shim(&["start", solo.name()]).is(1);
    assert!(out.stderr.contains(&format!("in use by container {}:", second.name)), "{out}");
    solo.shim(&["rm", "-f", &second.name]).ok();
    solo.shim(&["start", solo.name()]).ok();
    second.is_refused();
    solo.shim(&["restart", solo.name()]).ok();
    second.is_refused();
    solo.shim(&["rm", "-f", solo.name()]).ok();
    second.run().ok();
}

#[test]
fn a_bundle_that_is_written_to_serves_one_container_at_a_time() {
    one_at_a_time(&writable());
}

#[test]
fn the_same_over_runc() {
    let Some(runc) = find("runc".as_ref()) else { skip!("runc is not installed") };
    let mut solo = writable();
    solo.case.runtime = Runtime::at(&runc);
    one_at_a_time(&solo);
}

#[test]
fn a_bundle_with_hooks_serves_one_container_at_a_time() {
    let mut solo = Solo::new();
    solo.case.spec["root"]["readonly"] = true.into();
    solo.case.spec["hooks"]["poststop"] = json!([{"path": "/bin/true"}]);
    let second = Second::beside(&solo);
    solo.hold();
    second.is_refused();
}

#[test]
fn a_bundle_that_is_only_read_serves_several() {
    let mut solo = Solo::new();
    solo.case.spec["root"]["readonly"] = true.into();
    // Each has its cgroup by its own name then.
    solo.case.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    let second = Second::beside(&solo);
    solo.hold();
    second.run().ok();
    let listed = solo.shim(&["ps", "-q"]).ok().stdout;
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

#[test]
fn a_container_whose_monitor_was_killed_still_uses_its_bundle() {
    let solo = writable();
    let second = Second::beside(&solo);
    solo.hold();
    let monitor = solo.monitor();
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    assert!(wait::exited(monitor, LIMIT));
    leak::reap(monitor);
    second.is_refused();
    solo.shim(&["rm", "-f", solo.name()]).ok();
    second.run().ok();
}

#[test]
fn containers_of_others_are_noticed_too() {
    let solo = writable();
    solo.hold();
    let bundle = solo.case.bundle();
    let other = solo.case.dir.join("other");
    let words = ["run", "-d", "--name", "other", "--root", other.to_str().unwrap(), bundle.to_str().unwrap()];
    let mut command = std::process::Command::new(integration::programs::ours("shim"));
    command.arg("--runtime").arg(&solo.case.runtime.binary).arg("--runtime-root").arg(solo.case.state_dir());
    command.arg("--run-root").arg(solo.case.dir.join("other-run")).args(words).env("TARE_TEST", solo.name());
    let out = command::run(command.stdin(solo.case.stdin()), &solo.case.files()).is(125);
    assert!(out.stderr.contains("in use by another container") && out.stderr.lines().count() == 1, "{out}");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0, "nothing is left");
}
