//! Settings of cgroup v1. <https://docs.kernel.org/admin-guide/cgroup-v1/index.html>

use super::{
    file,
    setting::{Otherwise, Setting},
    values::{self, RATES, Rate},
};
use crate::{
    error::{At, Error, Result},
    spec::{BlockIo, Cpu, Memory, Resources},
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

/// The writes that make these resources, in their order. Devices are not among them.
pub fn settings_v1(resources: &Resources) -> Result<Vec<Setting>> {
    if !resources.unified.is_empty() {
        return Err(Error::invalid(
            "linux.resources.unified",
            "invalid configuration: cannot use unified on cgroup v1",
        ));
    }
    let mut settings = Vec::new();
    let add = &mut settings;
    values::cpuset(&resources.cpu, add);
    memory(&resources.memory, add)?;
    cpu(&resources.cpu, add)?;
    values::pids(resources, add);
    block_io(&resources.block_io, add)?;
    values::hugepages(resources, "limit_in_bytes", add)?;
    network(resources, add)?;
    values::rdma(resources, add)?;
    values::idle_has_no_weight(add);
    Ok(settings)
}

fn memory(memory: &Memory, add: &mut Vec<Setting>) -> Result<()> {
    let (limit, swap) = values::memory(memory)?;
    if let Some(limit) = limit {
        // The kernel keeps limit <= memsw at every moment. Lowering both works in this order; raising the limit past the old
        // memsw is refused, and works after memsw was raised.
        add.push(
            Setting::new("memory", "memory.limit_in_bytes", limit, "linux.resources.memory.limit").or(Otherwise::Later),
        );
    }
    let memsw =
        |value: i64| Setting::new("memory", "memory.memsw.limit_in_bytes", value, "linux.resources.memory.swap");
    match (limit, swap) {
        (_, Some(swap)) => add.push(memsw(swap)),
        // No limit on memory means none on memory with swap.
        (Some(-1), None) => add.push(memsw(-1).or(Otherwise::Absent)),
        _ => {}
    }
    if let Some(reservation) = memory.reservation.filter(|&it| it != 0) {
        let field = "linux.resources.memory.reservation";
        add.push(Setting::new("memory", "memory.soft_limit_in_bytes", reservation, field));
    }
    if memory.disable_oom_killer == Some(true) {
        add.push(Setting::new("memory", "memory.oom_control", 1, "linux.resources.memory.disableOOMKiller"));
    }
    if let Some(swappiness) = memory.swappiness {
        const FIELD: &str = "linux.resources.memory.swappiness";
        if swappiness > 100 {
            return Err(Error::invalid(FIELD, format!("{swappiness} is outside 0 to 100")));
        }
        add.push(Setting::new("memory", "memory.swappiness", swappiness, FIELD));
    }
    Ok(())
}

fn cpu(cpu: &Cpu, add: &mut Vec<Setting>) -> Result<()> {
    // Before the shares: they are refused until the cgroup is not idle any more.
    values::idle(cpu, add);
    if let Some(shares) = cpu.shares.filter(|&it| it != 0) {
        const FIELD: &str = "linux.resources.cpu.shares";
        // The kernel would take the nearest that it allows, and say nothing.
        match shares {
            0..2 => return Err(Error::invalid(FIELD, "the minimum allowed cpu-shares is 2")),
            2..=262_144 => add.push(Setting::new("cpu", "cpu.shares", shares, FIELD)),
            _ => return Err(Error::invalid(FIELD, "the maximum allowed cpu-shares is 262144")),
        }
    }
    // Each of the two can be refused for the old value of the quota, which a parent's limit bounds.
    if let Some(period) = cpu.period.filter(|&it| it != 0) {
        add.push(Setting::new("cpu", "cpu.cfs_period_us", period, "linux.resources.cpu.period").or(Otherwise::Later));
    }
    if let Some(burst) = cpu.burst {
        add.push(Setting::new("cpu", "cpu.cfs_burst_us", burst, "linux.resources.cpu.burst").or(Otherwise::Later));
    }
    if let Some(quota) = cpu.quota.filter(|&it| it != 0) {
        add.push(Setting::new("cpu", "cpu.cfs_quota_us", quota.max(-1), "linux.resources.cpu.quota"));
    }
    if let Some(period) = cpu.realtime_period.filter(|&it| it != 0) {
        let field = "linux.resources.cpu.realtimePeriod";
        add.push(Setting::new("cpu", "cpu.rt_period_us", period, field).or(Otherwise::Later));
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|&it| it != 0) {
        add.push(Setting::new("cpu", "cpu.rt_runtime_us", runtime, "linux.resources.cpu.realtimeRuntime"));
    }
    Ok(())
}

fn block_io(block_io: &BlockIo, add: &mut Vec<Setting>) -> Result<()> {
    // CFQ had the names without "bfq" and went in Linux 5.0.
    let weighted = |file: &'static str, bfq: &'static str, value: String, field: String| {
        Setting::new("blkio", file, value.clone(), field).or(Otherwise::Else(bfq.into(), value))
    };
    if let Some(weight) = block_io.weight.filter(|&it| it != 0) {
        let field = "linux.resources.blockIO.weight".to_owned();
        add.push(weighted("blkio.weight", "blkio.bfq.weight", values::weight(weight, &field)?.to_string(), field));
    }
    if let Some(weight) = block_io.leaf_weight.filter(|&it| it != 0) {
        const FIELD: &str = "linux.resources.blockIO.leafWeight";
        add.push(Setting::new("blkio", "blkio.leaf_weight", values::weight(weight, FIELD)?, FIELD));
    }
    for (index, device) in block_io.weight_device.iter().enumerate() {
        let field = format!("linux.resources.blockIO.weightDevice[{index}]");
        let line =
            |weight| values::weight(weight, &field).map(|weight| format!("{}:{} {weight}", device.major, device.minor));
        if let Some(weight) = device.weight.filter(|&it| it != 0) {
            let value = line(weight)?;
            add.push(weighted("blkio.weight_device", "blkio.bfq.weight_device", value, field.clone()));
        }
        if let Some(weight) = device.leaf_weight.filter(|&it| it != 0) {
            let value = line(weight)?;
            add.push(Setting::new("blkio", "blkio.leaf_weight_device", value, field));
        }
    }
    for Rate { field, v1, devices, .. } in RATES {
        for (index, device) in devices(block_io).iter().enumerate() {
            let value = format!("{}:{} {}", device.major, device.minor, device.rate);
            add.push(Setting::new("blkio", v1, value, format!("linux.resources.blockIO.{field}[{index}]")));
        }
    }
    Ok(())
}

fn network(resources: &Resources, add: &mut Vec<Setting>) -> Result<()> {
    if let Some(class) = resources.network.class_id.filter(|&it| it != 0) {
        add.push(Setting::new("net_cls", "net_cls.classid", class, "linux.resources.network.classID"));
    }
    for (index, it) in resources.network.priorities.iter().enumerate() {
        let field = format!("linux.resources.network.priorities[{index}].name");
        values::one_word(&it.name, &field)?;
        add.push(Setting::new("net_prio", "net_prio.ifpriomap", format!("{} {}", it.name, it.priority), field));
    }
    Ok(())
}

/// Gives a cpuset cgroup the processors and memory nodes of its parent where it has none: v1 lets no process in before.
pub(super) fn inherit_cpuset(mount: &Path, path: &Path, dir: BorrowedFd<'_>) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(mount, path, dir, file).at_with(|| format!("inherit {file} of {}", mount.join(path).display()))?;
    }
    Ok(())
}

/// The same for the cgroups above it only: what the configuration gives the cgroup itself may exclude the parent's set.
pub(super) fn inherit_cpuset_above(mount: &Path, path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let dir = mount.join(parent);
    let above = file::open_dir(&dir).at_with(|| format!("open cgroup {}", dir.display()))?;
    inherit_cpuset(mount, parent, above.as_fd())
}

fn inherit(mount: &Path, path: &Path, dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<String> {
    let own = file::read(dir, name)?;
    let Some(parent) = path.parent().filter(|_| own.trim().is_empty()) else { return Ok(own) };
    let above = file::open_dir(&mount.join(parent))?;
    let value = inherit(mount, parent, above.as_fd(), name)?;
    file::write(dir, name, value.trim())?;
    Ok(value)
}

#[cfg(test)]
mod tests;
