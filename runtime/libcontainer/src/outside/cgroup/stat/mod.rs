//! What a container uses, as `runtime events` prints it: runc's names, units and omissions, which monitoring tools read.

mod parse;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use super::{Cgroup, Mode};
use crate::error::Result;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// All of it. Times are nanoseconds, sizes bytes.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Processors and memory nodes (v1 only).
    pub cpuset: CpuSet,
    /// Memory.
    pub memory: Memory,
    /// Numbers of processes.
    pub pids: Pids,
    /// Block devices.
    pub blkio: BlockIo,
    /// By page size (`2MB`).
    pub hugetlb: BTreeMap<String, Hugetlb>,
}

/// Processor time.
#[derive(Debug, Default, Serialize)]
pub struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "zero")]
    periods: u64,
    #[serde(skip_serializing_if = "zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "zero")]
    throttled_time: u64,
}

/// Pressure stall information (<https://docs.kernel.org/accounting/psi.html>).
#[derive(Debug, Default, PartialEq, Serialize)]
struct Psi {
    some: Stall,
    full: Stall,
}

/// Averages in percent, the total in microseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Stall {
    #[serde(serialize_with = "short")]
    avg10: f64,
    #[serde(serialize_with = "short")]
    avg60: f64,
    #[serde(serialize_with = "short")]
    avg300: f64,
    total: u64,
}

/// Processors and memory nodes of v1.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

/// Memory. `swap` is memory and swap together, as v1 counts.
#[derive(Debug, Default, Serialize)]
pub struct Memory {
    #[serde(skip_serializing_if = "zero")]
    cache: u64,
    usage: MemoryEntry,
    swap: MemoryEntry,
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryEntry,
    /// memory.stat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct MemoryEntry {
    /// 2^64 - 1 for none.
    limit: u64,
    #[serde(skip_serializing_if = "zero")]
    usage: u64,
    #[serde(skip_serializing_if = "zero")]
    max: u64,
    failcnt: u64,
}

/// Numbers of processes and threads; no limit is left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    #[serde(skip_serializing_if = "zero")]
    current: u64,
    #[serde(skip_serializing_if = "zero")]
    limit: u64,
}

/// Block devices.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_queue_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_wait_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_merged_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sectors_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct BlockIoEntry {
    #[serde(skip_serializing_if = "zero")]
    major: u64,
    #[serde(skip_serializing_if = "zero")]
    minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    op: String,
    #[serde(skip_serializing_if = "zero")]
    value: u64,
}

/// Pages of one size.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hugetlb {
    #[serde(skip_serializing_if = "zero")]
    usage: u64,
    #[serde(skip_serializing_if = "zero")]
    max: u64,
    failcnt: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn zero(value: &u64) -> bool {
    *value == 0
}

/// Whole numbers without a fraction, as Go prints them.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn short<S: Serializer>(value: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && (0.0..1e15).contains(value) {
        serializer.serialize_u64(*value as u64)
    } else {
        serializer.serialize_f64(*value)
    }
}

impl Cgroup {
    /// What the container uses now. Controllers that it does not have are left out.
    pub fn stats(&self) -> Result<Stats> {
        match self.placement().mode {
            Mode::V1 => v1::stats(|controller| self.dir_of(controller)),
            Mode::V2 => self.v2_dir().map_or_else(|| Ok(Stats::default()), v2::stats),
        }
    }
}
