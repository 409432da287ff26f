//! The files of cgroup v2, told as v1 told them. <https://docs.kernel.org/admin-guide/cgroup-v2.html>

use super::{
    BlockIo, BlockIoEntry, Hugetlb, Memory, MemoryEntry, Pids, Stats,
    parse::{number, page_sizes, pairs, psi, strange, text, value_of},
};
use crate::error::Result;
use std::{collections::BTreeMap, os::fd::BorrowedFd};

pub(super) fn stats(dir: BorrowedFd<'_>) -> Result<Stats> {
    let mut stats = Stats {
        pids: pids(dir)?,
        memory: memory(dir)?,
        blkio: block_io(dir)?,
        hugetlb: hugetlb(dir)?,
        ..Stats::default()
    };
    cpu(dir, &mut stats)?;
    stats.memory.psi = psi(dir, "memory.pressure")?;
    stats.blkio.psi = psi(dir, "io.pressure")?;
    stats.cpu.psi = psi(dir, "cpu.pressure")?;
    Ok(stats)
}

fn pids(dir: BorrowedFd<'_>) -> Result<Pids> {
    if let Some(current) = number(dir, "pids.current")? {
        let limit = number(dir, "pids.max")?.filter(|it| *it != u64::MAX).unwrap_or_default();
        return Ok(Pids { current, limit });
    }
    // Without the controller there is still the list; of a threaded cgroup, that of its threads.
    let list = match text(dir, "cgroup.procs")? {
        None => text(dir, "cgroup.threads")?,
        list => list,
    };
    Ok(Pids { current: list.map_or(0, |list| list.lines().count() as u64), limit: 0 })
}

fn memory(dir: BorrowedFd<'_>) -> Result<Memory> {
    let Some(all) = pairs(dir, "memory.stat")? else { return Ok(Memory::default()) };
    let raw: BTreeMap<String, u64> = all.into_iter().collect();
    let usage = entry(dir, "memory")?;
    let alone = entry(dir, "memory.swap")?;
    let limit = if alone.limit == u64::MAX { u64::MAX } else { alone.limit.saturating_add(usage.limit) };
    // The two peaks need not have been at the same time: there is none of both.
    let swap = MemoryEntry { limit, usage: alone.usage + usage.usage, max: 0, failcnt: 0 };
    Ok(Memory { cache: raw.get("file").copied().unwrap_or_default(), usage, swap, raw, ..Memory::default() })
}

fn entry(dir: BorrowedFd<'_>, prefix: &str) -> Result<MemoryEntry> {
    let value = |name: &str| number(dir, &format!("{prefix}.{name}"));
    let Some(usage) = value("current")? else { return Ok(MemoryEntry::default()) };
    let (limit, max) = (value("max")?.unwrap_or_default(), value("peak")?.unwrap_or_default());
    Ok(MemoryEntry { limit, usage, max, failcnt: 0 })
}

fn cpu(dir: BorrowedFd<'_>, stats: &mut Stats) -> Result<()> {
    let (usage, throttling) = (&mut stats.cpu.usage, &mut stats.cpu.throttling);
    for (key, value) in pairs(dir, "cpu.stat")?.unwrap_or_default() {
        let nanoseconds = value.saturating_mul(1000);
        match &*key {
            "usage_usec" => usage.total = nanoseconds,
            "user_usec" => usage.user = nanoseconds,
            "system_usec" => usage.kernel = nanoseconds,
            "nr_periods" => throttling.periods = value,
            "nr_throttled" => throttling.throttled_periods = value,
            "throttled_usec" => throttling.throttled_time = nanoseconds,
            _ => {}
        }
    }
    Ok(())
}

fn block_io(dir: BorrowedFd<'_>) -> Result<BlockIo> {
    let mut stats = BlockIo::default();
    for line in text(dir, "io.stat")?.unwrap_or_default().lines() {
        block_io_line(line, &mut stats)?;
    }
    Ok(stats)
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`. A device that is gone has lost its numbers.
pub(super) fn block_io_line(line: &str, stats: &mut BlockIo) -> Result<()> {
    let mut words = line.split_whitespace();
    let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { return Ok(()) };
    let wrong = || strange("io.stat", line);
    let major = major.parse().map_err(|_| wrong())?;
    let minor = minor.parse().map_err(|_| wrong())?;
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let (list, op) = match key {
            "rbytes" => (&mut stats.io_service_bytes_recursive, "Read"),
            "wbytes" => (&mut stats.io_service_bytes_recursive, "Write"),
            "rios" => (&mut stats.io_serviced_recursive, "Read"),
            "wios" => (&mut stats.io_serviced_recursive, "Write"),
            _ => continue,
        };
        let value = value.parse().map_err(|_| wrong())?;
        list.push(BlockIoEntry { major, minor, op: op.to_owned(), value });
    }
    Ok(())
}

fn hugetlb(dir: BorrowedFd<'_>) -> Result<BTreeMap<String, Hugetlb>> {
    let mut all = BTreeMap::new();
    for size in page_sizes() {
        let prefix = format!("hugetlb.{size}");
        let usage = match number(dir, &format!("{prefix}.rsvd.current"))? {
            None => number(dir, &format!("{prefix}.current"))?,
            usage => usage,
        };
        if let Some(usage) = usage {
            let failcnt = value_of(dir, &format!("{prefix}.events"), "max")?.unwrap_or_default();
            all.insert(size, Hugetlb { usage, max: 0, failcnt });
        }
    }
    Ok(all)
}
