//! `sweep WORD`: finds what tests whose names begin with this word left on the machine, says so, and removes it. Ends
//! with status 1 if there was anything.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use integration::leak;

fn main() -> ExitCode {
    let Some(word) = std::env::args().nth(1).filter(|w| w.starts_with("tare-test-") && w.len() > 12) else {
        eprintln!("usage: sweep tare-test-RUN-");
        return ExitCode::from(2);
    };
    let mut left = leak::find(&word);
    leak::remove(&word);
    for parent in ["/tmp", "/run", "/run/containerd/tare", "/run/containerd/runc", "/var/lib", "/var/tmp"] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        for path in entries.map(|e| e.path()) {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(&word) {
                left.push(format!("directory {}", path.display()));
                // As long as anything is mounted below it may be the host's own: it stays.
                if leak::mounts(&name).is_empty() {
                    let _ = std::fs::remove_dir_all(&path);
                }
            }
        }
    }
    for line in &left {
        println!("{line}");
    }
    if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
