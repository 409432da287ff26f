//! `shim start`: runs a container again that has ended.

use crate::cli::Start;
use crate::error::{Error, Kind, Result};
use crate::solo::directory::{Layout, Status};
use crate::solo::frames::start_failure_code;
use crate::solo::launch::launch;
use crate::solo::relay::Signals;
use crate::solo::session::Manner;
use crate::solo::verb::{rm, run, unwatched};
use crate::solo::{say, warn};

/// Starts containers. Returns the exit code.
pub(crate) fn start(layout: &Layout, start: &Start) -> Result<u8> {
    let attach = start.attach || start.interactive;
    if let [name] = &start.names[..] {
        return one(layout, name, attach, start.interactive);
    }
    if attach {
        return Err(Error::invalid("you cannot start and attach several containers at once"));
    }
    let mut code = 0;
    for name in &start.names {
        if let Err(error) = one(layout, name, false, false) {
            warn(error.text());
            code = code.max(start_failure_code(error.kind).min(1));
        }
    }
    Ok(code)
}

pub(super) fn one(layout: &Layout, name: &str, attach: bool, stdin: bool) -> Result<u8> {
    let directory = layout.find(name)?;
    let options = directory.options()?;
    match directory.status()? {
        Status::Running { watched: false, .. } => return Err(unwatched(name)),
        Status::Running { .. } | Status::Starting | Status::Restarting(_) => {
            return Err(Error::new(Kind::FailedPrecondition, format!("container {name} is running already")));
        }
        // The runtime may still know a container whose monitor was killed before it could clean up.
        Status::Lost => {
            let _: Result<()> = rm::forget_in_runtime(&directory);
        }
        Status::Exited(_) => directory.await_monitor(),
    }
    let signals = attach.then(|| Signals::take(true)).transpose()?;
    let session = launch(layout, &directory, signals.as_ref())?;
    let Some(signals) = signals else {
        say(name);
        return Ok(0);
    };
    let manner = Manner { terminal: options.terminal, stdin: stdin && options.stdin, keys: options.detach_keys };
    run::follow(&directory, session, &signals, manner)
}
