//! One error type for both faces of the shim: a line of text and what kind of trouble it is.
//!
//! The kind becomes a status code towards containerd and an exit code on the command line.

use std::{fmt, io};

/// What kind of trouble an [`Error`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything that has no better name.
    Other,
    /// The container or process does not exist, or has already ended.
    NotFound,
    /// The name or id is taken.
    AlreadyExists,
    /// The object exists but its state forbids the operation.
    FailedPrecondition,
    /// The caller's input is wrong.
    InvalidArgument,
    /// The command inside the container exists but cannot be executed (exit code 126).
    NotExecutable,
    /// The command inside the container does not exist (exit code 127).
    NoCommand,
}

/// A failed step: its text names the step and the cause once, what to do about it comes last.
#[derive(Debug, Clone)]
pub(crate) struct Error {
    pub(crate) kind: Kind,
    text: String,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self::new(Kind::Other, text)
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, text)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::AlreadyExists => Kind::AlreadyExists,
            _ => Kind::Other,
        };
        Self::new(kind, plain(&error))
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(errno: nix::errno::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::invalid(error.to_string())
    }
}

/// The kernel's words for an I/O error, without the number that Rust appends.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Names the step at which something failed.
pub(crate) trait Context<T> {
    /// Prefixes an error's text with `step: `; the kind stays.
    fn context<S: fmt::Display>(self, step: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: fmt::Display>(self, step: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            Error::new(error.kind, format!("{}: {}", step(), error.text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_kind_and_drops_the_number() {
        let missing: std::result::Result<(), _> = Err(io::Error::from_raw_os_error(2));
        let error = missing.context(|| "open config.json").unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert_eq!(error.text(), "open config.json: No such file or directory");
    }
}
