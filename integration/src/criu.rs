//! The criu that tests use: where `TARE_TEST_CRIU` says, for the system's may be too old for the kernel, or on the PATH.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// PATH for whoever is to find it.
pub fn path() -> OsString {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::var_os("TARE_TEST_CRIU").map(PathBuf::from).into_iter().chain(std::env::split_paths(&usual));
    std::env::join_paths(dirs).expect("a PATH")
}

fn version() -> Option<(u32, u32)> {
    let criu = std::env::split_paths(&path()).map(|dir| dir.join("criu")).find(|it| it.is_file())?;
    let said = Command::new(criu).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut numbers = said.lines().next()?.strip_prefix("Version: ")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Why nothing can be checkpointed here, if nothing can.
pub fn lacks() -> Option<String> {
    match version() {
        None => Some("there is no criu".to_owned()),
        // That of Debian 12 cannot read this kernel's vdso.
        Some((major, minor)) if major < 4 => Some(format!("criu {major}.{minor} is too old for today's kernels")),
        Some(_) => None,
    }
}
