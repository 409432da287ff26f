//! One verb a file.

pub(super) mod attach;
pub(super) mod events;
pub(super) mod exec;
pub(super) mod inspect;
pub(super) mod kill;
pub(super) mod logs;
pub(super) mod pause;
pub(super) mod prune;
pub(super) mod ps;
pub(super) mod rename;
pub(super) mod restart;
pub(super) mod rm;
pub(super) mod run;
pub(super) mod start;
pub(super) mod stats;
pub(super) mod stop;
pub(super) mod top;
pub(super) mod update;
pub(super) mod wait;

use crate::error::{Error, Kind};

/// The container does not run, so what was asked makes no sense.
fn not_running(name: &str) -> Error {
    Error::new(Kind::FailedPrecondition, format!("container {name} is not running"))
}

/// The container runs, but its monitor was killed.
fn unwatched(name: &str) -> Error {
    let text = format!("container {name} runs without its monitor, which was killed: stop it with shim rm -f {name}");
    Error::new(Kind::FailedPrecondition, text)
}
