//! Resource limits (getrlimit(2)), set from outside: a user namespace could not raise them.

use crate::{
    error::{At, Error, Result},
    spec,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// A limit by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    name: String,
    resource: Resource,
    soft: u64,
    hard: u64,
}

/// Translates and checks `process.rlimits`.
pub(crate) fn limits(rlimits: &[spec::Rlimit]) -> Result<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::new();
    for (i, spec::Rlimit { kind, soft, hard }) in rlimits.iter().enumerate() {
        let field = format!("process.rlimits[{i}]");
        let Some(resource) = resource(kind) else {
            return Err(Error::invalid(format!("{field}.type"), format!("{kind:?} is no resource limit")));
        };
        if soft > hard {
            return Err(Error::invalid(field, format!("{kind}: soft {soft} is above hard {hard}")));
        }
        if limits.iter().any(|limit| limit.name == *kind) {
            return Err(Error::invalid(field, format!("{kind} stands twice")));
        }
        limits.push(Limit { name: kind.clone(), resource, soft: *soft, hard: *hard });
    }
    Ok(limits)
}

/// Sets them on `pid`.
pub(crate) fn apply(pid: Pid, limits: &[Limit]) -> Result<()> {
    for Limit { name, resource, soft, hard } in limits {
        let value = Rlimit { current: bound(*soft), maximum: bound(*hard) };
        prlimit(Some(pid), *resource, value).at_with(|| format!("set {name} to {soft}:{hard}"))?;
    }
    Ok(())
}

/// `RLIM_INFINITY` is the absence of a bound.
fn bound(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name.strip_prefix("RLIMIT_")? {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked() {
        for (json, expected) in [
            (r#"[{"type":"RLIMIT_NOPE","soft":1,"hard":1}]"#, "process.rlimits[0].type: \"RLIMIT_NOPE\""),
            (
                r#"[{"type":"RLIMIT_CORE","soft":2,"hard":1}]"#,
                "process.rlimits[0]: RLIMIT_CORE: soft 2 is above hard 1",
            ),
            (
                r#"[{"type":"RLIMIT_CORE","soft":1,"hard":1},{"type":"RLIMIT_CORE","soft":1,"hard":1}]"#,
                "process.rlimits[1]: RLIMIT_CORE stands twice",
            ),
        ] {
            let rlimits: Vec<spec::Rlimit> = crate::spec::parse(json.as_bytes()).unwrap();
            assert!(limits(&rlimits).unwrap_err().to_string().starts_with(expected), "{json}");
        }
    }

    #[test]
    fn the_largest_value_means_no_limit() {
        assert_eq!(bound(u64::MAX), None);
        assert_eq!(bound(7), Some(7));
    }
}
