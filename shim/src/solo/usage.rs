//! What a container uses, from its cgroup.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::stat::Stat;

/// Counters and limits at one moment. What the kernel does not count here is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// Processor time in nanoseconds.
    pub(crate) cpu_ns: Option<u64>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Bytes, if there is a limit.
    pub(crate) memory_limit: Option<u64>,
    pub(crate) pids: Option<u64>,
    /// Bytes.
    pub(crate) io_read: Option<u64>,
    /// Bytes.
    pub(crate) io_write: Option<u64>,
}

/// What version 1 says for no limit: the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

impl Usage {
    /// Of the container whose init is `pid`. `None` means that it has no cgroup of its own: nobody counts what it uses.
    pub(crate) fn of(pid: u32) -> Result<Option<Self>> {
        let cgroup = Cgroup::of(pid)?;
        // Its monitor, which stays where it was started. Whoever adopts the orphan of one that is lost is not there either.
        let starter = Cgroup::of(Stat::of(pid)?.parent)?;
        Ok(cgroup.is_own(&starter).then(|| Self::in_cgroup(&cgroup)))
    }

    fn in_cgroup(cgroup: &Cgroup) -> Self {
        if cgroup.unified {
            return cgroup.unified_dir().map_or_else(Self::default, |dir| Self::v2(&dir));
        }
        let number = |controller: &str, file: &str| number(&cgroup.legacy_dir(controller)?.join(file));
        let io = cgroup.legacy_dir("blkio").map(|dir| read(&dir.join("blkio.throttle.io_service_bytes")));
        let io = io.as_deref().unwrap_or_default();
        Self {
            cpu_ns: number("cpuacct", "cpuacct.usage"),
            memory: number("memory", "memory.usage_in_bytes"),
            memory_limit: number("memory", "memory.limit_in_bytes").filter(|&limit| limit < NO_LIMIT),
            pids: number("pids", "pids.current"),
            io_read: sum_v1(io, "Read"),
            io_write: sum_v1(io, "Write"),
        }
    }

    fn v2(dir: &Path) -> Self {
        let io = read(&dir.join("io.stat"));
        let cpu = read(&dir.join("cpu.stat"));
        let micros = cpu.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok());
        Self {
            cpu_ns: micros.map(|micros| micros.saturating_mul(1000)),
            memory: number(&dir.join("memory.current")),
            memory_limit: number(&dir.join("memory.max")),
            pids: number(&dir.join("pids.current")),
            io_read: sum_v2(&io, "rbytes="),
            io_write: sum_v2(&io, "wbytes="),
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `max` is no number.
fn number(path: &Path) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// `MAJOR:MINOR rbytes=N wbytes=N …` for each device.
fn sum_v2(text: &str, field: &str) -> Option<u64> {
    let numbers = text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(field)?.parse::<u64>().ok());
    (!text.is_empty()).then(|| numbers.sum())
}

/// `MAJOR:MINOR Read N` for each device.
fn sum_v1(text: &str, operation: &str) -> Option<u64> {
    let numbers = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next()? == operation).then(|| words.next()?.parse::<u64>().ok())?
    });
    (!text.is_empty()).then(|| numbers.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_summed_up() {
        let v2 = "8:0 rbytes=10 wbytes=1 rios=2 wios=1\n8:16 rbytes=5 wbytes=0 rios=1 wios=0\n";
        assert_eq!((sum_v2(v2, "rbytes="), sum_v2(v2, "wbytes=")), (Some(15), Some(1)));
        let v1 = "8:0 Read 10\n8:0 Write 1\n8:16 Read 5\nTotal 16\n";
        assert_eq!((sum_v1(v1, "Read"), sum_v1(v1, "Write")), (Some(15), Some(1)));
        assert_eq!(sum_v2("", "rbytes="), None);
    }

    #[test]
    fn a_cgroup_can_be_read_and_is_known_to_be_somebody_elses() {
        let own = std::process::id();
        assert!(Usage::in_cgroup(&Cgroup::of(own).unwrap()).cpu_ns.is_some_and(|cpu| cpu > 0));
        assert_eq!(Usage::of(own).unwrap(), None, "it is our starter's too");
    }
}
