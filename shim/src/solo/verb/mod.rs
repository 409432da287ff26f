//! One verb a file.

pub(super) mod attach;
pub(super) mod exec;
pub(super) mod kill;
pub(super) mod logs;
pub(super) mod ps;
pub(super) mod rm;
pub(super) mod run;
pub(super) mod start;
pub(super) mod stop;
pub(super) mod wait;

use crate::error::{Error, Kind};

/// The container does not run, so what was asked makes no sense.
fn not_running(name: &str) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        format!("container {name} is not running"),
    )
}

/// The container runs, but its monitor was killed.
fn unwatched(name: &str) -> Error {
    let text = format!(
        "container {name} runs without its monitor, which was killed: stop it with shim rm -f {name}"
    );
    Error::new(Kind::FailedPrecondition, text)
}
