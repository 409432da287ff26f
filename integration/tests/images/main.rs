//! imgtool, from tar or registry to a bundle that a runtime runs.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod access;
mod attacked;
mod badinput;
mod bundle;
mod exchange;
mod init;
mod interop;
mod interrupted;
mod lists;
mod namespaces;
mod network;
mod push;
mod registry;
mod rootless;
mod signed;
mod store;

use std::path::Path;
use std::process::Command;

use integration::command::{self, Files, Out};
use integration::place::Place;
use integration::programs::Runtime;

/// Runs a bundle in the foreground with the runtime under test.
#[track_caller]
pub(crate) fn run(place: &Place, bundle: &str) -> Out {
    let mut command = Command::new(&Runtime::under_test().binary);
    command.arg("--root").arg(place.dir.join("state")).args(["run", "--bundle", bundle]).arg(&place.id);
    command.env("TARE_TEST", &place.id).stdin(std::process::Stdio::null());
    command::run(&mut command, &Files::new(&place.dir, "run"))
}

/// `imgtool bundle` with these arguments; the bundle's path.
#[track_caller]
pub(crate) fn bundle(place: &Place, args: &[&str]) -> String {
    let mut all = vec!["bundle", "--quiet"];
    all.extend(args);
    let out = place.ours("imgtool", &all).ok();
    assert_eq!(out.stdout.lines().count(), 1, "bundle prints one path: {out}");
    out.stdout.trim().to_owned()
}

/// Requires a refusal in one line that names this, that no image, layer or mount is left of it, and that the store is sound.
#[track_caller]
pub(crate) fn refused(place: &Place, args: &[&str], word: &str) {
    let out = place.ours("imgtool", args);
    assert_eq!(out.code, 1, "{out}");
    assert_eq!(out.stderr.lines().count(), 1, "{out}");
    assert!(out.stderr.contains(word), "'{word}' is not named: {out}");
    assert_eq!(place.ours("imgtool", &["images", "-q"]).ok().stdout, "", "no image is left");
    assert!(integration::leak::mounts(&place.id).is_empty());
    place.ours("imgtool", &["fsck"]).ok();
    for dir in ["layers/sha256", "bundles", "tmp"] {
        let dir = place.dir.join("store").join(dir);
        let left: Vec<_> = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "left in the store: {left:?}");
    }
}

/// A tar of this directory.
#[track_caller]
pub(crate) fn tar(directory: &Path, target: &Path) {
    command::tool("tar", &["-C", directory.to_str().unwrap(), "-cf", target.to_str().unwrap(), "."]).ok();
}
