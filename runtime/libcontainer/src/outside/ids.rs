//! The maps of a new user namespace (user_namespaces(7)).

use crate::{
    error::{At, Error, Result},
    spec::IdMapping,
};
use rustix::process::{Pid, getegid, geteuid};
use std::{
    fmt::Write as _,
    process::{Command, Stdio},
};

/// What is written to `uid_map`, `gid_map` and `setgroups`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    uids: Map,
    gids: Map,
    /// An unprivileged writer of `gid_map` must give up setgroups(2) first.
    deny_setgroups: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Map {
    lines: String,
    /// By newuidmap(1) or newgidmap(1), which look into /etc/subuid and /etc/subgid: without privilege the kernel takes only
    /// the writer's own id.
    by_helper: bool,
}

impl Maps {
    /// `privileged`: the writer may map ids other than its own.
    pub(crate) fn of(uids: &[IdMapping], gids: &[IdMapping], privileged: bool) -> Self {
        let map = |mappings: &[IdMapping], own: u32| {
            let only_own = matches!(mappings, [IdMapping { host_id, size: 1, .. }] if *host_id == own);
            Map { lines: lines(mappings), by_helper: !privileged && !only_own }
        };
        let (uids, gids) = (map(uids, geteuid().as_raw()), map(gids, getegid().as_raw()));
        Self { deny_setgroups: !privileged && !gids.by_helper, uids, gids }
    }

    /// Gives the new user namespace that `pid` is in its maps.
    pub(crate) fn write(&self, pid: Pid) -> Result<()> {
        if self.deny_setgroups {
            write(pid, "setgroups", "deny")?;
        }
        self.gids.write(pid, "gid_map", "newgidmap")?;
        self.uids.write(pid, "uid_map", "newuidmap")
    }
}

/// Whether this process is in a user namespace that an engine without privilege has made: root there may do no more to the
/// host's cgroups than who made it.
#[must_use]
pub fn is_within_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

impl Map {
    fn write(&self, pid: Pid, file: &str, helper: &str) -> Result<()> {
        if !self.by_helper {
            return write(pid, file, &self.lines);
        }
        let mut command = Command::new(helper);
        command.arg(pid.to_string()).args(self.lines.split_ascii_whitespace());
        let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::other(format!(
                "{helper} is not installed, and without it only the caller's own id can be mapped: install uidmap, or map one id"
            )),
            _ => error.into(),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::other(format!(
            "{helper}: {} (ranges for this user stand in /etc/subuid and /etc/subgid)",
            said.trim().replace('\n', "; ")
        )))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_privilege_a_helper_maps_what_is_not_the_callers_own() {
        let map = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let own = Maps::of(&[map(0, uid, 1)], &[map(0, gid, 1)], false);
        assert!(!own.uids.by_helper && !own.gids.by_helper && own.deny_setgroups);
        let more = Maps::of(&[map(0, uid, 1), map(1, 100_000, 9)], &[map(0, gid, 1), map(1, 100_000, 9)], false);
        assert!(more.uids.by_helper && more.gids.by_helper && !more.deny_setgroups);
        assert_eq!(more.uids.lines, format!("0 {uid} 1\n1 100000 9\n"));
        assert!(!Maps::of(&[map(0, 5, 9)], &[map(0, 5, 9)], true).uids.by_helper);
    }
}
