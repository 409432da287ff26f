//! From which memory nodes a process is served (set_mempolicy(2), runtime-spec `config-linux.md`, "Memory policy").

use crate::{
    error::{At, Error, Result},
    outside::id_list::IdSet,
    spec, sys,
};

/// `linux/mempolicy.h`.
const MODES: [(&str, u32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];
const FLAGS: [(&str, u32); 3] =
    [("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)];

/// Every mode that is known here.
pub fn known_modes() -> impl Iterator<Item = &'static str> {
    MODES.iter().map(|(name, _)| *name)
}

/// Every flag that is known here.
pub fn known_flags() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|(name, _)| *name)
}

/// What to ask the kernel for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    mode: u32,
    nodes: IdSet,
}

impl MemoryPolicy {
    /// Translates and checks `linux.memoryPolicy`.
    pub(crate) fn of(policy: &spec::MemoryPolicy) -> Result<Self> {
        let invalid = |field: &str, rule: String| Error::invalid(format!("linux.memoryPolicy.{field}"), rule);
        let number = |known: &[(&str, u32)], name: &str| known.iter().find(|it| it.0 == name).map(|it| it.1);
        let name = &*policy.mode;
        let mut mode =
            number(&MODES, name).ok_or_else(|| invalid("mode", format!("invalid memory policy mode {name:?}")))?;
        let nodes = IdSet::parse(&policy.nodes)
            .map_err(|rule| invalid("nodes", format!("invalid memory policy nodes {:?}: {rule}", policy.nodes)))?;
        match (name, nodes.len()) {
            ("MPOL_DEFAULT" | "MPOL_LOCAL", 0) | ("MPOL_PREFERRED", _) => {}
            ("MPOL_DEFAULT" | "MPOL_LOCAL", n) => {
                return Err(invalid("nodes", format!("memory policy mode requires 0 nodes but got {n}")));
            }
            (_, 0) => return Err(invalid("nodes", "memory policy mode requires at least one node but got 0".into())),
            _ => {}
        }
        for flag in &policy.flags {
            mode |=
                number(&FLAGS, flag).ok_or_else(|| invalid("flags", format!("invalid memory policy flag {flag:?}")))?;
        }
        Ok(Self { mode, nodes })
    }

    /// Makes it the caller's, and that of what it executes.
    pub(crate) fn apply(&self) -> Result<()> {
        sys::set_memory_policy(self.mode, self.nodes.words()).at("linux.memoryPolicy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_checked() {
        for (json, expected) in [
            (r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES"]}"#, Ok(2 | 1 << 15)),
            (r#"{"mode":"MPOL_DEFAULT"}"#, Ok(0)),
            (r#"{"mode":"MPOL_PREFERRED"}"#, Ok(1)),
            ("{}", Err("mode: invalid memory policy mode \"\"")),
            (r#"{"mode":"INTERLEAVE","nodes":"0"}"#, Err("mode: invalid memory policy mode \"INTERLEAVE\"")),
            (r#"{"mode":"MPOL_BIND"}"#, Err("nodes: memory policy mode requires at least one node but got 0")),
            (r#"{"mode":"MPOL_LOCAL","nodes":"0-7"}"#, Err("nodes: memory policy mode requires 0 nodes but got 8")),
            (r#"{"mode":"MPOL_BIND","nodes":"0-9876543210"}"#, Err("nodes: invalid memory policy nodes")),
            (r#"{"mode":"MPOL_BIND","nodes":"0","flags":["bad"]}"#, Err("flags: invalid memory policy flag \"bad\"")),
        ] {
            let policy: spec::MemoryPolicy = crate::spec::parse(json.as_bytes()).unwrap();
            match (MemoryPolicy::of(&policy), expected) {
                (Ok(policy), Ok(mode)) => assert_eq!(policy.mode, mode, "{json}"),
                (Err(error), Err(text)) => {
                    assert!(error.to_string().starts_with(&format!("linux.memoryPolicy.{text}")), "{json}: {error}");
                }
                (got, _) => panic!("{json}: {got:?}"),
            }
        }
    }
}
