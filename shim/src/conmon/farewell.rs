//! After the container's end: what the caller is told, and the command that the caller wants run.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::poll;
use rustix::process::{WaitOptions, set_child_subreaper, wait};

use super::flags::Flags;
use super::pipes;
use crate::error::{Context, Result};
use crate::io::events::timespec;

/// Writes the status where the caller looks for it.
pub(super) fn record(flags: &Flags, status: i64) -> Result<()> {
    let persistent = flags.persist_dir.as_ref().map(|dir| dir.join("exit"));
    let exit = flags.exit_dir.as_ref().map(|dir| dir.join(&flags.cid));
    for path in [persistent, exit].into_iter().flatten() {
        replace(&path, &status.to_string())?;
    }
    Ok(())
}

/// Writes a file that others see whole or not at all.
pub(super) fn replace(path: &Path, text: &str) -> Result<()> {
    let step = || format!("Failed to write {}", path.display());
    let mut fresh: OsString = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let written = fs::File::create(&fresh).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        fs::rename(&fresh, path)
    });
    written.context(step).inspect_err(|_| {
        let _: std::io::Result<()> = fs::remove_file(&fresh);
    })
}

/// Runs the exit command, after its delay. Returns conmon's exit code if it failed.
pub(super) fn run_exit_command(flags: &Flags) -> Option<u8> {
    let program = flags.exit_command.as_ref()?;
    // What it leaves running is not ours: it may want to daemonize.
    let _: rustix::io::Result<()> = set_child_subreaper(None);
    pause(Duration::from_secs(flags.exit_delay));
    let mut command = Command::new(program);
    command.args(&flags.exit_args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for variable in [pipes::SYNC, pipes::START, pipes::ATTACH] {
        command.env_remove(variable);
    }
    let status = command.status();
    // Whatever a runtime left behind is collected with us at the latest.
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    match status {
        Ok(status) if status.success() => None,
        Ok(status) => Some(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(_) => Some(1),
    }
}

fn pause(duration: Duration) {
    let end = Instant::now() + duration;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let _: rustix::io::Result<usize> = poll(&mut [], Some(&timespec(left)));
    }
}
