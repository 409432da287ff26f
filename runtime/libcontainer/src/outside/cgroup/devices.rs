//! The device filter: the configuration's rules and the runtime's own defaults, as lines for v1 and as a program for v2.
//!
//! Everything is denied at first. Later rules win over earlier ones, for each of read, write and mknod by itself. v1 knows
//! only exceptions from "all" or "none": where the rules need more (an exception from an exception with a wildcard), v1 refuses
//! them and v2 does as they say.

mod filter;

use crate::{
    error::{At, Error, Result},
    outside::cgroup::{Mode, file},
    spec::DeviceRule,
    sys::bpf,
};
use rustix::io::Errno;
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// What rules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Any,
    Block,
    Char,
}

/// A checked rule; an absent number stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// What runc allows every container whatever its configuration says: making any node (opening it is another matter), null,
/// zero, full, random, urandom, tty, the pseudo terminals and their multiplexer.
const DEFAULTS: [Rule; 10] = {
    const fn char(major: u32, minor: Option<u32>) -> Rule {
        Rule { allow: true, kind: Kind::Char, major: Some(major), minor, access: ALL }
    }
    [
        Rule { allow: true, kind: Kind::Char, major: None, minor: None, access: MKNOD },
        Rule { allow: true, kind: Kind::Block, major: None, minor: None, access: MKNOD },
        char(1, Some(3)),
        char(1, Some(8)),
        char(1, Some(7)),
        char(5, Some(0)),
        char(1, Some(5)),
        char(1, Some(9)),
        char(136, None),
        char(5, Some(2)),
    ]
};

/// A container's checked device rules, with the defaults behind them.
#[derive(Debug)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    pub(super) fn of(rules: &[DeviceRule]) -> Result<Self> {
        let own = rules.iter().enumerate().map(|(index, rule)| {
            check(rule).map_err(|(name, text)| Error::invalid(format!("linux.resources.devices[{index}].{name}"), text))
        });
        own.chain(DEFAULTS.map(Ok)).collect::<Result<_>>().map(Self)
    }

    /// Refuses what this version cannot keep.
    pub(super) fn check(&self, mode: Mode) -> Result<()> {
        if mode == Mode::V1 { Exceptions::of(&self.0).map(drop) } else { Ok(()) }
    }

    /// The rules as systemd's `DeviceAllow`: what is allowed, with everything else denied; the inner `None` where all is
    /// allowed, the outer one where such a list cannot say it.
    #[allow(clippy::option_option)] // two answers of a different kind
    pub(super) fn allowed(&self) -> Option<Option<Vec<(String, String)>>> {
        let exceptions = Exceptions::of(&self.0).ok()?;
        if exceptions.allow {
            return exceptions.of.is_empty().then_some(None);
        }
        let entry = |(&(kind, major, minor), &access): (&(Kind, Option<u32>, Option<u32>), &u8)| {
            let kind = if kind == Kind::Block { "block" } else { "char" };
            let path = match (major, minor) {
                (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
                (Some(major), None) => format!("{kind}-{major}"),
                (None, None) => format!("{kind}-*"),
                (None, Some(_)) => return None,
            };
            Some((path, letters(access)))
        };
        exceptions.of.iter().map(entry).collect::<Option<_>>().map(Some)
    }

    /// Writes the rules to a v1 cgroup.
    pub(super) fn write_v1(&self, dir: BorrowedFd<'_>) -> Result<()> {
        let exceptions = Exceptions::of(&self.0)?;
        let all = |allow| if allow { "devices.allow" } else { "devices.deny" };
        // This also clears what the cgroup has inherited from its parent.
        file::write(dir, all(exceptions.allow), "a").at_with(|| format!("write {} \"a\"", all(exceptions.allow)))?;
        let lines = exceptions.lines();
        file::write_lines(dir, all(!exceptions.allow), lines.iter().map(String::as_str)).at_with(|| {
            format!("write {} (a cgroup cannot have a device that its parent lacks)", all(!exceptions.allow))
        })
    }

    /// Has the kernel verify the rules as a program for a v2 cgroup.
    pub(super) fn load_v2(&self) -> Result<OwnedFd> {
        bpf::load_device_program(&filter::program(&self.0)?).map_err(|errno| {
            let error = Error::from(errno).at("load the device filter");
            if errno == Errno::PERM {
                error.at("bpf(2) needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN")
            } else {
                error
            }
        })
    }

    /// Puts the program on a v2 cgroup. One that was there before may have a program of its last container, which would go on
    /// denying.
    pub(super) fn attach_v2(program: &OwnedFd, dir: BorrowedFd<'_>, fresh: bool) -> Result<()> {
        let old = if fresh { Vec::new() } else { bpf::device_programs(dir).at("query the device filters")? };
        bpf::attach_device_program(dir, program.as_fd()).at("attach the device filter")?;
        // Only now, so that there is no moment without a filter.
        old.iter().try_for_each(|it| bpf::detach_device_program(dir, it.as_fd())).at("detach the last device filter")
    }
}

fn check(rule: &DeviceRule) -> Result<Rule, (&'static str, String)> {
    let kind = match rule.kind.as_str() {
        "" | "a" => Kind::Any,
        "b" => Kind::Block,
        "c" => Kind::Char,
        other => return Err(("type", format!("{other:?} is not one of a, b, c"))),
    };
    let number = |name, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        // The kernel's own numbers have 12 and 20 bits.
        Some(value @ 0..=0x7fff_ffff) => Ok(Some(value as u32)),
        Some(value) => Err((name, format!("{value} is not a device number; -1 stands for all"))),
    };
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'm' => MKNOD,
            'r' => READ,
            'w' => WRITE,
            'a' => ALL,
            _ => return Err(("access", format!("{:?} has a letter that is none of r, w, m", rule.access))),
        };
    }
    Ok(Rule {
        allow: rule.allow,
        kind,
        major: number("major", rule.major)?,
        minor: number("minor", rule.minor)?,
        access: if access == 0 { ALL } else { access },
    })
}

/// What v1 can keep: everything or nothing, and exceptions from that.
#[derive(Debug, Default)]
struct Exceptions {
    allow: bool,
    of: BTreeMap<(Kind, Option<u32>, Option<u32>), u8>,
}

impl Exceptions {
    fn of(rules: &[Rule]) -> Result<Self> {
        let mut state = Self::default();
        for rule in rules {
            match rule {
                Rule { kind: Kind::Any, major: None, minor: None, access: ALL, .. } => {
                    state = Self { allow: rule.allow, of: BTreeMap::new() };
                }
                // v1 takes "a" for everything, whatever else the line says.
                Rule { kind: Kind::Any, .. } => {
                    for kind in [Kind::Block, Kind::Char] {
                        state.apply(&Rule { kind, ..*rule })?;
                    }
                }
                rule => state.apply(rule)?,
            }
        }
        Ok(state)
    }

    fn apply(&mut self, rule: &Rule) -> Result<()> {
        let key = (rule.kind, rule.major, rule.minor);
        if rule.allow != self.allow {
            *self.of.entry(key).or_default() |= rule.access;
            return Ok(());
        }
        // The kernel ignores a rule that takes back part of a wider exception, and says nothing.
        for wider in [(rule.kind, None, rule.minor), (rule.kind, rule.major, None), (rule.kind, None, None)] {
            if wider != key && self.of.get(&wider).is_some_and(|access| access & rule.access != 0) {
                return Err(Error::invalid(
                    "linux.resources.devices",
                    format!(
                        "{:?} cannot be taken out of {:?}: not supported by devices cgroupv1 (cannot punch hole in existing \
                         wildcard rule)",
                        line(key, rule.access),
                        line(wider, self.of.get(&wider).copied().unwrap_or_default()),
                    ),
                ));
            }
        }
        if let Some(access) = self.of.get_mut(&key) {
            *access &= !rule.access;
        }
        self.of.retain(|_, access| *access != 0);
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        self.of.iter().map(|(key, access)| line(*key, *access)).collect()
    }
}

fn line((kind, major, minor): (Kind, Option<u32>, Option<u32>), access: u8) -> String {
    let number = |it: Option<u32>| it.map_or_else(|| "*".to_owned(), |it| it.to_string());
    let kind = match kind {
        Kind::Any => 'a',
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    format!("{kind} {}:{} {}", number(major), number(minor), letters(access))
}

fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| access & bit != 0).map(|(_, it)| it).collect()
}

#[cfg(test)]
mod tests;
