//! Where a container's output goes: containerd names a fifo, a file, or a program that logs.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// A destination of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nobody wants it.
    Null,
    /// A named pipe: a plain path.
    Fifo(PathBuf),
    /// `file:///path`: appended to.
    File(PathBuf),
    /// `binary:///path?key=value` (or `binary-v2`): a program that reads the streams.
    Binary {
        path: PathBuf,
        /// Each key of the query, followed by its value if it has one.
        arguments: Vec<String>,
        /// Version 2 demands a byte as the sign of readiness; before, closing the descriptor was enough.
        must_confirm: bool,
    },
}

impl Target {
    pub(crate) fn parse(uri: &str) -> Result<Self> {
        if uri.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Ok(Self::Fifo(uri.into()));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(decode(path, false)?);
        if !path.is_absolute() {
            return Err(Error::invalid(format!("stdio {uri:?}: the path must be absolute, as in {scheme}:///path")));
        }
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" | "binary-v2" => {
                Ok(Self::Binary { path, arguments: arguments(query)?, must_confirm: scheme == "binary-v2" })
            }
            _ => Err(Error::invalid(format!("unknown STDIO scheme {scheme}: use fifo, file, binary or binary-v2"))),
        }
    }
}

fn arguments(query: &str) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
        arguments.push(decode(key, true)?);
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            arguments.push(decode(value, true)?);
        }
    }
    Ok(arguments)
}

/// Undoes percent-encoding (and, in a query, `+` for a space).
fn decode(text: &str, query: bool) -> Result<String> {
    let bad = || Error::invalid(format!("stdio URI: {text:?} is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| (byte as char).to_digit(16)).ok_or_else(bad);
                let value = digit()? * 16 + digit()?;
                bytes.push(value as u8);
            }
            b'+' if query => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let binary = |path: &str, arguments: &[&str], must_confirm| Target::Binary {
            path: path.into(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            must_confirm,
        };
        for (uri, target) in [
            ("", Target::Null),
            ("/run/f/stdout", Target::Fifo("/run/f/stdout".into())),
            ("fifo:///run/f", Target::Fifo("/run/f".into())),
            ("file:///var/log/a%20b", Target::File("/var/log/a b".into())),
            ("binary:///bin/logger", binary("/bin/logger", &[], false)),
            ("binary-v2:///l?id=a+b&x&y=%25", binary("/l", &["id", "a b", "x", "y", "%"], true)),
        ] {
            assert_eq!(Target::parse(uri).unwrap(), target, "{uri}");
        }
        for uri in ["http://x/y", "file://relative/x", "file:///%zz", "file:///%f", "file:///%ff", "file:///%00"] {
            assert!(Target::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn fuzz_shim_uri() {
        let seeds = ["binary-v2:///l?id=a+b&x&y=%25", "file:///var/log/a%20b", "/run/f/stdout"];
        let seeds = seeds.map(|seed| seed.as_bytes().to_vec());
        crate::fuzz::fuzz("shim_uri", &seeds, |input| {
            if let Ok(Target::File(path) | Target::Binary { path, .. }) = Target::parse(&String::from_utf8_lossy(input))
            {
                assert!(path.is_absolute(), "{path:?}");
            }
        });
    }
}
