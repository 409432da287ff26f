//! `shim pause` and `shim unpause`: freezes and thaws a container.

use crate::error::{Error, Kind, Result};
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::record::write_bytes;
use crate::solo::say;
use crate::solo::verb::not_running;

/// Freezes a container.
pub(crate) fn pause(layout: &Layout, name: &str) -> Result<()> {
    let directory = running(layout, name)?;
    if directory.is_paused() {
        return Err(Error::new(Kind::FailedPrecondition, format!("container {name} is paused already")));
    }
    directory.runtime(&directory.options()?).call("pause").arg(name).run()?;
    write_bytes(&directory.path.join("paused"), b"")?;
    say(name);
    Ok(())
}

/// Thaws a container.
pub(crate) fn unpause(layout: &Layout, name: &str) -> Result<()> {
    let directory = running(layout, name)?;
    if !directory.is_paused() {
        return Err(Error::new(Kind::FailedPrecondition, format!("container {name} is not paused")));
    }
    directory.runtime(&directory.options()?).call("resume").arg(name).run()?;
    directory.forget("paused")?;
    say(name);
    Ok(())
}

/// Thaws a container that is to end, if it is frozen.
pub(super) fn thaw(directory: &Directory) {
    if directory.is_paused()
        && let Ok(options) = directory.options()
    {
        // It may have ended already.
        let _: Result<_> = directory.runtime(&options).call("resume").arg(&directory.name).run();
        let _: Result<()> = directory.forget("paused");
    }
}

fn running(layout: &Layout, name: &str) -> Result<Directory> {
    let directory = layout.find(name)?;
    match directory.status()? {
        Status::Running { .. } => Ok(directory),
        _ => Err(not_running(name)),
    }
}
