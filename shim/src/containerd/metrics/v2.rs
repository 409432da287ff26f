//! Version 2: one directory.

use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};

use super::files::{Flat, device, huge_page_sizes, number, parse, rdma, text};

pub(super) fn collect(dir: &Path) -> Metrics {
    let pids = PidsStat {
        current: number(dir, "pids.current"),
        limit: number(dir, "pids.max"),
        ..PidsStat::default()
    };
    let rdma_entries = |name| rdma(dir, name).into_iter().map(rdma_entry).collect();
    let rdma = RdmaStat {
        current: rdma_entries("rdma.current"),
        limit: rdma_entries("rdma.max"),
        ..RdmaStat::default()
    };
    let io = IOStat {
        usage: io(&text(dir, "io.stat")),
        psi: pressure(dir, "io.pressure").into(),
        ..IOStat::default()
    };
    let events = Flat::read(dir, "memory.events");
    Metrics {
        pids: Some(pids).into(),
        cpu: Some(cpu(dir)).into(),
        memory: Some(memory(dir)).into(),
        rdma: Some(rdma).into(),
        io: Some(io).into(),
        hugetlb: hugetlb(dir),
        memory_events: Some(MemoryEvents {
            low: events.get("low"),
            high: events.get("high"),
            max: events.get("max"),
            oom: events.get("oom"),
            oom_kill: events.get("oom_kill"),
            oom_group_kill: events.get("oom_group_kill"),
            ..MemoryEvents::default()
        })
        .into(),
        ..Metrics::default()
    }
}

fn cpu(dir: &Path) -> CPUStat {
    let stat = Flat::read(dir, "cpu.stat");
    CPUStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
        psi: pressure(dir, "cpu.pressure").into(),
        ..CPUStat::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = Flat::read(dir, "memory.stat");
    MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        // Kernels since 5.9 count anonymous and file pages apart.
        workingset_refault: either(&stat, "workingset_refault"),
        workingset_activate: either(&stat, "workingset_activate"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        usage: number(dir, "memory.current"),
        usage_limit: number(dir, "memory.max"),
        max_usage: number(dir, "memory.peak"),
        swap_usage: number(dir, "memory.swap.current"),
        swap_limit: number(dir, "memory.swap.max"),
        swap_max_usage: number(dir, "memory.swap.peak"),
        psi: pressure(dir, "memory.pressure").into(),
        ..MemoryStat::default()
    }
}

fn either(stat: &Flat, key: &str) -> u64 {
    stat.get(key) + stat.get(&format!("{key}_anon")) + stat.get(&format!("{key}_file"))
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; none if the kernel does not account pressure.
fn pressure(dir: &Path, name: &str) -> Option<PSIStats> {
    parse_pressure(&text(dir, name))
}

fn parse_pressure(text: &str) -> Option<PSIStats> {
    let mut stats = PSIStats::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next()?;
        let mut data = PSIData::new();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = parse(value),
                _ => {}
            }
        }
        match kind {
            "some" => stats.some = Some(data).into(),
            "full" => stats.full = Some(data).into(),
            _ => {}
        }
    }
    (stats.some.is_some() || stats.full.is_some()).then_some(stats)
}

/// Lines of `major:minor rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn io(text: &str) -> Vec<IOEntry> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = device(words.next()?)?;
        let mut entry = IOEntry {
            major,
            minor,
            ..IOEntry::default()
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "rbytes" => entry.rbytes = parse(value),
                "wbytes" => entry.wbytes = parse(value),
                "rios" => entry.rios = parse(value),
                "wios" => entry.wios = parse(value),
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(line).collect()
}

fn hugetlb(dir: &Path) -> Vec<HugeTlbStat> {
    let stat = |pagesize: String| HugeTlbStat {
        current: number(dir, &format!("hugetlb.{pagesize}.current")),
        max: number(dir, &format!("hugetlb.{pagesize}.max")),
        failcnt: Flat::read(dir, &format!("hugetlb.{pagesize}.events")).get("max"),
        pagesize,
        ..HugeTlbStat::default()
    };
    huge_page_sizes(dir, "current")
        .into_iter()
        .map(stat)
        .collect()
}

fn rdma_entry((device, hca_handles, hca_objects): (String, u32, u32)) -> RdmaEntry {
    RdmaEntry {
        device,
        hca_handles,
        hca_objects,
        ..RdmaEntry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lines() {
        let entries = io("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nbad\n254:1 \n");
        let seen: Vec<_> = entries
            .iter()
            .map(|e| (e.major, e.minor, e.rbytes, e.wbytes, e.rios, e.wios))
            .collect();
        assert_eq!(seen, [(8, 0, 1, 2, 3, 4), (254, 1, 0, 0, 0, 0)]);
        let psi = parse_pressure("some avg10=1.50 avg60=0.20 avg300=0.00 total=77\n").unwrap();
        assert!((psi.some.avg10 - 1.5).abs() < f64::EPSILON);
        assert_eq!((psi.some.total, psi.full.is_none()), (77, true));
        assert!(parse_pressure("").is_none());
    }
}
