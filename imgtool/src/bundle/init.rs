//! `--init`: a small program of the host's as PID 1 of the container, which passes signals on and reaps what others leave.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::volume::Bind;
use crate::error::{Error, Result, Step};

/// Where it is in the container. No image has it, and it goes with whatever is mounted on /run.
const PLACE: &str = "/run/podman-init";
/// All of them run the program behind `--`.
const NAMES: [&str; 5] = ["docker-init", "catatonit", "tini-static", "tini", "dumb-init"];
/// Where Docker and Podman keep theirs, besides PATH.
const DIRECTORIES: [&str; 5] = [
    "/usr/local/libexec/docker",
    "/usr/libexec/docker",
    "/usr/local/libexec/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
];
/// The headers of a program are at its beginning.
const HEADERS_MAX: u64 = 4096;

/// The program that `--init` means.
pub(crate) fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> =
        std::env::split_paths(&path).chain(DIRECTORIES.into_iter().map(PathBuf::from)).collect();
    find_in(&directories)
}

fn find_in(directories: &[PathBuf]) -> Result<PathBuf> {
    let mut unfit = None;
    for name in NAMES {
        for candidate in directories.iter().map(|directory| directory.join(name)).filter(|path| path.is_file()) {
            let Ok(program) = check(&candidate) else { continue };
            // Another one's loader and libraries need not be in the image.
            if is_static(&program)? {
                return Ok(program);
            }
            unfit.get_or_insert(candidate);
        }
    }
    let unfit = unfit.map(|it| format!(" ({} is not static: --init-path takes it)", it.display())).unwrap_or_default();
    Err(Error::missing(format!(
        "--init: no init program found{unfit}: install tini, catatonit or docker.io, or name one with --init-path"
    )))
}

/// The absolute path of the program at `path`, which the container is to run.
pub(crate) fn check(path: &Path) -> Result<PathBuf> {
    let step = || format!("--init: {}", path.display());
    let meta = fs::metadata(path).with(step)?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(Error::malformed("not a program")).with(step);
    }
    std::path::absolute(path).with(step)
}

fn is_static(program: &Path) -> Result<bool> {
    let mut head = Vec::new();
    File::open(program)
        .and_then(|file| file.take(HEADERS_MAX).read_to_end(&mut head))
        .with(|| format!("--init: read {}", program.display()))?;
    Ok(loads_alone(&head) == Some(true))
}

/// Whether no header of an ELF program of this machine asks for an interpreter.
fn loads_alone(head: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3; // PT_INTERP
    let number = |at: usize, size: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(head.get(at..at.checked_add(size)?)?);
        if cfg!(target_endian = "big") {
            bytes[..size].reverse();
        }
        Some(u64::from_le_bytes(bytes))
    };
    if head.get(..4)? != b"\x7fELF" {
        return None;
    }
    let wide = *head.get(4)? == 2;
    let (table, size, count) = if wide { (number(32, 8)?, 54, 56) } else { (number(28, 4)?, 42, 44) };
    let (table, size) = (usize::try_from(table).ok()?, usize::try_from(number(size, 2)?).ok()?);
    for header in 0..usize::try_from(number(count, 2)?).ok()? {
        if number(table.checked_add(header.checked_mul(size)?)?, 4)? == u64::from(INTERPRETER) {
            return Some(false);
        }
    }
    Some(true)
}

/// The mount that brings it into the container.
pub(super) fn bind(program: &Path) -> Bind {
    let options = ["bind", "ro", "nosuid", "nodev", "rprivate"].map(str::to_owned).into();
    Bind { source: program.to_owned(), target: PLACE.to_owned(), options, ids: None }
}

/// Whether config.json has it: then its mount point is nothing that the container made.
pub(super) fn is_in(spec: &Value) -> bool {
    spec["mounts"].as_array().into_iter().flatten().any(|mount| mount["destination"] == PLACE)
}

/// The mount point beneath the root directory.
pub(super) fn place() -> &'static str {
    PLACE.trim_start_matches('/')
}

/// The arguments of the container's process with it in front.
pub(super) fn before(args: Vec<String>) -> Vec<String> {
    [PLACE, "--"].map(str::to_owned).into_iter().chain(args).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path, kinds: &[u32]) {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32..40].copy_from_slice(&64u64.to_ne_bytes());
        elf[54..56].copy_from_slice(&56u16.to_ne_bytes());
        elf[56..58].copy_from_slice(&(kinds.len() as u16).to_ne_bytes());
        for kind in kinds {
            elf.extend(kind.to_ne_bytes());
            elf.extend([0; 52]);
        }
        fs::write(path, elf).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_first_that_needs_nothing_of_the_image_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let places = [dir.path().join("a"), dir.path().join("b")];
        for place in &places {
            fs::create_dir(place).unwrap();
        }
        let none = find_in(&places).unwrap_err().to_string();
        assert!(none.contains("install tini, catatonit or docker.io"), "{none}");
        program(&places[0].join("tini"), &[1, 3]);
        fs::write(places[0].join("docker-init"), "#!/bin/sh").unwrap();
        fs::set_permissions(places[0].join("docker-init"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(places[0].join("catatonit")).unwrap();
        let unfit = find_in(&places).unwrap_err().to_string();
        assert!(unfit.contains("is not static: --init-path takes it"), "{unfit}");
        program(&places[1].join("tini"), &[1, 2]);
        assert_eq!(find_in(&places).unwrap(), places[1].join("tini"));
        std::os::unix::fs::symlink("tini", places[1].join("docker-init")).unwrap();
        assert_eq!(find_in(&places).unwrap(), places[1].join("docker-init"));
        check(&places[0].join("tini")).unwrap();
        for bad in ["a/catatonit", "a/absent", "a"] {
            assert!(check(&dir.path().join(bad)).is_err(), "{bad}");
        }
        fs::set_permissions(places[0].join("tini"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(check(&places[0].join("tini")).unwrap_err().to_string().contains("not a program"));
    }

    #[test]
    fn headers_that_are_cut_short_say_nothing() {
        for head in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &[0x7f; 64], b"\x7fELF\x02\x01\x01"] {
            assert_eq!(loads_alone(head), None);
        }
        let mut far = b"\x7fELF\x02\x01".to_vec();
        far.resize(64, 0xff);
        assert_eq!(loads_alone(&far), None, "a table beyond all");
        let own = fs::read("/proc/self/exe").unwrap();
        assert!(loads_alone(&own[..4096]).is_some());
    }
}
