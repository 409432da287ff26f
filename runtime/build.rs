//! Tells the program which commit it is built from: engines show it (`docker info`). Tells the linker where it begins and
//! what it does without.

use std::{path::Path, process::Command};

fn main() {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = output.ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok());
    // A source tree without its history has none to tell.
    println!("cargo:rustc-env=TARE_COMMIT={}", commit.as_deref().map_or("unknown", str::trim));
    let history = "../.git/logs/HEAD";
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        // See libcontainer/src/sys/early.rs.
        println!("cargo:rustc-link-arg-bin=runtime=-Wl,--undefined=tare_entry,--entry=tare_entry");
        if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("no-unwinding.ld");
            println!("cargo:rustc-link-arg-bin=runtime=-Wl,--no-eh-frame-hdr,-T,{}", script.display());
            println!("cargo:rerun-if-changed={}", script.display());
        }
    }
    println!("cargo:rerun-if-changed={}", if Path::new(history).exists() { history } else { "build.rs" });
}
