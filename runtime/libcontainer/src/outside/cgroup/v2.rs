//! Settings of cgroup v2, and handing its controllers down. <https://docs.kernel.org/admin-guide/cgroup-v2.html>

use super::{
    file,
    setting::{Otherwise, Setting},
    values::{self, RATES, Rate},
};
use crate::{
    error::{Error, Result},
    spec::{BlockIo, Cpu, Memory, Resources},
};
use rustix::fs::CWD;
use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

/// The writes that make these resources, in their order. Devices are not among them.
pub fn settings_v2(resources: &Resources) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    let add = &mut settings;
    values::pids(resources, add);
    memory(&resources.memory, add)?;
    block_io(&resources.block_io, add)?;
    cpu(&resources.cpu, add)?;
    values::cpuset(&resources.cpu, add);
    values::hugepages(resources, "max", add)?;
    values::rdma(resources, add)?;
    if resources.network.class_id.is_some_and(|it| it != 0) {
        return Err(only_v1("linux.resources.network.classID"));
    }
    if !resources.network.priorities.is_empty() {
        return Err(only_v1("linux.resources.network.priorities"));
    }
    unified(resources, add)?;
    values::idle_has_no_weight(add);
    Ok(settings)
}

fn only_v1(field: &str) -> Error {
    Error::invalid(field, "cgroup v2 has no such limit; remove the field")
}

fn memory(memory: &Memory, add: &mut Vec<Setting>) -> Result<()> {
    const SWAP: &str = "linux.resources.memory.swap";
    let max = |value: i64| if value == -1 { "max".to_owned() } else { value.to_string() };
    let (limit, swap) = values::memory(memory)?;
    // v1 and the specification count memory and swap together, v2 counts swap alone.
    let swap = match (limit, swap) {
        (Some(-1), None) => Some(-1),
        (_, None | Some(-1)) | (Some(-1), _) => swap,
        (None, _) => return Err(Error::invalid(SWAP, "unable to set swap limit without memory limit")),
        (Some(limit), Some(swap)) => Some(swap - limit),
    };
    if let Some(swap) = swap {
        // A kernel without swap accounting need not be told that there is no swap, or no limit.
        let otherwise = if swap <= 0 { Otherwise::Absent } else { Otherwise::Fail };
        add.push(Setting::new("memory", "memory.swap.max", max(swap), SWAP).or(otherwise));
    }
    if let Some(limit) = limit {
        let setting = Setting::new("memory", "memory.max", max(limit), "linux.resources.memory.limit");
        // Without the controller nothing is limited anyhow.
        add.push(if limit == -1 { setting.or(Otherwise::Absent) } else { setting });
    }
    if let Some(reservation) = memory.reservation.filter(|&it| it != 0) {
        add.push(Setting::new("memory", "memory.low", max(reservation), "linux.resources.memory.reservation"));
    }
    if memory.swappiness.is_some() {
        return Err(only_v1("linux.resources.memory.swappiness"));
    }
    if memory.disable_oom_killer == Some(true) {
        return Err(only_v1("linux.resources.memory.disableOOMKiller"));
    }
    Ok(())
}

fn cpu(cpu: &Cpu, add: &mut Vec<Setting>) -> Result<()> {
    // Before the weight: it is refused until the cgroup is not idle any more.
    values::idle(cpu, add);
    if let Some(shares) = cpu.shares.filter(|&it| it != 0) {
        add.push(Setting::new("cpu", "cpu.weight", weight_of_shares(shares), "linux.resources.cpu.shares"));
    }
    if let Some(burst) = cpu.burst {
        // A burst above the old quota is refused.
        add.push(Setting::new("cpu", "cpu.max.burst", burst, "linux.resources.cpu.burst").or(Otherwise::Later));
    }
    let (quota, period) = (cpu.quota.filter(|&it| it != 0), cpu.period.filter(|&it| it != 0));
    if quota.is_some() || period.is_some() {
        let max = quota.filter(|&it| it > 0).map_or_else(|| "max".to_owned(), |it| it.to_string());
        let field = if quota.is_some() { "linux.resources.cpu.quota" } else { "linux.resources.cpu.period" };
        // 100 ms is the kernel's own period.
        add.push(Setting::new("cpu", "cpu.max", format!("{max} {}", period.unwrap_or(100_000)), field));
    }
    if cpu.realtime_runtime.is_some_and(|it| it != 0) {
        return Err(only_v1("linux.resources.cpu.realtimeRuntime"));
    }
    if cpu.realtime_period.is_some_and(|it| it != 0) {
        return Err(only_v1("linux.resources.cpu.realtimePeriod"));
    }
    Ok(())
}

/// v1's 2 to 262144 with default 1024 as v2's 1 to 10000 with default 100: the power of ten whose exponent is quadratic in the
/// logarithm, which meets all three.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        #[allow(clippy::cast_precision_loss)] // below 2^18
        _ => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

fn block_io(block_io: &BlockIo, add: &mut Vec<Setting>) -> Result<()> {
    // BFQ has its own file with v1's units; the cost model's weights go up to 10000.
    let weighted = |device: &str, weight: u16, field: String| {
        let cost = 1 + (u64::from(weight) - 10) * 9999 / 990;
        Setting::new("io", "io.bfq.weight", format!("{device}{weight}"), field)
            .or(Otherwise::Else("io.weight".into(), format!("{device}{cost}")))
    };
    if let Some(weight) = block_io.weight.filter(|&it| it != 0) {
        let field = "linux.resources.blockIO.weight".to_owned();
        add.push(weighted("", values::weight(weight, &field)?, field));
    }
    if block_io.leaf_weight.is_some_and(|it| it != 0) {
        return Err(only_v1("linux.resources.blockIO.leafWeight"));
    }
    for (index, device) in block_io.weight_device.iter().enumerate() {
        let field = format!("linux.resources.blockIO.weightDevice[{index}]");
        if device.leaf_weight.is_some_and(|it| it != 0) {
            return Err(only_v1(&format!("{field}.leafWeight")));
        }
        if let Some(weight) = device.weight.filter(|&it| it != 0) {
            let numbers = format!("{}:{} ", device.major, device.minor);
            add.push(weighted(&numbers, values::weight(weight, &field)?, field));
        }
    }
    for Rate { field, v2, devices, .. } in RATES {
        for (index, device) in devices(block_io).iter().enumerate() {
            let value = format!("{}:{} {v2}={}", device.major, device.minor, device.rate);
            add.push(Setting::new("io", "io.max", value, format!("linux.resources.blockIO.{field}[{index}]")));
        }
    }
    Ok(())
}

fn unified(resources: &Resources, add: &mut Vec<Setting>) -> Result<()> {
    for (file, value) in &resources.unified {
        let field = format!("linux.resources.unified[{file:?}]");
        if file.contains(['/', '\0']) {
            return Err(Error::invalid(field, format!("unified resource {file:?} must be a file name (no slashes)")));
        }
        let Some((controller, _)) =
            file.split_once('.').filter(|(controller, rest)| !controller.is_empty() && !rest.is_empty())
        else {
            let rule = format!("unified resource {file:?} must be in the form CONTROLLER.PARAMETER");
            return Err(Error::invalid(field, rule));
        };
        // These act on processes, the host's among them, and are no limits.
        if ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze"].contains(&file.as_str()) {
            return Err(Error::invalid(field, "is not a resource"));
        }
        add.push(Setting {
            controller: controller.to_owned().into(),
            file: file.clone().into(),
            value: value.clone(),
            field: field.into(),
            otherwise: Otherwise::Lines,
        });
    }
    Ok(())
}

/// Hands every controller that the hierarchy has down to a cgroup: limits need them, and so do statistics of a container
/// without limits. What an ancestor refuses stays away, and the setting that needs it says so.
pub(super) fn enable_controllers(mount: &Path, path: &Path, dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let all = file::read_short(CWD, &*mount.join("cgroup.controllers"))?;
    let missing = missing(&all, &file::read_short(dir, "cgroup.controllers")?);
    if missing.is_empty() {
        return Ok(());
    }
    // From the top: a cgroup can hand down only what it was handed.
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for ancestor in above {
        let dir = file::open_dir(&mount.join(ancestor))?;
        let handed = file::read_short(dir.as_fd(), "cgroup.subtree_control").unwrap_or_default();
        let wanted: Vec<String> = missing
            .iter()
            .filter(|it| !handed.split_whitespace().any(|have| have == **it))
            .map(|it| format!("+{it}"))
            .collect();
        if wanted.is_empty() || file::write(dir.as_fd(), "cgroup.subtree_control", &wanted.join(" ")).is_ok() {
            continue;
        }
        // All or nothing: one that cannot be had here would keep the others away.
        for one in &wanted {
            let _ = file::write(dir.as_fd(), "cgroup.subtree_control", one);
        }
    }
    Ok(())
}

fn missing<'a>(all: &'a str, have: &str) -> Vec<&'a str> {
    all.split_whitespace().filter(|it| !have.split_whitespace().any(|had| had == *it)).collect()
}

#[cfg(test)]
mod tests;
