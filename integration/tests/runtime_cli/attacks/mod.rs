//! Attacks on runtimes that worked on others once, by the number under which they were published. The configuration and
//! the root file system are hostile in all of them: nothing outside the container may change, and nothing of the host
//! may be seen.

mod binary;
mod entering;
mod places;
mod procfs;
mod records;
mod rights;

use std::fs;
use std::path::{Path, PathBuf};

use integration::case::Case;

/// A directory on the host that no container may reach, and what is in it.
fn outside(case: &Case) -> PathBuf {
    let dir = case.dir.join("outside");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("witness"), "untouched").unwrap();
    dir
}

#[track_caller]
fn untouched(outside: &Path) {
    let names: Vec<_> = fs::read_dir(outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["witness"], "something was made outside the container");
    assert_eq!(fs::read_to_string(outside.join("witness")).unwrap(), "untouched");
}

/// Runs the hostile container: that it is refused is as good as that it runs harmlessly.
#[track_caller]
fn harmless(case: &Case, outside: &Path) {
    let out = case.run();
    untouched(outside);
    if out.code != 0 && !out.peer {
        assert_eq!(out.stderr.lines().count(), 1, "{out}");
        case.nothing_left();
    }
}
