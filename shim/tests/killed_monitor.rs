//! What is left when the monitor is killed while it has the runtime make a container. A script plays a runtime whose
//! `create` kills the monitor and goes on, as a real one does: only the order of events matters.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// `$state` is where the runtime keeps its containers. `create` is still at work long after the monitor's death.
const RUNTIME: &str = r#"#!/bin/sh
state=STATE
while [ $# -gt 0 ]; do
    case $1 in
    --root|--log|--log-format) shift 2 ;;
    *) break ;;
    esac
done
verb=$1
for id; do :; done
case $verb in
create)
    kill -9 $PPID
    sleep 0.3
    mkdir "$state/$id" || exit 1
    printf %s "$3" >"$state/$id/bundle"
    ;;
state)
    [ -d "$state/$id" ] || exit 1
    echo "{\"id\": \"$id\", \"bundle\": \"$(cat "$state/$id/bundle")\"}"
    ;;
delete)
    [ ! -e "$state/stuck" ] || { echo "device busy" >&2; exit 1; }
    rm -rf "$state/$id"
    ;;
esac
"#;

struct Scene {
    dir: TempDir,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("state")).unwrap();
        fs::create_dir_all(at("bundle/rootfs")).unwrap();
        let config = r#"{"ociVersion": "1.0.2", "process": {"args": ["sh"], "cwd": "/"}, "root": {"path": "rootfs"}}"#;
        fs::write(at("bundle/config.json"), config).unwrap();
        fs::write(at("runtime"), RUNTIME.replace("STATE", at("state").to_str().unwrap())).unwrap();
        fs::set_permissions(at("runtime"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shim(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shim"));
        command.arg("--root").arg(self.at("containers")).arg("--run-root").arg(self.at("run"));
        command.arg("--runtime").arg(self.at("runtime"));
        command.args(arguments).output().unwrap()
    }

    fn run(&self) -> Output {
        self.shim(&["run", "-d", "--name", "m", self.at("bundle").to_str().unwrap()])
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn the_runtime_is_awaited_and_made_to_forget() {
    let scene = Scene::set();
    let run = scene.run();
    assert_eq!(run.status.code(), Some(125), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("monitor was killed"), "{run:?}");
    assert!(is_empty(&scene.at("state")), "the runtime still has the container");
    assert!(is_empty(&scene.at("containers")));
}

#[test]
fn what_cannot_be_deleted_stays_in_sight() {
    let scene = Scene::set();
    fs::write(scene.at("state/stuck"), "").unwrap();
    let run = scene.run();
    assert_eq!(run.status.code(), Some(125), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("device busy"), "{run:?}");
    assert!(scene.at("state/m").exists());
    let ps = scene.shim(&["ps", "-a"]);
    assert!(String::from_utf8_lossy(&ps.stdout).contains("Dead (monitor lost)"), "{ps:?}");
    fs::remove_file(scene.at("state/stuck")).unwrap();
    let start = scene.shim(&["start", "m"]);
    assert_eq!(start.status.code(), Some(1), "{start:?}");
    assert!(is_empty(&scene.at("state")), "start clears up too");
    assert!(scene.at("containers/m").exists(), "but keeps the container");
    let rm = scene.shim(&["rm", "-f", "m"]);
    assert!(rm.status.success(), "{rm:?}");
    assert!(is_empty(&scene.at("containers")));
}

#[test]
fn somebody_elses_container_of_the_same_name_is_left_alone() {
    let scene = Scene::set();
    fs::create_dir(scene.at("state/m")).unwrap();
    fs::write(scene.at("state/m/bundle"), "/somebody/elses").unwrap();
    let run = scene.run();
    assert_eq!(run.status.code(), Some(125), "{run:?}");
    assert!(scene.at("state/m").exists());
    assert!(is_empty(&scene.at("containers")));
}
