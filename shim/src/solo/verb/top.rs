//! `shim top`: lists a container's processes.

use std::io::{self, Write};

use crate::cli::Top;
use crate::error::Result;
use crate::solo::directory::{Layout, Status};
use crate::solo::verb::not_running;

/// Prints what the runtime says.
pub(crate) fn top(layout: &Layout, top: &Top) -> Result<u8> {
    let directory = layout.find(&top.name)?;
    if !matches!(directory.status()?, Status::Running { .. }) {
        return Err(not_running(&top.name));
    }
    let runtime = directory.runtime(&directory.options()?);
    let table = runtime.call("ps").arg(&top.name).args(&top.options).run()?;
    let _: io::Result<()> = io::stdout().write_all(&table);
    // One that runs has a process: the runtime knows them by the cgroup.
    if memchr::memchr_iter(b'\n', &table).count() <= 1 {
        let _: io::Result<()> = writeln!(io::stderr(), "shim: {} has no cgroup: its processes are not known", top.name);
    }
    Ok(0)
}
