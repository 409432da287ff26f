//! Real images: Debian as debootstrap makes it with layers of packages on top, and a small one of busybox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command::{self, Files};
use crate::programs;

/// The directory of the OCI layout of Debian's minbase and python3 as a second layer. Made once, which takes a minute or
/// two and a Debian mirror, and kept in the cache. The second layer is what `apt-get install` changed, made by buildah.
///
/// # Errors
/// Says why it cannot be had: no mirror can be reached.
pub fn debian() -> Result<PathBuf, String> {
    made("debian", include_str!("debian.sh"), "layout/index.json").map(|dir| dir.join("layout"))
}

/// The layout of the image `big` in one compression (gzip or zstd): seven layers, some 600 MB unpacked, with all that is hard
/// for an unpacker. Made once, in some minutes, and kept in the cache.
///
/// # Errors
/// Says why it cannot be had: no mirror can be reached.
pub fn big(compression: &str) -> Result<PathBuf, String> {
    made("big", include_str!("big.sh"), "zstd/index.json").map(|dir| dir.join(compression))
}

/// The tar of a Debian with python3-flask, made and kept in the same way.
///
/// # Errors
/// Says why it cannot be had: no mirror can be reached.
pub fn flask() -> Result<PathBuf, String> {
    made("flask", include_str!("flask.sh"), "root.tar").map(|dir| dir.join("root.tar"))
}

/// The directory `name` of the cache, made by a script that is given a directory, if `proof` is not in it yet.
fn made(name: &str, script: &str, proof: &str) -> Result<PathBuf, String> {
    let cache = programs::cache();
    let ready = cache.join(name);
    // One test makes it, others that come meanwhile wait.
    let lock =
        fs::File::create(cache.join(format!("{name}.lock"))).map_err(|e| format!("lock the image cache: {e}"))?;
    lock.lock().map_err(|e| format!("lock the image cache: {e}"))?;
    if ready.join(proof).exists() {
        return Ok(ready);
    }
    let work = tempfile::Builder::new().prefix(&format!("{name}.")).tempdir_in(&cache).map_err(|e| e.to_string())?;
    let mut sh = Command::new("sh");
    sh.args(["-eu", "-c", script, "sh"]).arg(work.path()).stdin(Stdio::null());
    let files = Files::new(work.path(), "make");
    files.attach(&mut sh);
    let status = sh.status().map_err(|e| e.to_string())?;
    if !status.success() {
        let said = fs::read_to_string(&files.stderr).unwrap_or_default();
        let last = said.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" / ");
        return Err(format!("the image {name} could not be made (is a mirror reachable?): {last}"));
    }
    let _ = fs::remove_dir_all(&ready);
    fs::rename(work.keep(), &ready).map_err(|e| e.to_string())?;
    Ok(ready)
}

/// A tar of a root file system with busybox and the probe, for small images.
pub fn busybox_tar(dir: &Path) -> PathBuf {
    let root = dir.join("small");
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/tmp:/bin/sh\n").expect("passwd");
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\nextra:x:44:web\n").expect("group");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox: run hack/setup");
    for applet in [
        "sh", "cat", "echo", "env", "hostname", "id", "kill", "ls", "ps", "pwd", "sleep", "true", "wc", "yes", "head",
        "seq", "mkdir", "rm",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    fs::copy(programs::probe(), root.join("probe")).expect("the probe");
    let tar = dir.join("small.tar");
    command::tool("tar", &["-C", root.to_str().expect("a path"), "-cf", tar.to_str().expect("a path"), "."]).ok();
    tar
}
