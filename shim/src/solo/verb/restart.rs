//! `shim restart`: stops a container and starts it again.

use crate::error::Result;
use crate::solo::directory::Layout;
use crate::solo::verb::{start, stop};

/// Restarts a container; one that has ended is started.
pub(crate) fn restart(layout: &Layout, name: &str, seconds: Option<u32>) -> Result<()> {
    stop::halt(layout, name, seconds)?;
    start::one(layout, name, false, false).map(drop)
}
