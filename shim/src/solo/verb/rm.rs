//! `shim rm`: removes a container.

use crate::error::{Error, Kind, Result};
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::say;
use crate::solo::verb::{kill, wait};

const KILL: u8 = 9;

/// Removes a container that has ended, or with `force` any, whatever state it is in.
pub(crate) fn rm(layout: &Layout, name: &str, force: bool) -> Result<()> {
    let directory = layout.find(name)?;
    let status = directory.status();
    match status {
        Ok(Status::Exited(_)) => {}
        Ok(Status::Running { .. } | Status::Starting) if !force => {
            let text = format!("container {name} is running: stop it first (shim stop {name}), or use rm -f");
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
        Ok(Status::Running { watched: true, .. } | Status::Starting) => {
            kill::send(&directory, KILL)?;
            let _: Result<_> = wait::until_ended(&directory);
        }
        // Unreadable records must not keep anybody from getting rid of them.
        Err(error) if !force => return Err(error),
        Ok(Status::Running { .. } | Status::Lost) | Err(_) => forget_in_runtime(&directory)?,
    }
    directory.remove()?;
    say(name);
    Ok(())
}

/// Has the runtime kill and forget a container that nobody watches any more.
pub(crate) fn forget_in_runtime(directory: &Directory) -> Result<()> {
    // Without options there was never a container.
    let Ok(options) = directory.options() else {
        return Ok(());
    };
    directory.runtime(&options).call("delete").args(["--force", &directory.name]).run().map(drop)
}
