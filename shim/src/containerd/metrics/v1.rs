//! Version 1: one directory for each controller.

use std::fs;
use std::path::Path;

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics,
    PidsStat, RdmaEntry, RdmaStat, Throttle,
};

use super::files::{Flat, device, huge_page_sizes, number, parse, rdma, text};
use crate::cgroup::Cgroup;

/// `cpuacct.stat` counts in ticks of a hundredth of a second, on every Linux.
const NANOSECONDS_A_TICK: u64 = 10_000_000;

pub(super) fn collect(cgroup: &Cgroup) -> Metrics {
    let mut metrics = Metrics::new();
    if let Some(dir) = cgroup.legacy_dir("pids") {
        metrics.pids = Some(pids(&dir)).into();
    }
    if let Some(dir) = cgroup.legacy_dir("cpuacct") {
        metrics.cpu.mut_or_insert_default().usage = Some(cpu_usage(&dir)).into();
    }
    if let Some(dir) = cgroup.legacy_dir("cpu") {
        let cpu: &mut CPUStat = metrics.cpu.mut_or_insert_default();
        cpu.throttling = Some(throttling(&dir)).into();
    }
    if let Some(dir) = cgroup.legacy_dir("memory") {
        metrics.memory = Some(memory(&dir)).into();
        let control = Flat::read(&dir, "memory.oom_control");
        metrics.memory_oom_control = Some(MemoryOomControl {
            oom_kill_disable: control.get("oom_kill_disable"),
            under_oom: control.get("under_oom"),
            oom_kill: control.get("oom_kill"),
            ..MemoryOomControl::default()
        })
        .into();
    }
    if let Some(dir) = cgroup.legacy_dir("blkio") {
        metrics.blkio = Some(blkio(&dir)).into();
    }
    if let Some(dir) = cgroup.legacy_dir("hugetlb") {
        metrics.hugetlb = hugetlb(&dir);
    }
    if let Some(dir) = cgroup.legacy_dir("rdma") {
        let entries = |name| rdma(&dir, name).into_iter().map(rdma_entry).collect();
        let (current, limit) = (entries("rdma.current"), entries("rdma.max"));
        metrics.rdma = Some(RdmaStat { current, limit, ..RdmaStat::default() }).into();
    }
    metrics
}

fn pids(dir: &Path) -> PidsStat {
    // containerd writes "no limit" as zero here.
    let limit = Some(number(dir, "pids.max")).filter(|&limit| limit != u64::MAX).unwrap_or(0);
    PidsStat { current: number(dir, "pids.current"), limit, ..PidsStat::default() }
}

fn cpu_usage(dir: &Path) -> CPUUsage {
    let ticks = Flat::read(dir, "cpuacct.stat");
    CPUUsage {
        total: number(dir, "cpuacct.usage"),
        user: ticks.get("user") * NANOSECONDS_A_TICK,
        kernel: ticks.get("system") * NANOSECONDS_A_TICK,
        per_cpu: text(dir, "cpuacct.usage_percpu").split_ascii_whitespace().map(parse).collect(),
        ..CPUUsage::default()
    }
}

fn throttling(dir: &Path) -> Throttle {
    let stat = Flat::read(dir, "cpu.stat");
    Throttle {
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: stat.get("throttled_time"),
        ..Throttle::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = Flat::read(dir, "memory.stat");
    let entry = |module: &str| {
        let file = |what: &str| number(dir, &format!("memory.{module}{what}"));
        let entry = MemoryEntry {
            limit: file("limit_in_bytes"),
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
            ..MemoryEntry::default()
        };
        Some(entry).into()
    };
    MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..MemoryStat::default()
    }
}

fn blkio(dir: &Path) -> BlkIOStat {
    let names = device_names(&fs::read_to_string("/proc/diskstats").unwrap_or_default());
    let entries = |file: &str| blkio_entries(&text(dir, file), &names);
    // Without the CFQ and BFQ schedulers only the throttling policy counts.
    let scheduler = "blkio.io_serviced_recursive";
    if text(dir, scheduler).lines().filter(|line| !line.starts_with("Total")).count() == 0 {
        return BlkIOStat {
            io_service_bytes_recursive: entries("blkio.throttle.io_service_bytes"),
            io_serviced_recursive: entries("blkio.throttle.io_serviced"),
            ..BlkIOStat::default()
        };
    }
    BlkIOStat {
        io_service_bytes_recursive: entries("blkio.io_service_bytes_recursive"),
        io_serviced_recursive: entries(scheduler),
        io_queued_recursive: entries("blkio.io_queued_recursive"),
        io_service_time_recursive: entries("blkio.io_service_time_recursive"),
        io_wait_time_recursive: entries("blkio.io_wait_time_recursive"),
        io_merged_recursive: entries("blkio.io_merged_recursive"),
        io_time_recursive: entries("blkio.time_recursive"),
        sectors_recursive: entries("blkio.sectors_recursive"),
        ..BlkIOStat::default()
    }
}

/// Lines of `major:minor operation value`, or `major:minor value` for files that count no operations.
fn blkio_entries(text: &str, names: &[((u64, u64), String)]) -> Vec<BlkIOEntry> {
    let line = |line: &str| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let (op, value) = match words[..] {
            [_, op, value] => (op, value),
            [_, value] => ("", value),
            _ => return None,
        };
        let (major, minor) = device(words[0])?;
        let name = names.iter().find(|(number, _)| *number == (major, minor)).map(|(_, name)| name.clone());
        let (op, value) = (op.to_owned(), parse(value));
        Some(BlkIOEntry { op, device: name.unwrap_or_default(), major, minor, value, ..BlkIOEntry::default() })
    };
    text.lines().filter_map(line).collect()
}

/// Paths of block devices by their numbers, from `/proc/diskstats`.
fn device_names(diskstats: &str) -> Vec<((u64, u64), String)> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let number = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((number, format!("/dev/{}", words.next()?)))
    };
    diskstats.lines().filter_map(line).collect()
}

fn hugetlb(dir: &Path) -> Vec<HugetlbStat> {
    let stat = |pagesize: String| HugetlbStat {
        usage: number(dir, &format!("hugetlb.{pagesize}.usage_in_bytes")),
        max: number(dir, &format!("hugetlb.{pagesize}.max_usage_in_bytes")),
        failcnt: number(dir, &format!("hugetlb.{pagesize}.failcnt")),
        pagesize,
        ..HugetlbStat::default()
    };
    huge_page_sizes(dir, "usage_in_bytes").into_iter().map(stat).collect()
}

fn rdma_entry((device, hca_handles, hca_objects): (String, u32, u32)) -> RdmaEntry {
    RdmaEntry { device, hca_handles, hca_objects, ..RdmaEntry::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_devices_get_their_names() {
        let names = device_names("   8       0 sda 1 2 3\n 254       0 vda 1 2 3\n");
        let entries = blkio_entries("254:0 Read 4096\n9:9 Write 1\n254:0 12\nTotal 4097\n", &names);
        let seen: Vec<_> = entries.iter().map(|e| (e.op.as_str(), e.device.as_str(), e.value)).collect();
        assert_eq!(seen, [("Read", "/dev/vda", 4096), ("Write", "", 1), ("", "/dev/vda", 12)]);
    }
}
