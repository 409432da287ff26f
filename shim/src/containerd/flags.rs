//! The flags that containerd passes, in Go's manner: `-id x`, `-id=x` and `--id x` are the same, the action comes last.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// What containerd wants of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Find or start the shim of a container and print its address.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Describe this shim and its runtime (`-info`).
    Info,
    /// Print the version (`-v`).
    Version,
    /// Be the resident shim: no action given.
    #[default]
    Serve,
}

/// The command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) action: Action,
    /// containerd's namespace of the container.
    pub(crate) namespace: String,
    /// Container (or pod) id.
    pub(crate) id: String,
    /// containerd's gRPC address.
    pub(crate) address: String,
    /// The binary through which events are published when there is no ttrpc address.
    pub(crate) publish_binary: String,
    /// Bundle of the container to delete, if it is not the working directory.
    pub(crate) bundle: Option<PathBuf>,
    /// Address of the resident shim's own socket, to remove at the end.
    pub(crate) socket: String,
    pub(crate) debug: bool,
}

impl Flags {
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut flags = Self::default();
        let mut arguments = arguments.map(OsString::into_string);
        let mut next = || {
            let utf8 = |argument: OsString| Error::invalid(format!("argument {} is not UTF-8", argument.display()));
            arguments.next().transpose().map_err(utf8)
        };
        while let Some(argument) = next()? {
            let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                flags.action = match argument.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => {
                        return Err(Error::invalid(format!("unknown action {argument:?}: use start or delete")));
                    }
                };
                continue;
            };
            let (flag, inline) = match flag.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (flag, None),
            };
            match flag {
                "debug" => flags.debug = inline.as_deref() != Some("false"),
                "info" => flags.action = Action::Info,
                "v" | "version" => flags.action = Action::Version,
                "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" | "debug-socket" => {
                    let value = match inline {
                        Some(value) => value,
                        None => next()?.ok_or_else(|| Error::invalid(format!("flag -{flag} needs a value")))?,
                    };
                    match flag {
                        "namespace" => flags.namespace = value,
                        "id" => flags.id = value,
                        "address" => flags.address = value,
                        "publish-binary" => flags.publish_binary = value,
                        "bundle" => flags.bundle = Some(value.into()),
                        "socket" => flags.socket = value,
                        // Of the Go shim's profiler, which this shim does not have.
                        _ => {}
                    }
                }
                _ => return Err(Error::invalid(format!("unknown flag -{flag}"))),
            }
        }
        flags.check()?;
        Ok(flags)
    }

    /// Ids become parts of paths.
    fn check(&self) -> Result<()> {
        if matches!(self.action, Action::Info | Action::Version) {
            return Ok(());
        }
        if self.namespace.is_empty() {
            return Err(Error::invalid("shim namespace cannot be empty: pass -namespace"));
        }
        check_id("-namespace", &self.namespace)?;
        check_id("-id", &self.id)
    }
}

/// Refuses what cannot be one component of a path, or what a runtime would take for a flag.
pub(crate) fn check_id(what: &str, id: &str) -> Result<()> {
    let harmless = !id.is_empty() && id.len() <= 255 && !matches!(id, "." | "..") && !id.contains(['/', '\0']);
    let harmless = harmless && !id.starts_with('-');
    if harmless { Ok(()) } else { Err(Error::invalid(format!("{what} {id:?} is not an identifier"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags> {
        Flags::parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    #[test]
    fn lines_that_containerd_writes() {
        let start = parse(
            "-namespace default -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id c1 \
             -debug start",
        )
        .unwrap();
        assert_eq!(
            start,
            Flags {
                action: Action::Start,
                namespace: "default".into(),
                id: "c1".into(),
                address: "/run/containerd/containerd.sock".into(),
                publish_binary: "/usr/bin/containerd".into(),
                debug: true,
                ..Flags::default()
            }
        );
        let delete = parse("--namespace=default -id=c1 -bundle /b/c1 delete").unwrap();
        assert_eq!((delete.action, delete.bundle), (Action::Delete, Some("/b/c1".into())));
        assert_eq!(parse("-namespace ns -id c1 -address a").unwrap().action, Action::Serve);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "",
            "start",
            "-namespace",
            "-namespace a -id ../x start",
            "-namespace a/b -id x start",
            "-namespace a start",
            "-namespace a -id x stop",
            "-namespace a -id x -colour start",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
