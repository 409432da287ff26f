//! One error type: a line of text that grew at the steps it passed, and what kind of failure it is.

use std::{fmt, io};

/// What the caller may do about an error, where that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing in particular.
    Other,
    /// The thing asked for does not exist (here or in the registry).
    Missing,
    /// The input breaks its format or our rules; trying again gives the same answer.
    Malformed,
    /// The bytes are not those that their digest or size promised.
    Damaged,
    /// The connection or the server failed in a way that may pass.
    Transient,
    /// The file system has no room left, or the user has used up his share.
    Full,
}

/// A failed step: `text` reads from the outermost step to the cause.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    kind: Kind,
    text: String,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: one_line(text.into()) }
    }

    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self::new(Kind::Other, text)
    }

    pub(crate) fn missing(text: impl Into<String>) -> Self {
        Self::new(Kind::Missing, text)
    }

    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, text)
    }

    pub(crate) fn damaged(text: impl Into<String>) -> Self {
        Self::new(Kind::Damaged, text)
    }

    pub(crate) fn transient(text: impl Into<String>) -> Self {
        Self::new(Kind::Transient, text)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Puts the name of a step in front.
    #[must_use]
    pub(crate) fn at(mut self, step: impl fmt::Display) -> Self {
        self.text = one_line(format!("{step}: {}", self.text));
        self
    }
}

/// Text from images and registries ends up in errors and lists: control characters in it must not reach a terminal.
pub(crate) fn one_line(text: String) -> String {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    } else {
        text
    }
}

/// A line on stderr. Nothing can be done where that is closed, full, or read by nobody any more.
pub(crate) fn tell(line: impl fmt::Display) {
    use io::Write as _;
    let _ = writeln!(io::stderr(), "{line}");
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // Readers can only fail with io::Error: ours travel inside one.
        if let Some(ours) = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            return ours.clone();
        }
        let text = error.to_string();
        let text = match text.find(" (os error") {
            Some(end) => text[..end].to_owned(),
            None => text,
        };
        match error.kind() {
            io::ErrorKind::NotFound => Self::missing(text),
            io::ErrorKind::InvalidData => Self::malformed(text),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::new(Kind::Full, text),
            _ => Self::other(text),
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Names the step at which something failed.
pub(crate) trait Step<T> {
    fn at<D: fmt::Display>(self, step: D) -> Result<T>;
    fn with<D: fmt::Display>(self, step: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Step<T> for std::result::Result<T, E> {
    fn at<D: fmt::Display>(self, step: D) -> Result<T> {
        self.map_err(|e| e.into().at(step))
    }

    fn with<D: fmt::Display>(self, step: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.into().at(step()))
    }
}
