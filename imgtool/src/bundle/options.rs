//! What the user asks of a bundle on the command line, in the words of `docker run`.

use std::path::PathBuf;

use super::health::HealthArgs;
use super::namespaces::{Ipc, Origin};
use super::network::{HostEntry, Network};
use super::publish::{Exposed, Publish};
use super::security::{Device, Rlimit, SecurityOpt};
use super::userns::UserNs;
use super::volume::Volume;
use crate::error::{Error, Result};

/// Options of a bundle, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Arguments instead of the image's Cmd.
    pub(crate) command: Vec<String>,
    /// Replaces the image's Entrypoint and drops its Cmd; an empty one clears it.
    pub(crate) entrypoint: Option<String>,
    /// `KEY=VALUE`, or `KEY` for this process's value.
    pub(crate) env: Vec<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) tty: bool,
    /// The program of the host's that is to be PID 1.
    pub(crate) init: Option<PathBuf>,
    pub(crate) hostname: Option<String>,
    pub(crate) network: Network,
    pub(crate) pid: Origin,
    pub(crate) ipc: Ipc,
    pub(crate) uts: Origin,
    pub(crate) cgroup: Origin,
    pub(crate) userns: UserNs,
    pub(crate) publish: Vec<Publish>,
    /// What is exposed besides, for `publish_all`.
    pub(crate) expose: Vec<Exposed>,
    pub(crate) publish_all: bool,
    pub(crate) dns: Vec<std::net::IpAddr>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) resolver: Vec<String>,
    pub(crate) hosts: Vec<HostEntry>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Billionths of a CPU.
    pub(crate) nano_cpus: Option<u64>,
    pub(crate) pids: Option<i64>,
    /// Bytes of /dev/shm.
    pub(crate) shm: Option<u64>,
    pub(crate) rlimits: Vec<Rlimit>,
    /// `KEY=VALUE`.
    pub(crate) sysctl: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) devices: Vec<Device>,
    /// Where CDI specifications are, if not in the usual places.
    pub(crate) cdi_dirs: Vec<PathBuf>,
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    pub(crate) privileged: bool,
    pub(crate) security: Vec<SecurityOpt>,
    /// `KEY=VALUE`, `KEY` for an empty value.
    pub(crate) annotations: Vec<String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) health: HealthArgs,
    /// Copy the image's files instead of mounting them.
    pub(crate) copy: bool,
}

impl Options {
    /// Bytes of /dev/shm.
    pub(super) fn shm_size(&self) -> u64 {
        self.shm.unwrap_or(64 << 20)
    }
}

/// The lines of `--env-file`: `KEY=VALUE` as it stands, `KEY` for this process's value, comments, empty lines.
pub(crate) fn parse_env_file(text: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split('=').next().unwrap_or_default();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(Error::malformed(format!("line {}: {line:?}: want KEY=VALUE", number + 1)));
        }
        all.push(line.to_owned());
    }
    Ok(all)
}

/// The file of `--env-file`.
pub(crate) fn read_env_file(file: &PathBuf) -> Result<Vec<String>> {
    use crate::error::Step as _;
    let step = || format!("--env-file {}", file.display());
    let text = std::fs::read_to_string(file).with(step)?;
    parse_env_file(&text).with(step)
}

/// An absolute path without `.`, `..`, double or trailing slashes; `..` stops at the root.
pub(super) fn clean_absolute(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

/// A size with Docker's units: `512m`, `1.5g`, `64MiB`; powers of 1024; bytes without a unit.
pub(crate) fn parse_size(text: &str) -> Result<u64> {
    let bad = || Error::malformed(format!("{text:?}: want a size such as 67108864, 64m or 1.5g"));
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let unit = unit.trim();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad()),
    };
    let size = fixed(number, 1 << shift).filter(|&size| size > 0 && i64::try_from(size).is_ok());
    size.ok_or_else(bad)
}

/// A limit of memory: with less than Docker's least one the process would die before it is there.
pub(crate) fn parse_memory(text: &str) -> Result<u64> {
    const LEAST: u64 = 6 << 20;
    match parse_size(text)? {
        size if size < LEAST => Err(Error::malformed(format!("{text:?}: Minimum memory limit allowed is 6MB"))),
        size => Ok(size),
    }
}

/// A number of CPUs, such as `0.5`, in billionths.
pub(crate) fn parse_cpus(text: &str) -> Result<u64> {
    let cpus = fixed(text.trim(), 1_000_000_000);
    // The kernel takes no quota under a millisecond in its period of 100.
    cpus.filter(|&nano| (10_000_000..=1 << 50).contains(&nano))
        .ok_or_else(|| Error::malformed(format!("{text:?}: want a number of CPUs from 0.01")))
}

/// A decimal fraction times `unit`, rounded down.
fn fixed(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 18 {
        return None;
    }
    let digits = |text: &str| match text {
        "" => Some(0),
        text if text.bytes().all(|b| b.is_ascii_digit()) => text.parse::<u64>().ok(),
        _ => None,
    };
    let part = u128::from(digits(fraction)?) * u128::from(unit) / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    digits(whole)?.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_cpus_are_read_as_docker_reads_them() {
        for (text, want) in
            [("1", 1), ("64m", 64 << 20), ("64MiB", 64 << 20), ("1.5g", 3 << 29), ("10KB", 10 << 10), ("2T", 2 << 40)]
        {
            assert_eq!(parse_size(text).unwrap(), want, "{text}");
        }
        for bad in ["", "0", "-1", "m", "1x", "1.2.3", "99999999999g", "1e3", "NaN"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_memory("6m").unwrap(), 6 << 20);
        for small in ["1k", "6291455", "5.9m"] {
            assert!(parse_memory(small).unwrap_err().to_string().contains("6MB"), "{small}");
        }
        assert_eq!(parse_cpus("0.5").unwrap(), 500_000_000);
        assert_eq!(parse_cpus("2").unwrap(), 2_000_000_000);
        for bad in ["0", "0.001", "-1", "", "x", "."] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn env_files_are_read_as_docker_reads_them() {
        let text = "# comment\n\nA=1 # no comment\n  B=\nC\n";
        assert_eq!(parse_env_file(text).unwrap(), ["A=1 # no comment", "B=", "C"]);
        for bad in ["=x", "A B=1"] {
            assert!(parse_env_file(bad).unwrap_err().to_string().contains("line 1"), "{bad}");
        }
    }
}
