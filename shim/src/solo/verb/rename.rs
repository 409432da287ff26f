//! `shim rename`: gives a container another name.

use crate::error::{Error, Kind, Result};
use crate::solo::directory::{Layout, Status};

/// Renames a container. The runtime knows a running one by its name, so it must have ended.
pub(crate) fn rename(layout: &Layout, name: &str, new_name: &str) -> Result<u8> {
    let directory = layout.find(name)?;
    // Nobody may start it meanwhile.
    let lock = directory.lock()?;
    match directory.status() {
        Ok(Status::Exited(_)) if lock.is_some() => {}
        _ => {
            let text = format!("container {name} has not ended: stop it first (shim stop {name})");
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
    }
    layout.rename(&directory, new_name)?;
    Ok(0)
}
