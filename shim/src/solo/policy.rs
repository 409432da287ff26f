//! What a container is run with besides its bundle: when it is run again, and where its output is kept.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::record::Options;
use crate::error::{Context, Error, Result};
use crate::io::log::Log;
use crate::io::log::file::Limits;
use crate::io::log::journald::{self, Identity, Journald};
use crate::io::log::json::JsonLog;
use crate::io::log::k8s::K8sLog;

/// When a container that has ended is run again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When its exit code is not 0, this often at most.
    OnFailure(Option<u32>),
    /// Whenever nobody has stopped it.
    Always,
    /// The same: nothing of ours starts containers when the machine does.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether it is run again after an end with `code`, after `restarts` that were before.
    pub(crate) fn wants(self, code: u32, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(most) => code != 0 && most.is_none_or(|most| restarts < most),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!("restart policy {text:?}: it is no, on-failure[:TIMES], always or unless-stopped"))
        };
        Ok(match text.split_once(':') {
            None if text.is_empty() || text == "no" => Self::No,
            None if text == "on-failure" => Self::OnFailure(None),
            None if text == "always" => Self::Always,
            None if text == "unless-stopped" => Self::UnlessStopped,
            Some(("on-failure", times)) => {
                let times: u32 = times.parse().map_err(|_| wrong())?;
                // As Docker has it, none means no limit.
                Self::OnFailure((times > 0).then_some(times))
            }
            _ => return Err(wrong()),
        })
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(most)) => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// Where output is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogDriver {
    #[default]
    JsonFile,
    K8sFile,
    Journald,
    None,
}

impl FromStr for LogDriver {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "json-file" => Self::JsonFile,
            "k8s-file" => Self::K8sFile,
            "journald" => Self::Journald,
            "none" => Self::None,
            _ => {
                let text = format!("log driver {text:?}: it is json-file, k8s-file, journald or none");
                return Err(Error::invalid(text));
            }
        })
    }
}

/// `--log-driver` and `--log-opt` together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogOptions {
    pub(crate) driver: LogDriver,
    /// Bytes in one file.
    pub(crate) max_size: Option<u64>,
    /// How many files, the current one included.
    pub(crate) max_file: Option<u32>,
}

impl LogOptions {
    /// Reads `NAME=VALUE` options.
    pub(crate) fn parse(driver: LogDriver, options: &[String]) -> Result<Self> {
        let mut parsed = Self { driver, ..Self::default() };
        for option in options {
            let wrong = |reason: &str| Error::invalid(format!("log option {option:?}: {reason}"));
            match option.split_once('=') {
                Some((_, _)) if matches!(driver, LogDriver::Journald | LogDriver::None) => {
                    return Err(wrong("this log driver has no options"));
                }
                Some(("max-size", value)) => match bytes(value) {
                    Some(size @ 1..) => parsed.max_size = Some(size),
                    _ => return Err(wrong("give a number of bytes, with k, m or g if you like")),
                },
                Some(("max-file", value)) => match value.parse() {
                    Ok(number @ 1..) => parsed.max_file = Some(number),
                    _ => return Err(wrong("give a number from 1")),
                },
                _ => return Err(wrong("it is max-size=BYTES or max-file=NUMBER")),
            }
        }
        if parsed.max_file.is_some_and(|files| files > 1) && parsed.max_size.is_none() {
            return Err(Error::invalid("log option max-file: it needs max-size, or no file is ever full"));
        }
        if driver == LogDriver::Journald && !Path::new(journald::SOCKET).exists() {
            return Err(Error::invalid(format!("log driver journald: there is no journal at {}", journald::SOCKET)));
        }
        Ok(parsed)
    }

    /// Opens the log of a container.
    pub(crate) fn open(&self, directory: &Directory, options: &Options) -> Result<Log> {
        let path = directory.log();
        let limits = self.max_size.map(|size| Limits { size, files: self.max_file.unwrap_or(1) });
        let opened = match self.driver {
            LogDriver::JsonFile => JsonLog::open(&path, limits).map(Log::Json),
            LogDriver::K8sFile => K8sLog::open(&path, limits, None).map(Log::K8s),
            LogDriver::Journald => {
                let identity = Identity { id: &options.name, name: Some(&options.name), ..Identity::default() };
                Journald::open(Path::new(journald::SOCKET), &identity).map(Log::Journald)
            }
            LogDriver::None => Ok(Log::None),
        };
        opened.context(|| format!("open {}", path.display()))
    }
}

/// A number of bytes such as `10`, `10k`, `1.5m` or `2g`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, factor) = match number.as_bytes().last()? {
        b'k' => (&number[..number.len() - 1], 1_u64 << 10),
        b'm' => (&number[..number.len() - 1], 1 << 20),
        b'g' => (&number[..number.len() - 1], 1 << 30),
        _ => (number, 1),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let fraction: f64 = number.parse().ok().filter(|fraction: &f64| fraction.is_finite() && *fraction >= 0.0)?;
    #[expect(clippy::cast_precision_loss, reason = "the factors are exact")]
    let product = fraction * factor as f64;
    // What the kernel counts with; also no rounded infinity.
    (product < 9.0e18).then_some(product as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for text in ["no", "on-failure", "on-failure:3", "always", "unless-stopped"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        for text in ["sometimes", "on-failure:", "on-failure:x", "on-failure:-1", "always:2"] {
            assert!(text.parse::<RestartPolicy>().unwrap_err().text().contains(text), "{text}");
        }
        let three = RestartPolicy::OnFailure(Some(3));
        assert!(three.wants(1, 2) && !three.wants(1, 3) && !three.wants(0, 0));
        assert!(RestartPolicy::Always.wants(0, 1000) && !RestartPolicy::No.wants(1, 0));
    }

    #[test]
    fn log_options() {
        let parse = |options: &[&str]| {
            let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
            LogOptions::parse(LogDriver::JsonFile, &options)
        };
        let parsed = parse(&["max-size=10k", "max-file=3"]).unwrap();
        assert_eq!((parsed.max_size, parsed.max_file), (Some(10_240), Some(3)));
        for options in [&["max-size=0"][..], &["max-size=x"], &["max-file=0"], &["max-file=2"], &["color=red"], &["x"]]
        {
            assert!(parse(options).is_err(), "{options:?}");
        }
        assert!(LogOptions::parse(LogDriver::None, &["max-size=1k".to_owned()]).is_err());
    }

    #[test]
    fn numbers_of_bytes() {
        for (text, number) in
            [("10", Some(10)), ("1k", Some(1024)), ("1.5m", Some(1_572_864)), ("2GB", Some(2 << 30)), ("7b", Some(7))]
        {
            assert_eq!(bytes(text), number, "{text}");
        }
        for text in ["", "k", "-1", "x", "1t", "99999999999999999999g", "nan"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
