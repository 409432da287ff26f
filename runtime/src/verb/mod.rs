//! One verb, one file.

pub(crate) mod checkpoint;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod features;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod pause;
pub(crate) mod ps;
pub(crate) mod restore;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod spec;
pub(crate) mod start;
pub(crate) mod state;
pub(crate) mod update;

use crate::cli::Global;
use libcontainer::{
    At, Error, Kind, Result,
    outside::ids,
    store::{Slot, Store},
};
use rustix::{
    fd::{AsFd, BorrowedFd},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::Pid,
};
use serde::Serialize;
use std::{
    fs::File,
    io::{IoSlice, Write},
    mem::MaybeUninit,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

/// What `create`, `run` and `exec` say of what was not refused, but did not become anything: runc's words, which engines and
/// their users know.
fn not_started(error: Error) -> Error {
    match error.kind() {
        Kind::Invalid | Kind::Exists => error,
        _ => error.at("unable to start container process"),
    }
}

/// `--root`, or the default for the caller.
fn root(global: &Global) -> Result<PathBuf> {
    if let Some(root) = &global.root {
        return std::path::absolute(root).at("--root");
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    // Root of a user namespace that an engine has made for an ordinary user has that user's directory, as with runc.
    let is_user = || std::env::var_os("USER").is_none_or(|name| name != "root") && ids::is_within_user_namespace();
    match own {
        Some(own) if !rustix::process::geteuid().is_root() || is_user() => {
            let own = Path::new(&own);
            if !own.is_absolute() {
                return Err(Error::other("XDG_RUNTIME_DIR must be an absolute path: set it, or use --root"));
            }
            Ok(own.join("tare"))
        }
        None if !rustix::process::geteuid().is_root() => {
            Err(Error::other("XDG_RUNTIME_DIR is not set: set it, or use --root"))
        }
        _ => Ok("/run/tare".into()),
    }
}

fn find(global: &Global, id: &str) -> Result<Slot> {
    libcontainer::store::check_id(id)?;
    let store = Store::open(&root(global)?, false).map_err(|error| match error.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, "container does not exist"),
        _ => error,
    });
    store.and_then(|store| store.find(id)).at_with(|| id.to_owned())
}

/// As Go's encoder indents.
fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::other(error.to_string()))?;
    print_line(&text)
}

/// A closed standard output is an error and no panic.
fn print_line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").at("write to standard output")
}

/// Nanoseconds since 1970 in UTC, as Go prints a time.
pub(crate) fn rfc3339(seconds: u64, nanoseconds: Option<u32>) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that the leap day comes last in a year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let fraction = nanoseconds.map(|n| format!(".{n:09}")).unwrap_or_default();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// What the caller wants to know of a process that is ready: its pid in a file, a pidfd by a socket.
fn announce(pid_file: Option<&Path>, pidfd_socket: Option<&Path>, pid: Pid, pidfd: BorrowedFd<'_>) -> Result<()> {
    if let Some(path) = pid_file {
        write_pid_file(path, pid).at_with(|| format!("write the pid file {}", path.display()))?;
    }
    if let Some(path) = pidfd_socket {
        send_pidfd(path, pidfd).at_with(|| format!("send the pidfd to {}", path.display())).inspect_err(|_| {
            if let Some(pid_file) = pid_file {
                // What it names is going to be undone.
                drop(std::fs::remove_file(pid_file));
            }
        })?;
    }
    Ok(())
}

/// Renamed into place: who sees the file sees the number.
fn write_pid_file(path: &Path, pid: Pid) -> Result<()> {
    let name = path.file_name().ok_or_else(|| Error::other("is not the path of a file"))?;
    // New: what somebody else has put there is not written to.
    let temporary = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = File::create_new(&temporary)
        .and_then(|mut file| write!(file, "{}", pid.as_raw_nonzero()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // It may be what could not be made.
        drop(std::fs::remove_file(&temporary));
    }
    Ok(written?)
}

fn send_pidfd(path: &Path, pidfd: BorrowedFd<'_>) -> Result<()> {
    let socket = UnixStream::connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [pidfd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket.as_fd(), &[IoSlice::new(b"pidfd")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds, None), expected);
        }
        assert_eq!(rfc3339(1, Some(5)), "1970-01-01T00:00:01.000000005Z");
    }

    #[test]
    fn a_pid_file_appears_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        write_pid_file(&path, Pid::INIT).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_pid_file(&dir.path().join("missing/pid"), Pid::INIT).is_err());
    }
}
