//! The files of cgroup v1. <https://docs.kernel.org/admin-guide/cgroup-v1/index.html>

use super::{
    BlockIo, BlockIoEntry, CpuSet, Hugetlb, Memory, MemoryEntry, Stats,
    parse::{list, number, page_sizes, pairs, strange, text, unsigned},
};
use crate::error::Result;
use std::{collections::BTreeMap, os::fd::BorrowedFd};

/// cpuacct counts in these (`USER_HZ`, which is 100 on every architecture that we run on).
const NANOSECONDS_A_TICK: u64 = 10_000_000;

pub(super) fn stats<'fd>(dir_of: impl Fn(&str) -> Option<BorrowedFd<'fd>>) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(dir) = dir_of("cpuset") {
        stats.cpuset = cpuset(dir)?;
    }
    if let Some(dir) = dir_of("memory") {
        stats.memory = memory(dir)?;
    }
    if let Some(dir) = dir_of("cpu") {
        throttling(dir, &mut stats)?;
    }
    if let Some(dir) = dir_of("cpuacct") {
        usage(dir, &mut stats)?;
    }
    if let Some(dir) = dir_of("pids") {
        stats.pids.current = number(dir, "pids.current")?.unwrap_or_default();
        stats.pids.limit = number(dir, "pids.max")?.filter(|it| *it != u64::MAX).unwrap_or_default();
    }
    if let Some(dir) = dir_of("blkio") {
        stats.blkio = block_io(dir)?;
    }
    if let Some(dir) = dir_of("hugetlb") {
        stats.hugetlb = hugetlb(dir)?;
    }
    Ok(stats)
}

fn cpuset(dir: BorrowedFd<'_>) -> Result<CpuSet> {
    let flag = |name: &str| Ok::<_, crate::Error>(number(dir, name)?.unwrap_or_default());
    let set = |name: &str| text(dir, name)?.map_or(Ok(Vec::new()), |text| list(name, &text));
    let level = text(dir, "cpuset.sched_relax_domain_level")?.and_then(|text| text.trim().parse().ok());
    Ok(CpuSet {
        cpus: set("cpuset.cpus")?,
        cpu_exclusive: flag("cpuset.cpu_exclusive")?,
        mems: set("cpuset.mems")?,
        mem_hardwall: flag("cpuset.mem_hardwall")?,
        mem_exclusive: flag("cpuset.mem_exclusive")?,
        memory_migrate: flag("cpuset.memory_migrate")?,
        memory_spread_page: flag("cpuset.memory_spread_page")?,
        memory_spread_slab: flag("cpuset.memory_spread_slab")?,
        memory_pressure: flag("cpuset.memory_pressure")?,
        sched_load_balance: flag("cpuset.sched_load_balance")?,
        sched_relax_domain_level: level.unwrap_or_default(),
    })
}

fn memory(dir: BorrowedFd<'_>) -> Result<Memory> {
    let Some(all) = pairs(dir, "memory.stat")? else { return Ok(Memory::default()) };
    let raw: BTreeMap<String, u64> = all.into_iter().collect();
    Ok(Memory {
        cache: raw.get("cache").copied().unwrap_or_default(),
        usage: entry(dir, "memory")?,
        swap: entry(dir, "memory.memsw")?,
        kernel: entry(dir, "memory.kmem")?,
        kernel_tcp: entry(dir, "memory.kmem.tcp")?,
        raw,
        psi: None,
    })
}

/// What the kernel does not account for is all zeros.
fn entry(dir: BorrowedFd<'_>, prefix: &str) -> Result<MemoryEntry> {
    let value = |name: &str| number(dir, &format!("{prefix}.{name}"));
    let Some(usage) = value("usage_in_bytes")? else { return Ok(MemoryEntry::default()) };
    Ok(MemoryEntry {
        limit: value("limit_in_bytes")?.unwrap_or_default(),
        usage,
        max: value("max_usage_in_bytes")?.unwrap_or_default(),
        failcnt: value("failcnt")?.unwrap_or_default(),
    })
}

fn throttling(dir: BorrowedFd<'_>, stats: &mut Stats) -> Result<()> {
    for (key, value) in pairs(dir, "cpu.stat")?.unwrap_or_default() {
        match &*key {
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_time" => stats.cpu.throttling.throttled_time = value,
            _ => {}
        }
    }
    Ok(())
}

fn usage(dir: BorrowedFd<'_>, stats: &mut Stats) -> Result<()> {
    let usage = &mut stats.cpu.usage;
    usage.total = number(dir, "cpuacct.usage")?.unwrap_or_default();
    for (key, ticks) in pairs(dir, "cpuacct.stat")?.unwrap_or_default() {
        match &*key {
            "user" => usage.user = ticks.saturating_mul(NANOSECONDS_A_TICK),
            "system" => usage.kernel = ticks.saturating_mul(NANOSECONDS_A_TICK),
            _ => {}
        }
    }
    let each = text(dir, "cpuacct.usage_percpu")?.unwrap_or_default();
    usage.percpu = each
        .split_whitespace()
        .map(|word| unsigned(word).ok_or_else(|| strange("cpuacct.usage_percpu", &each)))
        .collect::<Result<_>>()?;
    // A heading, then a line a processor: number, user, system.
    for line in text(dir, "cpuacct.usage_all")?.unwrap_or_default().lines().skip(1) {
        let mut words = line.split_whitespace().skip(1).map(unsigned);
        let (Some(Some(user)), Some(Some(kernel))) = (words.next(), words.next()) else {
            return Err(strange("cpuacct.usage_all", line));
        };
        usage.percpu_user.push(user);
        usage.percpu_kernel.push(kernel);
    }
    Ok(())
}

/// The fields by the file's name without its scheduler.
fn block_io_field<'a>(stats: &'a mut BlockIo, name: &str) -> &'a mut Vec<BlockIoEntry> {
    match name {
        "sectors_recursive" => &mut stats.sectors_recursive,
        "io_service_time_recursive" => &mut stats.io_service_time_recursive,
        "io_wait_time_recursive" => &mut stats.io_wait_time_recursive,
        "io_merged_recursive" => &mut stats.io_merged_recursive,
        "io_queued_recursive" => &mut stats.io_queue_recursive,
        "time_recursive" => &mut stats.io_time_recursive,
        "io_serviced_recursive" | "io_serviced" => &mut stats.io_serviced_recursive,
        _ => &mut stats.io_service_bytes_recursive,
    }
}

/// Which files there are depends on scheduler and kernel. The first group with anything in its first file is the one.
fn block_io(dir: BorrowedFd<'_>) -> Result<BlockIo> {
    const ALL: [&str; 8] = [
        "sectors_recursive",
        "io_service_time_recursive",
        "io_wait_time_recursive",
        "io_merged_recursive",
        "io_queued_recursive",
        "time_recursive",
        "io_serviced_recursive",
        "io_service_bytes_recursive",
    ];
    const BYTES: [&str; 2] = ["io_serviced_recursive", "io_service_bytes_recursive"];
    const GROUPS: [(&str, &[&str]); 5] = [
        // BFQ with debugging, BFQ, CFQ, and what is limited without a scheduler.
        ("blkio.bfq", &ALL),
        ("blkio.bfq", &BYTES),
        ("blkio", &ALL),
        ("blkio.throttle", &BYTES),
        ("blkio.throttle", &["io_serviced", "io_service_bytes"]),
    ];
    let mut stats = BlockIo::default();
    for (prefix, names) in GROUPS {
        for (index, name) in names.iter().enumerate() {
            let file = format!("{prefix}.{name}");
            let entries = block_io_entries(&file, &text(dir, &file)?.unwrap_or_default())?;
            if entries.is_empty() && index == 0 {
                break;
            }
            *block_io_field(&mut stats, name) = entries;
            if index + 1 == names.len() {
                return Ok(stats);
            }
        }
    }
    Ok(stats)
}

/// `8:0 Read 124` or `8:0 6792`, and a last line with the total, which is left out.
pub(super) fn block_io_entries(name: &str, text: &str) -> Result<Vec<BlockIoEntry>> {
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (op, value) = rest.split_once(' ').unwrap_or(("", rest));
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        Some(BlockIoEntry { major, minor, op: op.to_owned(), value: value.parse().ok()? })
    };
    let lines = text.lines().filter(|line| !line.starts_with("Total "));
    lines.map(|line| entry(line).ok_or_else(|| strange(name, line))).collect()
}

fn hugetlb(dir: BorrowedFd<'_>) -> Result<BTreeMap<String, Hugetlb>> {
    let mut all = BTreeMap::new();
    for size in page_sizes() {
        // Reservations are what can fail; kernels before 5.7 count only what is in use.
        let reserved = format!("hugetlb.{size}.rsvd");
        let in_use = format!("hugetlb.{size}");
        let found = [reserved, in_use].into_iter().find_map(|prefix| {
            let usage = number(dir, &format!("{prefix}.usage_in_bytes")).transpose()?;
            Some(usage.and_then(|usage| {
                let value =
                    |name: &str| Ok::<_, crate::Error>(number(dir, &format!("{prefix}.{name}"))?.unwrap_or_default());
                Ok(Hugetlb { usage, max: value("max_usage_in_bytes")?, failcnt: value("failcnt")? })
            }))
        });
        if let Some(found) = found {
            all.insert(size, found?);
        }
    }
    Ok(all)
}
