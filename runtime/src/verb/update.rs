//! `update`: new limits for a container that lives.

use crate::{
    bundle,
    cli::{Global, Update},
};
use libcontainer::{
    At, Error, Kind, Result,
    outside::rdt,
    spec::{Pids, Resources},
};
use std::path::Path;

pub(crate) fn run(global: &Global, args: &Update) -> Result<u8> {
    let change = match args.resources.as_deref() {
        Some(source) => resources_in(source)?,
        None => resources_of(args)?,
    };
    let schemata = schemata_of(args)?;
    let slot = super::find(global, &args.id)?;
    libcontainer::update::update(&slot, &change, &schemata).at_with(|| format!("update {}", args.id))?;
    Ok(0)
}

/// Lines for the container's class of Intel RDT.
fn schemata_of(args: &Update) -> Result<String> {
    let mut lines = String::new();
    for (given, resource, refusal) in [
        (&args.l3_cache_schema, "L3", "Intel RDT/CAT: l3 cache schema is not enabled"),
        (&args.mem_bw_schema, "MB", "Intel RDT/MBA: memory bandwidth schema is not enabled"),
    ] {
        let Some(schema) = given.as_deref().filter(|it| !it.is_empty()) else { continue };
        if !rdt::root().is_some_and(|root| rdt::has(&root, resource)) {
            return Err(Error::new(Kind::Invalid, refusal));
        }
        lines.push_str(schema);
        lines.push('\n');
    }
    Ok(lines)
}

fn resources_in(source: &str) -> Result<Resources> {
    let (name, json) = match source {
        "-" => ("standard input", bundle::read_from(std::io::stdin())),
        path => (path, bundle::read(Path::new(path))),
    };
    libcontainer::spec::parse(&json.at_with(|| format!("read {name}"))?).at_with(|| name.to_owned())
}

fn resources_of(args: &Update) -> Result<Resources> {
    let mut resources = Resources::default();
    let cpu = &mut resources.cpu;
    cpu.period = number("cpu-period", args.cpu_period.as_deref())?;
    cpu.quota = number("cpu-quota", args.cpu_quota.as_deref())?;
    cpu.burst = number("cpu-burst", args.cpu_burst.as_deref())?;
    cpu.shares = number("cpu-share", args.cpu_share.as_deref())?;
    cpu.realtime_period = number("cpu-rt-period", args.cpu_rt_period.as_deref())?;
    cpu.realtime_runtime = number("cpu-rt-runtime", args.cpu_rt_runtime.as_deref())?;
    cpu.idle = number("cpu-idle", args.cpu_idle.as_deref())?;
    cpu.cpus = args.cpuset_cpus.clone().unwrap_or_default();
    cpu.mems = args.cpuset_mems.clone().unwrap_or_default();
    let memory = &mut resources.memory;
    memory.limit = bytes("memory", args.memory.as_deref())?;
    memory.reservation = bytes("memory-reservation", args.memory_reservation.as_deref())?;
    memory.swap = bytes("memory-swap", args.memory_swap.as_deref())?;
    memory.kernel = bytes("kernel-memory", args.kernel_memory.as_deref())?;
    memory.kernel_tcp = bytes("kernel-memory-tcp", args.kernel_memory_tcp.as_deref())?;
    let weight = args.blkio_weight.map(|weight| u16::try_from(weight).map_err(|_| invalid("blkio-weight", weight)));
    resources.block_io.weight = weight.transpose()?;
    resources.pids = args.pids_limit.map(|limit| Pids { limit: Some(limit) });
    Ok(resources)
}

fn invalid(flag: &str, value: impl std::fmt::Display) -> Error {
    Error::new(Kind::Invalid, format!("invalid value for {flag}: {value}: use a whole number in its range"))
}

/// Empty means absent: callers pass what they have.
fn number<T: std::str::FromStr>(flag: &str, text: Option<&str>) -> Result<Option<T>> {
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| invalid(flag, format!("{text:?}")))).transpose()
}

fn bytes(flag: &str, text: Option<&str>) -> Result<Option<i64>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = || {
        let rule = "use a number of bytes, perhaps with a unit (64m, 1.5GiB), or -1 for no limit";
        Error::new(Kind::Invalid, format!("invalid value for {flag}: invalid size: {text:?}: {rule}"))
    };
    if text == "-1" { Ok(Some(-1)) } else { size(text).map(Some).ok_or_else(wrong) }
}

/// A size in powers of 1024, as Docker's family of tools writes it: a number, perhaps with a fraction, and a unit, which may stand
/// apart and be followed by `i`, `b` or `ib`.
fn size(text: &str) -> Option<i64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let (number, unit) = text.split_at(end);
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.as_bytes() {
        [] | [b'b'] => 0,
        [prefix] | [prefix, b'b'] | [prefix, b'i', b'b'] => 10 * (b"kmgtp".iter().position(|it| it == prefix)? + 1),
        _ => return None,
    };
    let number = number.trim_end_matches(' ');
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << shift).filter(|bytes| *bytes >= 0);
    }
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| plain)?;
    #[allow(clippy::cast_precision_loss)] // a power of two
    let bytes = number * (1_u64 << shift) as f64;
    // Beyond 2^63 an i64 would say less than was asked for.
    (bytes < 9.2e18).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", 0),
            ("1024", 1024),
            ("50M", 50 << 20),
            ("64mb", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("2 k", 2048),
            ("7b", 7),
            ("1P", 1 << 50),
            (".5k", 512),
        ] {
            assert_eq!(size(text), Some(expected), "{text}");
        }
        for text in ["", "M", "x", "-2", "1x", "1 2", "1kk", "inf", "nan", "1e3", "9000P", "1.2.3", "0x10", "1ki"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn flags_become_resources() {
        let args = Update {
            memory: Some("64m".into()),
            memory_swap: Some("-1".into()),
            cpu_quota: Some("-1".into()),
            cpu_burst: Some("0".into()),
            pids_limit: Some(-1),
            blkio_weight: Some(500),
            cpu_period: Some(String::new()),
            ..Update::default()
        };
        let resources = resources_of(&args).unwrap();
        assert_eq!((resources.memory.limit, resources.memory.swap), (Some(64 << 20), Some(-1)));
        assert_eq!((resources.cpu.quota, resources.cpu.burst, resources.cpu.period), (Some(-1), Some(0), None));
        assert_eq!((resources.pids.unwrap().limit, resources.block_io.weight), (Some(-1), Some(500)));
        for (args, flag) in [
            (Update { cpu_share: Some("-1".into()), ..Update::default() }, "cpu-share"),
            (Update { memory: Some("-2".into()), ..Update::default() }, "memory"),
            (Update { blkio_weight: Some(70_000), ..Update::default() }, "blkio-weight"),
        ] {
            let text = resources_of(&args).unwrap_err().to_string();
            assert!(text.starts_with(&format!("invalid value for {flag}: ")), "{text}");
        }
    }
}
