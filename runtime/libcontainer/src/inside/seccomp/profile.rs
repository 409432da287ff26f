//! A profile's meaning: every word of it checked, names made numbers' places, values made ready to compare.

use std::cmp::Ordering;

use super::arch::{Abi, KNOWN, Machine, Width};
use crate::error::{Error, Result};
use crate::spec::{Seccomp, SyscallArg};

/// `SECCOMP_RET_*`, with its data in the lower half (`linux/seccomp.h`).
pub(super) mod action {
    pub(in super::super) const KILL_PROCESS: u32 = 0x8000_0000;
    pub(in super::super) const KILL_THREAD: u32 = 0;
    pub(in super::super) const TRAP: u32 = 0x0003_0000;
    pub(in super::super) const ERRNO: u32 = 0x0005_0000;
    pub(in super::super) const USER_NOTIF: u32 = 0x7fc0_0000;
    pub(in super::super) const TRACE: u32 = 0x7ff0_0000;
    pub(in super::super) const LOG: u32 = 0x7ffc_0000;
    pub(in super::super) const ALLOW: u32 = 0x7fff_0000;
}

/// `SECCOMP_FILTER_FLAG_*` (`linux/seccomp.h`).
pub(super) mod flag {
    pub(in super::super) const LOG: u32 = 1 << 1;
    pub(in super::super) const SPEC_ALLOW: u32 = 1 << 2;
    pub(in super::super) const NEW_LISTENER: u32 = 1 << 3;
    pub(in super::super) const WAIT_KILLABLE_RECV: u32 = 1 << 5;
}

/// Names of actions, sorted, and what they are to the kernel without data.
pub(super) const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_ALLOW", action::ALLOW),
    ("SCMP_ACT_ERRNO", action::ERRNO),
    ("SCMP_ACT_KILL", action::KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", action::KILL_PROCESS),
    ("SCMP_ACT_KILL_THREAD", action::KILL_THREAD),
    ("SCMP_ACT_LOG", action::LOG),
    ("SCMP_ACT_NOTIFY", action::USER_NOTIF),
    ("SCMP_ACT_TRACE", action::TRACE),
    ("SCMP_ACT_TRAP", action::TRAP),
];

/// Names of operators, sorted.
pub(super) const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_EQ", Operator::Eq),
    ("SCMP_CMP_GE", Operator::Ge),
    ("SCMP_CMP_GT", Operator::Gt),
    ("SCMP_CMP_LE", Operator::Le),
    ("SCMP_CMP_LT", Operator::Lt),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEq),
    ("SCMP_CMP_NE", Operator::Ne),
];

/// Names of flags and their bits.
pub(super) const FLAGS: [(&str, u32); 4] = [
    // All threads of init are one, and exec ends the others: there is nothing to synchronise.
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", flag::SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", flag::LOG),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", flag::WAIT_KILLABLE_RECV),
];

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operator {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

/// `argument[index] & mask OPERATOR value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Condition {
    pub(super) index: u8,
    pub(super) operator: Operator,
    /// All ones but for [`Operator::MaskedEq`].
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// Conditions which must all hold, by ascending index.
pub(super) type Conditions = Vec<Condition>;

/// A rule, whatever calls it is for.
pub(super) struct Rule {
    pub(super) action: u32,
    /// Any of these will do.
    pub(super) alternatives: Vec<Conditions>,
}

/// What a profile says of one system call's name, by places in its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Said {
    #[default]
    Unnamed,
    /// It is named by rules alone whose action is the default one.
    Nothing,
    /// The first rule has no condition, so that no other counts.
    Always(usize),
    /// In the profile's order.
    Rules(Vec<usize>),
}

/// A checked profile.
pub(super) struct Profile {
    pub(super) default: u32,
    pub(super) flags: u32,
    /// The conventions that containers may use, native first.
    pub(super) abis: Vec<&'static Abi>,
    /// Whether calls newer than the newest that the profile names fail with ENOSYS, so that programs fall back.
    pub(super) enosys: bool,
    /// `linux.seccomp.syscalls`.
    pub(super) rules: Vec<Rule>,
    /// By the name's place.
    pub(super) said: Vec<Said>,
}

impl Profile {
    pub(super) fn of(profile: &Seccomp, machine: Machine) -> Result<Self> {
        let default = action(
            &profile.default_action,
            profile.default_errno_ret,
            "linux.seccomp.defaultAction",
            "linux.seccomp.defaultErrnoRet",
        )?;
        if default == action::USER_NOTIF {
            // The listener must first be handed on by calls that would already wait for it.
            return Err(Error::invalid(
                "linux.seccomp.defaultAction",
                "SCMP_ACT_NOTIFY cannot be used as default action",
            ));
        }
        let mut this = Self {
            default,
            flags: 0,
            abis: abis(&profile.architectures, machine)?,
            enosys: !matches!(default & 0xffff_0000, action::ALLOW | action::LOG | action::TRACE),
            rules: Vec::with_capacity(profile.syscalls.len()),
            said: vec![Said::Unnamed; machine.names().len()],
        };
        let mut listener = false;
        for (at, rule) in profile.syscalls.iter().enumerate() {
            let action = action(
                &rule.action,
                rule.errno_ret,
                format_args!("linux.seccomp.syscalls[{at}].action"),
                format_args!("linux.seccomp.syscalls[{at}].errnoRet"),
            )?;
            listener |= action == action::USER_NOTIF && !rule.names.is_empty();
            let alternatives = alternatives(&rule.args, at)?;
            let unconditional = alternatives.iter().any(Vec::is_empty);
            for (index, name) in rule.names.iter().enumerate() {
                if name.is_empty() {
                    let field = format_args!("linux.seccomp.syscalls[{at}].names[{index}]");
                    return Err(Error::invalid(field, "empty string is not a valid syscall"));
                }
                if action == action::USER_NOTIF && name == "write" {
                    // The listener's descriptor is handed on with write.
                    let field = format_args!("linux.seccomp.syscalls[{at}].names[{index}]");
                    return Err(Error::invalid(field, "SCMP_ACT_NOTIFY cannot be used for the write syscall"));
                }
                // Profiles are written for newer kernels and other machines: a name unknown here is no mistake.
                let Some(place) = machine.names().find(name) else { continue };
                this.said[place].add(at, action == default, unconditional);
            }
            this.rules.push(Rule { action, alternatives });
        }
        this.flags = flags(profile.flags.as_deref(), listener)?;
        Ok(this)
    }
}

impl Said {
    fn add(&mut self, at: usize, idle: bool, unconditional: bool) {
        match self {
            Self::Unnamed if idle => *self = Self::Nothing,
            _ if idle => {}
            Self::Unnamed | Self::Nothing if unconditional => *self = Self::Always(at),
            Self::Unnamed | Self::Nothing => *self = Self::Rules(vec![at]),
            Self::Always(_) => {}
            // A name may be in the list of a rule twice.
            Self::Rules(rules) if rules.last() == Some(&at) => {}
            Self::Rules(rules) => rules.push(at),
        }
    }
}

impl Condition {
    /// The condition on a register of that width, or nothing where it always holds.
    pub(super) fn narrowed(mut self, width: Width) -> Option<Self> {
        if width == Width::Bits32 {
            self.mask &= u64::from(u32::MAX);
            self.value &= u64::from(u32::MAX);
        }
        (self.mask != 0).then_some(self)
    }

    /// Where rules with several actions overlap, the one is asked first that libseccomp asks first: by the highest
    /// argument, then equality before bounds, then the tighter bound.
    fn precedence(&self, other: &Self) -> Ordering {
        let rank = |operator| match operator {
            Operator::Eq | Operator::Ne | Operator::MaskedEq => 3,
            Operator::Le | Operator::Lt => 2,
            Operator::Ge | Operator::Gt => 1,
        };
        other.index.cmp(&self.index).then(rank(other.operator).cmp(&rank(self.operator))).then_with(|| {
            match self.operator {
                Operator::Le | Operator::Lt => self.value.cmp(&other.value),
                _ => other.value.cmp(&self.value),
            }
        })
    }
}

/// See [`Condition::precedence`]; conditions which are the beginning of others hide those.
pub(super) fn precedence(one: &[Condition], other: &[Condition]) -> Ordering {
    let pairs = one.iter().zip(other).map(|(a, b)| a.precedence(b));
    pairs.fold(Ordering::Equal, Ordering::then).then(one.len().cmp(&other.len()))
}

fn action(
    name: &str,
    errno_ret: Option<u32>,
    field: impl std::fmt::Display,
    errno_field: impl std::fmt::Display,
) -> Result<u32> {
    let Some((_, action)) = ACTIONS.iter().find(|(known, _)| *known == name) else {
        return Err(Error::invalid(field, format_args!("string {name} is not a valid action for seccomp")));
    };
    if !matches!(*action, action::ERRNO | action::TRACE) {
        return Ok(*action);
    }
    let data = errno_ret.unwrap_or(libc::EPERM as u32);
    if data > 0xffff {
        // Cut to its 16 bits, 65536 would tell programs that a refused call had succeeded.
        return Err(Error::invalid(errno_field, format_args!("{data} is more than 65535")));
    }
    Ok(action | data)
}

/// The machine's conventions that the profile lists, and the native one always: init itself needs it.
fn abis(architectures: &[String], machine: Machine) -> Result<Vec<&'static Abi>> {
    for (index, name) in architectures.iter().enumerate() {
        if KNOWN.binary_search(&name.as_str()).is_err() {
            let field = format_args!("linux.seccomp.architectures[{index}]");
            return Err(Error::invalid(field, format_args!("string {name} is not a valid arch for seccomp")));
        }
    }
    let listed = |abi: &Abi| architectures.iter().any(|name| name == abi.name);
    Ok(machine
        .abis()
        .iter()
        .enumerate()
        .filter(|(index, abi)| *index == 0 || listed(abi))
        .map(|(_, abi)| abi)
        .collect())
}

/// Alternative lists of conditions, each by ascending index; one empty list where the rule has no condition.
fn alternatives(args: &[SyscallArg], at: usize) -> Result<Vec<Conditions>> {
    let mut conditions = Vec::with_capacity(args.len());
    let mut seen = 0_u8;
    let mut repeated = false;
    for (index, arg) in args.iter().enumerate() {
        let field = |name: &str| format!("linux.seccomp.syscalls[{at}].args[{index}].{name}");
        if arg.index > 5 {
            return Err(Error::invalid(
                field("index"),
                format_args!("{} is more than 5, a system call's last argument", arg.index),
            ));
        }
        let Some((_, operator)) = OPERATORS.iter().find(|(known, _)| *known == arg.op) else {
            let rule = format!("string {} is not a valid operator for seccomp", arg.op);
            return Err(Error::invalid(field("op"), rule));
        };
        repeated |= seen & (1 << arg.index) != 0;
        seen |= 1 << arg.index;
        let (mask, value) = match operator {
            Operator::MaskedEq => (arg.value, arg.value_two & arg.value),
            _ => (u64::MAX, arg.value),
        };
        conditions.push(Condition { index: arg.index as u8, operator: *operator, mask, value });
    }
    // Two conditions on one argument are alternatives, as libseccomp's users have always had it.
    let mut alternatives: Vec<Vec<_>> =
        if repeated { conditions.into_iter().map(|condition| vec![condition]).collect() } else { vec![conditions] };
    for alternative in &mut alternatives {
        // A mask of nothing asks nothing.
        alternative.retain(|condition| condition.mask != 0);
        alternative.sort_by_key(|condition| condition.index);
    }
    Ok(alternatives)
}

fn flags(names: Option<&[String]>, listener: bool) -> Result<u32> {
    let mut flags = if listener { flag::NEW_LISTENER } else { 0 };
    let Some(names) = names else {
        // No list at all, as against an empty one, is a profile older than the flags.
        return Ok(flags | flag::SPEC_ALLOW);
    };
    for (index, name) in names.iter().enumerate() {
        let field = format_args!("linux.seccomp.flags[{index}]");
        let Some((_, bit)) = FLAGS.iter().find(|(known, _)| known == name) else {
            return Err(Error::invalid(field, format_args!("seccomp flag {name} is not known")));
        };
        if *bit == flag::WAIT_KILLABLE_RECV && !listener {
            return Err(Error::invalid(field, format_args!("{name} needs a rule with SCMP_ACT_NOTIFY")));
        }
        flags |= bit;
    }
    Ok(flags)
}
