//! Descriptors that a caller has left open for everybody it starts.

use std::fs;

/// Closes everything but the standard streams. A process that stays must hold nothing of the one that started it:
/// somebody may be waiting for the end of a pipe, or may want to unmount what a directory is open on.
///
/// To be called before anything of our own is open.
pub(crate) fn close_inherited() {
    for fd in inherited() {
        let _: nix::Result<()> = nix::unistd::close(fd);
    }
}

/// The numbers of everything but the standard streams.
pub(crate) fn inherited() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let open: Vec<i32> = names.filter_map(|name| name.parse().ok()).filter(|&fd| fd > 2).collect();
    // The list's own descriptor is among them, and closed by now.
    open.into_iter().filter(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok()).collect()
}
