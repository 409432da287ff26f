//! Where the programs under test are, and which runtime is meant.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Whose runtime it is. Tests are written for all; where a peer is known to differ they say so with `not_on!`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Tare,
    /// runc.
    Runc,
    /// crun.
    Crun,
}

/// A runtime binary.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The executable.
    pub binary: PathBuf,
    /// Whose it is.
    pub kind: Kind,
    /// First line of `--version`, for messages.
    pub name: String,
}

impl Runtime {
    /// The runtime at this path; asks it for its version to learn whose it is.
    pub fn at(binary: &Path) -> Self {
        let out = Command::new(binary).arg("--version").output();
        let out = out.unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let name = text.lines().next().unwrap_or_default().to_owned();
        let kind = match name.split(' ').next() {
            Some("runc") => Kind::Runc,
            Some("crun") => Kind::Crun,
            _ => Kind::Tare,
        };
        Self { binary: binary.to_owned(), kind, name }
    }

    /// Whether this is the peer that is meant: `--version` begins with these words.
    pub fn is(&self, peer: &str) -> bool {
        self.kind != Kind::Tare && self.name.starts_with(peer)
    }

    /// The one that the tests are to test.
    pub fn under_test() -> &'static Self {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        RUNTIME.get_or_init(|| match std::env::var_os("TARE_TEST_RUNTIME") {
            Some(path) => Self::at(&on_path(&PathBuf::from(path))),
            None => Self::at(&ours("runtime")),
        })
    }
}

/// One of our programs. It must have been built.
pub fn ours(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} does not exist: build it with `cargo build --release`", path.display());
    path
}

/// Directory with `runtime`, `shim` and `imgtool`.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("TARE_TEST_BIN") {
        return dir.into();
    }
    let debug = build_dir();
    let release = debug.with_file_name("release");
    if release.join("runtime").exists() { release } else { debug }
}

/// The static program that goes into containers.
pub fn probe() -> PathBuf {
    beside_tests("probe")
}

/// The program that kills others between two of their steps.
pub fn stalk() -> PathBuf {
    beside_tests("stalk")
}

fn beside_tests(name: &str) -> PathBuf {
    let path = build_dir().join(name);
    assert!(path.exists(), "{} does not exist: build it with `cargo build -p integration`", path.display());
    path
}

/// target/TRIPLE/PROFILE, where this very test lives (`deps/` below it for tests).
fn build_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let dir = exe.parent().expect("a directory");
    if dir.ends_with("deps") { dir.parent().expect("a directory").to_owned() } else { dir.to_owned() }
}

/// Directory that keeps downloads from run to run.
pub fn cache() -> PathBuf {
    let dir = std::env::var_os("TARE_CACHE").map_or_else(|| PathBuf::from("/var/cache/tare"), PathBuf::from);
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    dir
}

/// The program of this name on PATH; a path with a slash stays as it is.
pub fn on_path(name: &Path) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("{} is not on PATH: run hack/setup", name.display()))
}

/// The same, if there is one.
pub fn find(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return Some(name.to_owned());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// Prints and records a skip. The thread of a libtest test bears its name.
pub fn note_skip(module: &str, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or(module).to_owned();
    println!("skipped {test}: {reason}");
    if let Some(file) = std::env::var_os("TARE_TEST_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        // In one write: tests skip at the same time.
        let line = format!("{test}\t{reason}\n");
        file.expect("the file of skips").write_all(line.as_bytes()).expect("write the file of skips");
    }
}
