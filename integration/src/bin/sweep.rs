//! `sweep WORD`: finds what tests whose names begin with this word left on the machine, says so, and removes it. Ends
//! with status 1 if there was anything. A process that is just ending is none: a daemon that was told to end goes on for a
//! moment, and what a killed shim ran is cleaned up by who finds it.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use integration::{leak, wait};

fn main() -> ExitCode {
    let Some(word) = std::env::args().nth(1).filter(|w| w.starts_with("tare-test-") && w.len() > 12) else {
        eprintln!("usage: sweep tare-test-RUN-");
        return ExitCode::from(2);
    };
    wait::until(Duration::from_millis(100), Duration::from_secs(5), || find(&word).is_empty().then_some(()));
    let left = find(&word);
    leak::remove(&word);
    for path in directories(&word) {
        // As long as anything is mounted below it may be the host's own: it stays.
        if leak::mounts(&name_of(&path)).is_empty() {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
    for line in &left {
        println!("{line}");
    }
    if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn find(word: &str) -> Vec<String> {
    let mut left = leak::find(word);
    left.extend(directories(word).map(|path| format!("directory {}", path.display())));
    left
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn directories(word: &str) -> impl Iterator<Item = PathBuf> {
    const PARENTS: [&str; 6] = ["/tmp", "/run", "/run/containerd/tare", "/run/containerd/runc", "/var/lib", "/var/tmp"];
    let entries = PARENTS.into_iter().flat_map(|parent| std::fs::read_dir(parent).into_iter().flatten().flatten());
    entries.map(|entry| entry.path()).filter(move |path| name_of(path).starts_with(word))
}
