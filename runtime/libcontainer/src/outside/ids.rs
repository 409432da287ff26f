//! The maps of a new user namespace (user_namespaces(7)).

use crate::{
    error::{At, Error, Result},
    spec::IdMapping,
};
use rustix::process::Pid;
use std::fmt::Write as _;

/// What is written to `uid_map`, `gid_map` and `setgroups`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    uids: String,
    gids: String,
    /// An unprivileged writer must give up setgroups(2) first.
    pub(crate) deny_setgroups: bool,
}

impl Maps {
    /// `privileged`: the writer may map ids other than its own.
    pub(crate) fn of(uids: &[IdMapping], gids: &[IdMapping], privileged: bool) -> Self {
        Self { uids: lines(uids), gids: lines(gids), deny_setgroups: !privileged }
    }

    /// Gives the new user namespace that `pid` is in its maps.
    pub(crate) fn write(&self, pid: Pid) -> Result<()> {
        if self.deny_setgroups {
            write(pid, "setgroups", "deny")?;
        }
        write(pid, "gid_map", &self.gids)?;
        write(pid, "uid_map", &self.uids)
    }
}

fn lines(mappings: &[IdMapping]) -> String {
    let mut text = String::new();
    for IdMapping { container_id, host_id, size } in mappings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{container_id} {host_id} {size}");
    }
    text
}

/// A long map is told by its beginning.
fn summary(text: &str) -> String {
    const LINES: usize = 4;
    let short = text.lines().take(LINES).collect::<Vec<_>>().join("\n");
    match text.lines().count() {
        0..=LINES => short,
        // user_namespaces(7): no more than 340 lines, and less than a page.
        all => {
            format!("{short}… {all} lines, {} bytes (the kernel takes 340 lines in less than 4096 bytes)", text.len())
        }
    }
}

fn write(pid: Pid, file: &str, text: &str) -> Result<()> {
    std::fs::write(format!("/proc/{}/{file}", pid.as_raw_nonzero()), text)
        .map_err(Error::from)
        .at_with(|| format!("write {file} {:?}", summary(text)))
}
