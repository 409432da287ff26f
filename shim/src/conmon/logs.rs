//! `--log-path`: drivers and where they write.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::flags::Flags;
use crate::error::{Context, Error, Result};
use crate::io::log::Log;
use crate::io::log::file::Limits;
use crate::io::log::journald::{self, Identity, Journald};
use crate::io::log::k8s::K8sLog;

/// One `--log-path`.
#[derive(Debug, PartialEq, Eq)]
enum Driver {
    None,
    Passthrough,
    Journald,
    K8sFile(PathBuf),
}

/// `DRIVER:PATH`, `:PATH` or `PATH`.
fn parse(text: &OsStr) -> Result<Driver> {
    let bytes = text.as_bytes();
    let mut words = bytes.split(|&byte| byte == b':').filter(|word| !word.is_empty());
    let (first, second) = (words.next(), words.next());
    let path = |bytes: &[u8]| Driver::K8sFile(PathBuf::from(OsStr::from_bytes(bytes)));
    match (first, second) {
        (None, _) => Err(Error::invalid("log-path must not be empty")),
        (Some(only), None) if bytes.starts_with(b":") => Ok(path(only)),
        (Some(b"off" | b"null" | b"none"), _) => Ok(Driver::None),
        (Some(b"passthrough"), _) => Ok(Driver::Passthrough),
        (Some(b"journald"), _) => Ok(Driver::Journald),
        (Some(b"k8s-file"), Some(file)) => Ok(path(file)),
        (Some(b"k8s-file"), None) => Err(Error::invalid("k8s-file requires a filename")),
        (Some(only), None) if !bytes.contains(&b':') => Ok(path(only)),
        (Some(driver), _) => Err(Error::invalid(format!("No such log driver {}", String::from_utf8_lossy(driver)))),
    }
}

/// Where the container's output goes.
#[derive(Debug)]
pub(super) struct Logs {
    pub(super) drivers: Vec<Log>,
    /// Whether the container gets our own streams.
    pub(super) passthrough: bool,
}

/// Opens the logs that the flags ask for.
pub(super) fn open(flags: &Flags) -> Result<Logs> {
    if flags.log_paths.is_empty() {
        return Err(Error::invalid("Log driver not provided. Use --log-path"));
    }
    let wanted = flags.log_paths.iter().map(|path| parse(path)).collect::<Result<Vec<_>>>()?;
    let journald = wanted.contains(&Driver::Journald);
    let mut logs = Logs { drivers: Vec::new(), passthrough: false };
    for driver in wanted {
        match driver {
            Driver::None => {}
            Driver::Passthrough => logs.passthrough = true,
            // Once is enough, however often it is asked for.
            Driver::Journald if logs.drivers.iter().any(|log| matches!(log, Log::Journald(_))) => {}
            Driver::Journald => logs.drivers.push(Log::Journald(open_journal(flags)?)),
            Driver::K8sFile(path) => {
                if !journald && flags.log_tag.is_some() {
                    return Err(Error::invalid("k8s-file doesn't support --log-tag"));
                }
                if !journald && !flags.log_labels.is_empty() {
                    return Err(Error::invalid("k8s-file doesn't support --log-label"));
                }
                let total = u64::try_from(flags.log_global_size_max).ok().filter(|&total| total > 0);
                let log = K8sLog::open(&path, limits(flags), total);
                let mut log = log.context(|| format!("Failed to open log file {}", path.display()))?;
                if !flags.no_sync_log {
                    log.keep();
                }
                logs.drivers.push(Log::K8s(log));
            }
        }
    }
    Ok(logs)
}

fn limits(flags: &Flags) -> Option<Limits> {
    let size = u64::try_from(flags.log_size_max).ok().filter(|&size| size > 0);
    // Without rotation the one file begins anew. With it, the number is that of the older files.
    let files = if flags.log_rotate { flags.log_max_files.saturating_add(1) } else { 1 };
    (size.is_some() || flags.log_rotate).then(|| Limits { size: size.unwrap_or(u64::MAX), files })
}

fn open_journal(flags: &Flags) -> Result<Journald> {
    let id = flags.cuuid.as_deref().unwrap_or(&flags.cid);
    if id.len() <= 12 {
        return Err(Error::invalid("Container ID must be longer than 12 characters"));
    }
    for label in &flags.log_labels {
        check_label(label)?;
    }
    let identity = Identity {
        id,
        name: flags.name.as_deref(),
        tag: flags.log_tag.as_deref(),
        labels: &flags.log_labels,
        unmarked: flags.no_container_partial_message,
    };
    Journald::open(Path::new(journald::SOCKET), &identity).context(|| format!("prepare for {}", journald::SOCKET))
}

fn check_label(label: &str) -> Result<()> {
    let form = |problem: &str| {
        Err(Error::invalid(format!("Container labels must be in format LABEL=VALUE ({problem} present in '{label}')")))
    };
    let name = match label.split_once('=') {
        Some(("", _)) => return form("no LABEL"),
        Some((name, value)) if !value.contains('=') => name,
        _ => return form("none or more than one '='"),
    };
    if name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Container label names must contain only uppercase letters, numbers and underscore (in '{label}')"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_and_paths() {
        let file = |path: &str| Driver::K8sFile(path.into());
        for (text, driver) in [
            ("k8s-file:/x/log", file("/x/log")),
            ("/x/log", file("/x/log")),
            (":/x/log", file("/x/log")),
            (":none", file("none")),
            ("none", Driver::None),
            ("off:", Driver::None),
            ("null:", Driver::None),
            ("journald", Driver::Journald),
            ("journald:", Driver::Journald),
            ("passthrough", Driver::Passthrough),
        ] {
            assert_eq!(parse(text.as_ref()).unwrap(), driver, "{text}");
        }
        for (text, complaint) in [
            ("", "log-path must not be empty"),
            (":", "log-path must not be empty"),
            ("k8s-file", "k8s-file requires a filename"),
            ("k8s-file:", "k8s-file requires a filename"),
            ("nonsense:/x", "No such log driver nonsense"),
        ] {
            assert!(parse(text.as_ref()).unwrap_err().text().contains(complaint), "{text}");
        }
    }

    #[test]
    fn labels() {
        assert!(check_label("A_1=value").is_ok());
        for label in ["", "A", "=v", "A=b=c", "a=v"] {
            assert!(check_label(label).is_err(), "{label}");
        }
    }
}
