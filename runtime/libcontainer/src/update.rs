//! New limits for a container that lives (`update`).
//!
//! What is asked for is merged with what is in force, because some limits only make sense together: memory with memory and
//! swap, the quota of processor time with its period. The rest of what is in force is not written again, so that what others
//! (systemd, a kubelet) have set meanwhile stays. As in runc, 0 means "leave it", and devices are never touched.

use crate::{
    error::{Error, Kind, Result},
    life::{self, Status},
    outside::cgroup::Cgroup,
    spec::{Resources, Spec, ThrottleDevice, WeightDevice},
    store::Slot,
};

/// Changes the limits of a running, created or paused container to those that `change` names, and puts them on record.
/// `schemata` are lines for its class of Intel RDT.
///
/// # Errors
/// [`Kind::NotRunning`] for a stopped container; a refusal by the kernel, after which the limits are those from before.
pub fn update(slot: &Slot, change: &Resources, schemata: &str) -> Result<()> {
    slot.lock()?;
    let mut state = life::load(slot)?;
    if Status::of(slot, &state) == Status::Stopped {
        return Err(Error::new(Kind::NotRunning, "container not running"));
    }
    let in_force = match state.resources.take() {
        Some(resources) => *resources,
        None => Spec::parse(&slot.config()?)?.linux.resources,
    };
    let (record, writes) = merge(in_force, change);
    let rdt = match &state.rdt {
        None if !schemata.is_empty() => {
            return Err(Error::other("updating a non-existent Intel RDT configuration is not supported"));
        }
        rdt => rdt.as_ref(),
    };
    Cgroup::open(&state.cgroup)?.set(&writes)?;
    if let Some(rdt) = rdt {
        rdt.set(schemata)?;
    }
    state.resources = Some(Box::new(record));
    slot.save(&state)
}

/// What is in force afterwards, and what has to be written for it.
fn merge(in_force: Resources, change: &Resources) -> (Resources, Resources) {
    let mut record = in_force;
    let mut writes = change.clone();
    writes.devices.clear();

    merge_memory(&mut record, &mut writes);
    merge_cpu(&mut record, &mut writes);
    if let Some(pids) = change.pids.as_ref().filter(|pids| pids.limit.is_some()) {
        record.pids = Some(pids.clone());
    }
    merge_block_io(&mut record, change);
    for limit in &change.hugepage_limits {
        match record.hugepage_limits.iter_mut().find(|it| it.page_size == limit.page_size) {
            Some(known) => known.limit = limit.limit,
            None => record.hugepage_limits.push(limit.clone()),
        }
    }
    record.rdma.extend(change.rdma.clone());
    record.unified.extend(change.unified.clone());
    take(&mut record.network.class_id, change.network.class_id);
    for priority in &change.network.priorities {
        match record.network.priorities.iter_mut().find(|it| it.name == priority.name) {
            Some(known) => known.priority = priority.priority,
            None => record.network.priorities.push(priority.clone()),
        }
    }
    (record, writes)
}

fn merge_memory(record: &mut Resources, writes: &mut Resources) {
    let (memory, change) = (&mut record.memory, &mut writes.memory);
    let limits = set(change.limit).is_some() || set(change.swap).is_some();
    if set(change.limit) == Some(-1) && set(change.swap).is_none() {
        // No limit on memory means none on memory and swap, whatever that was.
        memory.swap = None;
    }
    take(&mut memory.limit, change.limit);
    take(&mut memory.swap, change.swap);
    take(&mut memory.reservation, change.reservation);
    memory.swappiness = change.swappiness.or(memory.swappiness);
    memory.disable_oom_killer = change.disable_oom_killer.or(memory.disable_oom_killer);
    if limits {
        (change.limit, change.swap) = (memory.limit, memory.swap);
    }
}

fn merge_cpu(record: &mut Resources, writes: &mut Resources) {
    let (cpu, change) = (&mut record.cpu, &mut writes.cpu);
    let bandwidth = set(change.quota).is_some() || set(change.period).is_some();
    take(&mut cpu.shares, change.shares);
    take(&mut cpu.quota, change.quota);
    take(&mut cpu.period, change.period);
    take(&mut cpu.realtime_runtime, change.realtime_runtime);
    take(&mut cpu.realtime_period, change.realtime_period);
    // Zero is a value of these two.
    cpu.burst = change.burst.or(cpu.burst);
    cpu.idle = change.idle.or(cpu.idle);
    for (known, new) in [(&mut cpu.cpus, &change.cpus), (&mut cpu.mems, &change.mems)] {
        if !new.is_empty() {
            known.clone_from(new);
        }
    }
    if bandwidth {
        (change.quota, change.period) = (cpu.quota, cpu.period);
    }
}

fn merge_block_io(record: &mut Resources, change: &Resources) {
    let (block_io, change) = (&mut record.block_io, &change.block_io);
    take(&mut block_io.weight, change.weight);
    take(&mut block_io.leaf_weight, change.leaf_weight);
    for WeightDevice { major, minor, weight, leaf_weight } in &change.weight_device {
        // Of duplicates the last one is in force.
        match block_io.weight_device.iter_mut().rfind(|it| (it.major, it.minor) == (*major, *minor)) {
            Some(known) => {
                known.weight = weight.or(known.weight);
                known.leaf_weight = leaf_weight.or(known.leaf_weight);
            }
            None => block_io.weight_device.push(WeightDevice {
                major: *major,
                minor: *minor,
                weight: *weight,
                leaf_weight: *leaf_weight,
            }),
        }
    }
    merge_rates(&mut block_io.throttle_read_bps_device, &change.throttle_read_bps_device);
    merge_rates(&mut block_io.throttle_write_bps_device, &change.throttle_write_bps_device);
    merge_rates(&mut block_io.throttle_read_iops_device, &change.throttle_read_iops_device);
    merge_rates(&mut block_io.throttle_write_iops_device, &change.throttle_write_iops_device);
}

fn merge_rates(known: &mut Vec<ThrottleDevice>, change: &[ThrottleDevice]) {
    for device in change {
        match known.iter_mut().rfind(|it| (it.major, it.minor) == (device.major, device.minor)) {
            Some(it) => it.rate = device.rate,
            None => known.push(device.clone()),
        }
    }
}

/// A value that is not "leave it".
fn set<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|it| *it != T::default())
}

fn take<T: Default + PartialEq>(known: &mut Option<T>, new: Option<T>) {
    if let Some(new) = set(new) {
        *known = Some(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Resources {
        crate::spec::parse(json.as_bytes()).unwrap()
    }

    /// Compares as JSON without what is empty.
    fn same(actual: &Resources, expected: &str, what: &str) {
        let json = |it: &Resources| serde_json::to_value(it).unwrap();
        assert_eq!(json(actual), json(&parse(expected)), "{what}");
    }

    #[test]
    fn what_belongs_together_is_written_together() {
        for (in_force, change, record, writes) in [
            (r#"{"cpu":{"quota":5,"period":9}}"#, r#"{"cpu":{"period":8}}"#, r#"{"cpu":{"quota":5,"period":8}}"#, None),
            (
                r#"{"cpu":{"quota":5,"period":9}}"#,
                r#"{"cpu":{"quota":-1}}"#,
                r#"{"cpu":{"quota":-1,"period":9}}"#,
                None,
            ),
            (r#"{"cpu":{"quota":5}}"#, r#"{"cpu":{"quota":0,"shares":0}}"#, r#"{"cpu":{"quota":5}}"#, Some("same")),
            (
                r#"{"cpu":{"quota":5,"idle":1}}"#,
                r#"{"cpu":{"shares":7}}"#,
                r#"{"cpu":{"quota":5,"idle":1,"shares":7}}"#,
                Some(r#"{"cpu":{"shares":7}}"#),
            ),
            (
                r#"{"memory":{"limit":5,"swap":9,"reservation":3}}"#,
                r#"{"memory":{"limit":6}}"#,
                r#"{"memory":{"limit":6,"swap":9,"reservation":3}}"#,
                Some(r#"{"memory":{"limit":6,"swap":9}}"#),
            ),
            (
                r#"{"memory":{"limit":5,"swap":9}}"#,
                r#"{"memory":{"limit":-1}}"#,
                r#"{"memory":{"limit":-1}}"#,
                Some(r#"{"memory":{"limit":-1}}"#),
            ),
            (
                r#"{"memory":{"limit":5,"swap":9}}"#,
                r#"{"memory":{"swap":7}}"#,
                r#"{"memory":{"limit":5,"swap":7}}"#,
                None,
            ),
            (
                r#"{"memory":{"limit":5}}"#,
                r#"{"memory":{"reservation":2}}"#,
                r#"{"memory":{"limit":5,"reservation":2}}"#,
                Some(r#"{"memory":{"reservation":2}}"#),
            ),
            (r#"{"pids":{"limit":5}}"#, r#"{"pids":{"limit":0}}"#, r#"{"pids":{"limit":0}}"#, None),
            (r#"{"pids":{"limit":5}}"#, r#"{"pids":{}}"#, r#"{"pids":{"limit":5}}"#, Some(r#"{"pids":{}}"#)),
            (
                r#"{"unified":{"a.b":"1"}}"#,
                r#"{"unified":{"c.d":"2"}}"#,
                r#"{"unified":{"a.b":"1","c.d":"2"}}"#,
                Some(r#"{"unified":{"c.d":"2"}}"#),
            ),
        ] {
            let (kept, written) = merge(parse(in_force), &parse(change));
            same(&kept, record, &format!("record of {in_force} and {change}"));
            let writes = writes.map_or(record, |it| if it == "same" { change } else { it });
            same(&written, writes, &format!("writes of {in_force} and {change}"));
        }
    }

    #[test]
    fn devices_stay_and_rates_are_found_by_number() {
        let (record, writes) = merge(
            parse(
                r#"{"devices":[{"allow":true}],"blockIO":{"throttleReadBpsDevice":[
                    {"major":8,"minor":0,"rate":1},{"major":8,"minor":0,"rate":2}],
                    "weightDevice":[{"major":8,"minor":0,"weight":10}]}}"#,
            ),
            &parse(
                r#"{"devices":[{"allow":false}],"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":3}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":4}],
                    "weightDevice":[{"major":8,"minor":0,"leafWeight":20}]}}"#,
            ),
        );
        assert!(record.devices[0].allow && writes.devices.is_empty());
        let rates: Vec<u64> = record.block_io.throttle_read_bps_device.iter().map(|it| it.rate).collect();
        assert_eq!(rates, [1, 3]);
        assert_eq!(record.block_io.throttle_write_iops_device[0].rate, 4);
        let weights = &record.block_io.weight_device[0];
        assert_eq!((weights.weight, weights.leaf_weight), (Some(10), Some(20)));
    }
}
