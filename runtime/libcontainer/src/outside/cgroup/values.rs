//! What both versions of cgroups make of a field in the same way.

use super::setting::{Otherwise, Setting};
use crate::{
    error::{Error, Result},
    spec::{BlockIo, Cpu, Memory, Resources, ThrottleDevice},
};

/// One of the four kinds of rate limits on block devices.
pub(super) struct Rate {
    pub(super) field: &'static str,
    pub(super) v1: &'static str,
    pub(super) v2: &'static str,
    pub(super) devices: fn(&BlockIo) -> &[ThrottleDevice],
}

pub(super) const RATES: [Rate; 4] = [
    Rate {
        field: "throttleReadBpsDevice",
        v1: "blkio.throttle.read_bps_device",
        v2: "rbps",
        devices: |it| &it.throttle_read_bps_device,
    },
    Rate {
        field: "throttleWriteBpsDevice",
        v1: "blkio.throttle.write_bps_device",
        v2: "wbps",
        devices: |it| &it.throttle_write_bps_device,
    },
    Rate {
        field: "throttleReadIOPSDevice",
        v1: "blkio.throttle.read_iops_device",
        v2: "riops",
        devices: |it| &it.throttle_read_iops_device,
    },
    Rate {
        field: "throttleWriteIOPSDevice",
        v1: "blkio.throttle.write_iops_device",
        v2: "wiops",
        devices: |it| &it.throttle_write_iops_device,
    },
];

/// Limit of memory and of memory with swap; 0 is "unset", as in runc. The other fields are checked as well.
pub(super) fn memory(memory: &Memory) -> Result<(Option<i64>, Option<i64>)> {
    for (name, value) in [("limit", memory.limit), ("swap", memory.swap), ("reservation", memory.reservation)] {
        if let Some(value) = value.filter(|&it| it < -1) {
            let field = format!("linux.resources.memory.{name}");
            return Err(Error::invalid(field, format!("{value} is neither a number of bytes nor -1 for no limit")));
        }
    }
    if memory.kernel.is_some_and(|it| it != 0) || memory.kernel_tcp.is_some_and(|it| it != 0) {
        // Linux 5.16 removed them; the specification deprecates them, and runc does not set them either.
        tracing::warn!("linux.resources.memory.kernel and kernelTCP are ignored: kernels have no such limits any more");
    }
    let (limit, swap) = (memory.limit.filter(|&it| it != 0), memory.swap.filter(|&it| it != 0));
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap > 0
        && swap < limit
    {
        return Err(Error::invalid("linux.resources.memory.swap", "memory+swap limit should be >= memory limit"));
    }
    Ok((limit, swap))
}

pub(super) fn pids(resources: &Resources, add: &mut Vec<Setting>) {
    if let Some(limit) = resources.pids.as_ref().and_then(|it| it.limit) {
        // 0 would leave no room for the container's own first process; runc and systemd take it for 1.
        let value = if limit < 0 { "max".to_owned() } else { limit.max(1).to_string() };
        let setting = Setting::new("pids", "pids.max", value, "linux.resources.pids.limit");
        // Without the controller nothing is limited anyhow.
        add.push(if limit < 0 { setting.or(Otherwise::Absent) } else { setting });
    }
}

pub(super) fn cpuset(cpu: &Cpu, add: &mut Vec<Setting>) {
    if !cpu.cpus.is_empty() {
        add.push(Setting::new("cpuset", "cpuset.cpus", &cpu.cpus, "linux.resources.cpu.cpus"));
    }
    if !cpu.mems.is_empty() {
        add.push(Setting::new("cpuset", "cpuset.mems", &cpu.mems, "linux.resources.cpu.mems"));
    }
}

pub(super) fn idle(cpu: &Cpu, add: &mut Vec<Setting>) {
    if let Some(idle) = cpu.idle {
        add.push(Setting::new("cpu", "cpu.idle", idle, "linux.resources.cpu.idle"));
    }
}

/// The kernel refuses a weight for a cgroup that is idle: it gets only what others leave, whatever its weight.
pub(super) fn idle_has_no_weight(settings: &mut Vec<Setting>) {
    if settings.iter().rfind(|it| it.file == "cpu.idle").is_none_or(|it| it.value.trim() != "1") {
        return;
    }
    settings.retain(|it| {
        let weight = ["cpu.shares", "cpu.weight", "cpu.weight.nice"].contains(&&*it.file);
        if weight {
            tracing::warn!("{}: unable to apply both {} and cpu.idle, ignoring the former", it.field, it.file);
        }
        !weight
    });
}

pub(super) fn hugepages(resources: &Resources, file: &str, add: &mut Vec<Setting>) -> Result<()> {
    for (index, it) in resources.hugepage_limits.iter().enumerate() {
        let size = &it.page_size;
        let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
        if !number.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit())) {
            let field = format!("linux.resources.hugepageLimits[{index}].pageSize");
            return Err(Error::invalid(field, format!("{size:?} is not a size such as 2MB or 1GB")));
        }
        let field = format!("linux.resources.hugepageLimits[{index}]");
        add.push(Setting::new("hugetlb", format!("hugetlb.{size}.{file}"), it.limit, field.clone()));
        // Reservations are counted apart since Linux 5.7.
        add.push(Setting::new("hugetlb", format!("hugetlb.{size}.rsvd.{file}"), it.limit, field).or(Otherwise::Absent));
    }
    Ok(())
}

pub(super) fn rdma(resources: &Resources, add: &mut Vec<Setting>) -> Result<()> {
    for (device, limits) in &resources.rdma {
        let field = format!("linux.resources.rdma[{device:?}]");
        one_word(device, &field)?;
        let mut value = device.clone();
        for (name, limit) in [("hca_handle", limits.hca_handles), ("hca_object", limits.hca_objects)] {
            if let Some(limit) = limit {
                value = format!("{value} {name}={limit}");
            }
        }
        if value.len() == device.len() {
            return Err(Error::invalid(field, "has neither hcaHandles nor hcaObjects"));
        }
        add.push(Setting::new("rdma", "rdma.max", value, field));
    }
    Ok(())
}

/// A name that becomes part of a line must not bring words of its own.
pub(super) fn one_word(name: &str, field: &str) -> Result<()> {
    if name.is_empty() || name.contains(|it: char| it.is_whitespace() || it.is_control()) {
        return Err(Error::invalid(field, format!("{name:?} is not a device's name")));
    }
    Ok(())
}

/// A weight of block I/O as the specification bounds it.
pub(super) fn weight(weight: u16, field: &str) -> Result<u16> {
    if !(10..=1000).contains(&weight) {
        return Err(Error::invalid(field, format!("{weight} is outside 10 to 1000")));
    }
    Ok(weight)
}
