//! All that can be said of a tree of files, for comparison.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Type and mode, owner, time of change in nanoseconds, device, target or content, extended attributes, and for files with several
/// names the first of them, by path below `root`. Sockets and what other file systems have there are left out.
///
/// # Panics
/// When something cannot be read.
pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut first_names: HashMap<(u64, u64), String> = HashMap::new();
    let device = fs::symlink_metadata(root).expect("the root").dev();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        if meta.is_dir() && meta.dev() == device {
            let mut inside: Vec<PathBuf> =
                fs::read_dir(&path).expect("a directory").map(|e| e.expect("an entry").path()).collect();
            // The last is taken first: names are met in order, so that the first of several is the same in every tree.
            inside.sort_by(|a, b| b.cmp(a));
            pending.extend(inside);
        }
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path).expect("a target").display())
        } else if meta.is_file() {
            let content = fs::read(&path).expect("its content");
            format!("{} bytes {:016x}", content.len(), fnv(&content))
        } else {
            String::new()
        };
        // The number of names that the kernel knows counts those in layers that are covered.
        let first = if meta.is_dir() {
            name.clone()
        } else {
            first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone()).clone()
        };
        let link = if first == name { String::new() } else { format!(" as {first}") };
        let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        let line = format!(
            "{:o} {}:{} {time} {:x} {what}{link}{}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            attributes(&path)
        );
        all.insert(name, line);
    }
    all
}

/// FNV-1a: enough to tell files apart that nobody made to look alike.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else { return String::new() };
    let mut all: Vec<String> = names[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay.") && *name != b"security.selinux")
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]).unwrap_or(0);
            format!(" {}={:?}", String::from_utf8_lossy(name), &value[..len])
        })
        .collect();
    all.sort();
    all.concat()
}

/// Requires that two trees are the same, but for the paths that `except` names.
///
/// # Panics
/// Names the first differences.
#[track_caller]
pub fn same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>, except: &[&str], what: &str) {
    let mut differences = Vec::new();
    for path in one.keys().chain(other.keys().filter(|path| !one.contains_key(*path))) {
        if except.contains(&path.as_str()) || one.get(path) == other.get(path) {
            continue;
        }
        differences.push(format!("{path}\n    {:?}\n    {:?}", one.get(path), other.get(path)));
    }
    assert!(
        differences.is_empty(),
        "{what}: {} of {} paths differ:\n  {}",
        differences.len(),
        one.len(),
        differences[..differences.len().min(12)].join("\n  ")
    );
}
