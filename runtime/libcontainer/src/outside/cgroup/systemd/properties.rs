//! What is written to a cgroup's files, as properties of its unit: systemd would otherwise take back what it does not know
//! of, at the latest when it is reloaded. <https://www.freedesktop.org/wiki/Software/systemd/dbus/>,
//! `systemd.resource-control(5)`.

use super::wire::Value;
use crate::{
    error::{Error, Result},
    outside::cgroup::{Mode, setting::Setting},
};

/// No limit, as systemd writes it.
const INFINITY: u64 = u64::MAX;
/// The kernel's own period, in microseconds.
const PERIOD: u64 = 100_000;
/// `NR_CPUS` of the largest kernels; one that is listed takes a bit.
const MAX_CPUS: u32 = 8192;
/// From here on a weight of 0 means `cpu.idle`.
const KNOWS_IDLE: u32 = 252;

/// The properties that say the same as the settings. What systemd has no property for is left to the files. `version` is
/// asked only where it matters.
///
/// systemd keeps a share of processor time in whole percents of one processor: a finer quota is rounded up here, in the
/// setting as well, so that both sides write the same.
pub(super) fn properties(
    mode: Mode,
    settings: &mut [Setting],
    version: impl FnOnce() -> Result<u32>,
) -> Result<Vec<(String, Value)>> {
    let mut all: Vec<(String, Value)> = Vec::new();
    let mut idle = false;
    for setting in settings.iter_mut() {
        let value = setting.value.trim().to_owned();
        let property = match (mode, &*setting.file) {
            (Mode::V2, "memory.max") => ("MemoryMax", limit(setting, &value)?),
            (Mode::V2, "memory.high") => ("MemoryHigh", limit(setting, &value)?),
            (Mode::V2, "memory.low") => ("MemoryLow", limit(setting, &value)?),
            (Mode::V2, "memory.min") => ("MemoryMin", limit(setting, &value)?),
            (Mode::V2, "memory.swap.max") => ("MemorySwapMax", limit(setting, &value)?),
            (Mode::V2, "cpu.weight") => ("CPUWeight", limit(setting, &value)?),
            (Mode::V2, "cpu.idle") => {
                idle = value == "1";
                continue;
            }
            (Mode::V2, "io.weight") => match value.strip_prefix("default ").unwrap_or(&value).parse() {
                Ok(weight) => ("IOWeight", Value::U64(weight)),
                // One of a device.
                Err(_) => continue,
            },
            (Mode::V2, "io.bfq.weight") => match io_weight(setting) {
                Some(weight) => ("IOWeight", Value::U64(weight)),
                None => continue,
            },
            (Mode::V2, "cpu.max") => {
                let (per_second, period) = quota(setting, &value)?;
                replace(&mut all, "CPUQuotaPeriodUSec", Value::U64(period));
                ("CPUQuotaPerSecUSec", Value::U64(per_second))
            }
            (Mode::V1, "memory.limit_in_bytes") => ("MemoryLimit", limit(setting, &value)?),
            (Mode::V1, "cpu.shares") => ("CPUShares", limit(setting, &value)?),
            (Mode::V1, "blkio.weight") => ("BlockIOWeight", limit(setting, &value)?),
            (_, "cpuset.cpus") if !value.is_empty() => ("AllowedCPUs", bits(setting, &value)?),
            (_, "cpuset.mems") if !value.is_empty() => ("AllowedMemoryNodes", bits(setting, &value)?),
            (_, "pids.max") => match limit(setting, &value)? {
                // systemd has no 0 there.
                Value::U64(0) => ("TasksMax", Value::U64(1)),
                tasks => ("TasksMax", tasks),
            },
            _ => continue,
        };
        replace(&mut all, property.0, property.1);
    }
    if mode == Mode::V1 {
        quota_v1(settings, &mut all)?;
    }
    if idle && version()? >= KNOWS_IDLE {
        replace(&mut all, "CPUWeight", Value::U64(0));
    }
    Ok(all)
}

/// A later setting, of the user's own text, wins over an earlier one.
fn replace(all: &mut Vec<(String, Value)>, name: &str, value: Value) {
    all.retain(|(other, _)| other != name);
    all.push((name.to_owned(), value));
}

fn limit(setting: &Setting, value: &str) -> Result<Value> {
    match value {
        "max" | "-1" => Ok(Value::U64(INFINITY)),
        number => number.parse().map(Value::U64).map_err(|_| no_value(setting)),
    }
}

fn no_value(setting: &Setting) -> Error {
    Error::invalid(
        &setting.field,
        format!("value conversion error: {:?} is no value of {}", setting.value, setting.file),
    )
}

/// The weight for the cost model, beside the one for BFQ.
fn io_weight(setting: &Setting) -> Option<u64> {
    match &setting.otherwise {
        crate::outside::cgroup::Otherwise::Else(_, cost) => cost.parse().ok(),
        _ => None,
    }
}

/// Microseconds of processor time in a second, and the period, of `cpu.max`. Rounds the setting.
fn quota(setting: &mut Setting, value: &str) -> Result<(u64, u64)> {
    let mut words = value.split_whitespace();
    let (quota, period) = (words.next(), words.next());
    let parse = |word: &str| word.parse::<u64>().ok().filter(|&it| it > 0);
    let period = period.map_or(Some(PERIOD), parse);
    let (Some(quota), Some(period), None) = (quota, period, words.next()) else { return Err(no_value(setting)) };
    if quota == "max" {
        return Ok((INFINITY, period));
    }
    let quota = parse(quota).ok_or_else(|| no_value(setting))?;
    let (per_second, rounded) = rounded(quota, period).ok_or_else(|| no_value(setting))?;
    setting.value = format!("{rounded} {period}");
    Ok((per_second, period))
}

/// The two files of v1 are one property.
fn quota_v1(settings: &mut [Setting], all: &mut Vec<(String, Value)>) -> Result<()> {
    let find = |file: &str| settings.iter().position(|it| it.file == file);
    let (quota_at, period_at) = (find("cpu.cfs_quota_us"), find("cpu.cfs_period_us"));
    let period = match period_at.and_then(|at| settings.get(at)) {
        Some(setting) => Some(setting.value.parse::<u64>().ok().filter(|&it| it > 0).ok_or_else(|| no_value(setting))?),
        None => None,
    };
    if let Some(period) = period {
        replace(all, "CPUQuotaPeriodUSec", Value::U64(period));
    }
    let mut per_second = INFINITY;
    match quota_at.and_then(|at| settings.get_mut(at)) {
        Some(setting) if !setting.value.starts_with('-') => {
            let quota = setting.value.parse().map_err(|_| no_value(setting))?;
            let (share, rounded) = rounded(quota, period.unwrap_or(PERIOD)).ok_or_else(|| no_value(setting))?;
            per_second = share;
            setting.value = rounded.to_string();
        }
        None if period.is_none() => return Ok(()),
        _ => {}
    }
    replace(all, "CPUQuotaPerSecUSec", Value::U64(per_second));
    Ok(())
}

/// Microseconds in a second, up to the next percent, and the quota that comes of it.
fn rounded(quota: u64, period: u64) -> Option<(u64, u64)> {
    let per_second = quota.checked_mul(1_000_000)? / period;
    if per_second.is_multiple_of(10_000) {
        return Some((per_second, quota));
    }
    let per_second = per_second.next_multiple_of(10_000);
    Some((per_second, per_second.checked_mul(period)? / 1_000_000))
}

/// A list such as `0-2,5` as a bit for each number, the lowest first.
fn bits(setting: &Setting, list: &str) -> Result<Value> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&it| it < MAX_CPUS);
    let mut bytes: Vec<u8> = Vec::new();
    for range in list.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Some(first), Some(last)) = (number(first), number(last)) else { return Err(no_value(setting)) };
        if first > last {
            return Err(no_value(setting));
        }
        for one in first..=last {
            let at = one as usize / 8;
            bytes.resize(bytes.len().max(at + 1), 0);
            if let Some(byte) = bytes.get_mut(at) {
                *byte |= 1 << (one % 8);
            }
        }
    }
    if bytes.is_empty() { Err(no_value(setting)) } else { Ok(Value::bytes(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outside::cgroup::{settings_v1, settings_v2},
        spec::Resources,
    };

    fn of(mode: Mode, json: &str, version: u32) -> Result<(String, Vec<Setting>)> {
        let resources: Resources = crate::spec::parse(json.as_bytes()).unwrap();
        let mut settings = if mode == Mode::V2 { settings_v2(&resources)? } else { settings_v1(&resources)? };
        let all = properties(mode, &mut settings, || Ok(version))?;
        let text = |(name, value): &(String, Value)| match value {
            Value::U64(INFINITY) => format!("{name}=infinity"),
            Value::U64(number) => format!("{name}={number}"),
            Value::Array(_, bytes) => format!("{name}={:?}", bytes.iter().map(byte).collect::<Vec<_>>()),
            other => panic!("{other:?}"),
        };
        Ok((all.iter().map(text).collect::<Vec<_>>().join(" "), settings))
    }

    fn byte(value: &Value) -> u8 {
        if let Value::Byte(it) = value { *it } else { panic!("{value:?}") }
    }

    #[test]
    fn v2_settings_are_properties() {
        for (json, expected) in [
            ("{}", ""),
            (r#"{"memory":{"limit":1048576,"reservation":4096}}"#, "MemoryMax=1048576 MemoryLow=4096"),
            (r#"{"memory":{"limit":100,"swap":150}}"#, "MemorySwapMax=50 MemoryMax=100"),
            (r#"{"memory":{"limit":-1}}"#, "MemorySwapMax=infinity MemoryMax=infinity"),
            (r#"{"cpu":{"shares":1024}}"#, "CPUWeight=100"),
            (r#"{"cpu":{"quota":50000}}"#, "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=500000"),
            (r#"{"cpu":{"quota":-1,"period":50000}}"#, "CPUQuotaPeriodUSec=50000 CPUQuotaPerSecUSec=infinity"),
            (r#"{"cpu":{"cpus":"0-1,9","mems":"0"}}"#, "AllowedCPUs=[3, 2] AllowedMemoryNodes=[1]"),
            (r#"{"cpu":{"idle":1,"shares":1024}}"#, "CPUWeight=0"),
            (r#"{"cpu":{"idle":0}}"#, ""),
            (r#"{"pids":{"limit":0}}"#, "TasksMax=1"),
            (r#"{"pids":{"limit":-1}}"#, "TasksMax=infinity"),
            (r#"{"blockIO":{"weight":10}}"#, "IOWeight=1"),
            (
                r#"{"unified":{"memory.max":"max","memory.high":" 5 ","pids.max":"7","io.max":"8:0 rbps=1"}}"#,
                "MemoryHigh=5 MemoryMax=infinity TasksMax=7",
            ),
            (r#"{"memory":{"limit":9},"unified":{"memory.max":"8"}}"#, "MemoryMax=8"),
        ] {
            assert_eq!(of(Mode::V2, json, 252).unwrap().0, expected, "{json}");
        }
        assert_eq!(of(Mode::V2, r#"{"cpu":{"idle":1}}"#, 251).unwrap().0, "");
    }

    #[test]
    fn v1_settings_are_properties() {
        for (json, expected) in [
            (r#"{"memory":{"limit":1048576},"pids":{"limit":5}}"#, "MemoryLimit=1048576 TasksMax=5"),
            (r#"{"cpu":{"shares":512}}"#, "CPUShares=512"),
            (r#"{"cpu":{"quota":50000}}"#, "CPUQuotaPerSecUSec=500000"),
            (r#"{"cpu":{"quota":-1}}"#, "CPUQuotaPerSecUSec=infinity"),
            (r#"{"cpu":{"period":50000}}"#, "CPUQuotaPeriodUSec=50000 CPUQuotaPerSecUSec=infinity"),
            (r#"{"blockIO":{"weight":100}}"#, "BlockIOWeight=100"),
        ] {
            assert_eq!(of(Mode::V1, json, 252).unwrap().0, expected, "{json}");
        }
    }

    #[test]
    fn a_share_of_time_is_rounded_on_both_sides() {
        let (text, settings) = of(Mode::V2, r#"{"cpu":{"quota":12345,"period":100000}}"#, 252).unwrap();
        assert_eq!(text, "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=130000");
        assert_eq!(settings[0].value, "13000 100000");
        let (text, settings) = of(Mode::V1, r#"{"cpu":{"quota":12345}}"#, 252).unwrap();
        assert_eq!((&*text, &*settings[0].value), ("CPUQuotaPerSecUSec=130000", "13000"));
    }

    #[test]
    fn what_is_no_value_names_its_field() {
        for json in [
            r#"{"unified":{"memory.max":"much"}}"#,
            r#"{"unified":{"cpu.max":"1 2 3"}}"#,
            r#"{"unified":{"cpu.max":"5 0"}}"#,
            r#"{"unified":{"cpuset.cpus":"2-1"}}"#,
            r#"{"cpu":{"cpus":"0-4294967295"}}"#,
            r#"{"cpu":{"cpus":","}}"#,
        ] {
            let error = of(Mode::V2, json, 252).unwrap_err().to_string();
            assert!(error.starts_with("linux.resources."), "{json}: {error}");
        }
    }
}
