//! Errors that show the step and the call, once: `start web: join cgroup: write cgroup.procs: device or resource busy`.

use std::{borrow::Cow, fmt, io};

/// What callers tell apart; everything else is [`Kind::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No container of that id.
    NotFound,
    /// A container of that id exists.
    Exists,
    /// The container has no live process.
    NotRunning,
    /// The caller's input (command line, config.json) is refused; nothing was touched.
    Invalid,
    /// The container's program could not be executed; its standard error says so too.
    NotExecuted,
    /// Any other failure.
    Other,
}

/// A failure and the steps that led to it, outermost first.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    // Innermost first, so that adding context is a push.
    steps: Vec<String>,
    cause: String,
    errno: Option<i32>,
}

/// The result of every fallible step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure that is not a system call's.
    pub fn new(kind: Kind, cause: impl Into<String>) -> Self {
        Self { kind, steps: Vec::new(), cause: cause.into(), errno: None }
    }

    /// A failure of [`Kind::Other`].
    pub fn other(cause: impl Into<String>) -> Self {
        Self::new(Kind::Other, cause)
    }

    /// A refusal of input: the field's path and the rule that it breaks.
    pub fn invalid(field: impl fmt::Display, rule: impl fmt::Display) -> Self {
        Self::new(Kind::Invalid, format!("{field}: {rule}"))
    }

    /// What callers tell apart.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The system call's error number, where a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// Adds the step in which this happened.
    #[must_use]
    pub fn at(mut self, step: impl Into<String>) -> Self {
        self.steps.push(step.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.steps.iter().rev() {
            write!(f, "{step}: ")?;
        }
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self { kind: Kind::Other, steps: Vec::new(), cause: os_text(&error), errno: error.raw_os_error() }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// `text` in at most `most` bytes. A name in it may be as long as a configuration: where it happened stands before the name, and
/// the cause behind.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let mark = format!("… ({} bytes in all) …", text.len());
    let room = most.saturating_sub(mark.len());
    let head = &text[..text.floor_char_boundary(room / 4 * 3)];
    let tail = &text[text.ceil_char_boundary(text.len() - room / 4)..];
    format!("{head}{mark}{tail}").into()
}

/// The C library's text in lower case, as Go prints it: engines match on `no such file or directory`.
fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Adds the step to a failed call's error, where the call is made.
pub trait At<T> {
    /// Names the step with a text that is at hand.
    fn at(self, step: &str) -> Result<T>;
    /// Names the step with a text that is made only on failure.
    fn at_with(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> At<T> for std::result::Result<T, E> {
    fn at(self, step: &str) -> Result<T> {
        self.map_err(|error| error.into().at(step))
    }

    fn at_with(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.into().at(step()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_steps_outermost_first_and_the_cause_once() {
        let error = Err::<(), _>(rustix::io::Errno::BUSY).at("write cgroup.procs").at("join cgroup").unwrap_err();
        assert_eq!(error.to_string(), "join cgroup: write cgroup.procs: device or resource busy");
        assert_eq!(error.errno(), Some(16));
    }

    #[test]
    fn a_long_text_keeps_both_its_ends() {
        assert_eq!(shortened("short", 100), "short");
        let long = format!("open {}: too long", "ü".repeat(500));
        for most in 100..200 {
            let short = shortened(&long, most);
            assert!(short.len() <= most && short.starts_with("open ü") && short.ends_with("ü: too long"), "{short}");
        }
    }
}
