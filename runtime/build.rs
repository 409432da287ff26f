//! Tells the program which commit it is built from: engines show it (`docker info`).

use std::{path::Path, process::Command};

fn main() {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = output.ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok());
    // A source tree without its history has none to tell.
    println!("cargo:rustc-env=TARE_COMMIT={}", commit.as_deref().map_or("unknown", str::trim));
    let history = "../.git/logs/HEAD";
    println!("cargo:rerun-if-changed={}", if Path::new(history).exists() { history } else { "build.rs" });
}
