//! What a profile answers, as ranges of call numbers for each value of `seccomp_data.arch`.

use super::arch::{Abi, Width, X32_BIT, X86_64};
use super::names::{IPC, SOCKETCALL, carried};
use super::profile::{Condition, Conditions, Operator, Profile, Said, action, precedence};
use super::program;
use crate::error::{Error, Result};

/// What happens to a call of an architecture that the profile does not list: libseccomp's default for it.
pub(super) const BAD_ARCH: u32 = action::KILL_THREAD;

const ENOSYS: u32 = action::ERRNO | libc::ENOSYS as u32;

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Return(u32),
    /// Ask the [`Verdicts::conditional`] of that place.
    Ask(u32),
}

/// From this number on, up to the next range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) verdict: Verdict,
}

/// An action, and the conditions which must all hold for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Alternative {
    pub(super) conditions: Conditions,
    pub(super) action: u32,
}

/// Alternatives of which the first that holds counts, else the default.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conditional {
    pub(super) width: Width,
    pub(super) alternatives: Vec<Alternative>,
}

/// All answers of a profile.
pub(super) struct Verdicts {
    /// (`AUDIT_ARCH_*`, ranges from 0 on), native first.
    pub(super) architectures: Vec<(u32, Vec<Range>)>,
    pub(super) conditional: Vec<Conditional>,
    pub(super) default: u32,
    /// What a list of rules came to: a rule is often for many calls.
    listed: Vec<(Width, Vec<usize>, Verdict)>,
}

impl Verdicts {
    pub(super) fn of(profile: &Profile) -> Result<Self> {
        let mut this =
            Self { architectures: Vec::new(), conditional: Vec::new(), default: profile.default, listed: Vec::new() };
        for abi in &profile.abis {
            if abi.base == X32_BIT {
                continue; // goes with x86-64
            }
            let mut ranges = Ranges(Vec::with_capacity(256));
            ranges.from(0, Verdict::Return(profile.default));
            let above = this.walk(profile, abi, &mut ranges)?;
            if abi.audit == X86_64 {
                this.above_x86_64(profile, above, &mut ranges)?;
            }
            this.architectures.push((abi.audit, ranges.0));
        }
        Ok(this)
    }

    /// Adds a convention's calls, and returns what the numbers above them get if not the default.
    fn walk(&mut self, profile: &Profile, abi: &Abi, ranges: &mut Ranges) -> Result<Option<Verdict>> {
        let default = Verdict::Return(profile.default);
        let mut newest = None;
        let mut next = abi.base;
        for &(number, place) in abi.calls.all() {
            let (number, place) = (abi.base | number, usize::from(place));
            let said = &profile.said[place];
            if *said != Said::Unnamed {
                newest = Some(number);
            }
            if number > next {
                ranges.from(next, default);
            }
            next = number + 1;
            let verdict = match said {
                _ if abi.carriers && matches!(place, SOCKETCALL | IPC) => self.carrier(profile, abi, place)?,
                Said::Unnamed | Said::Nothing => default,
                Said::Always(at) => Verdict::Return(profile.rules[*at].action),
                Said::Rules(rules) => self.listed(profile, rules, abi.width)?,
            };
            ranges.from(number, verdict);
        }
        ranges.from(next, default);
        // Calls above the newest one that the profile's author knew of are not refused but absent: programs try new
        // calls and fall back on ENOSYS, not on EPERM.
        let Some(newest) = newest.filter(|_| profile.enosys) else { return Ok(None) };
        let absent = Verdict::Return(ENOSYS);
        ranges.from(newest + 1, absent);
        Ok(Some(absent))
    }

    /// Adds x32's calls, or the end of those that offer them, to x86-64's.
    fn above_x86_64(&mut self, profile: &Profile, above: Option<Verdict>, ranges: &mut Ranges) -> Result<()> {
        let refused = Verdict::Return(BAD_ARCH);
        let default = Verdict::Return(profile.default);
        ranges.from(X32_BIT, default);
        if let Some(x32) = profile.abis.iter().find(|abi| abi.base == X32_BIT) {
            let above_x32 = self.walk(profile, x32, ranges)?;
            ranges.from(1 << 31, above.unwrap_or(default));
            ranges.from(1 << 31 | X32_BIT, above_x32.unwrap_or(default));
        } else {
            ranges.from(X32_BIT, refused);
            // Numbers that no convention has: x86-64's without bit 30, x32's with it.
            ranges.from(1 << 31, above.unwrap_or(refused));
            ranges.from(1 << 31 | X32_BIT, refused);
            // A tracer that lets a call be skipped sets its number to -1, which must not kill.
            ranges.from(u32::MAX, default);
        }
        Ok(())
    }

    fn listed(&mut self, profile: &Profile, rules: &[usize], width: Width) -> Result<Verdict> {
        let known = self.listed.iter().find(|(other, list, _)| *other == width && list == rules);
        if let Some((.., verdict)) = known {
            return Ok(*verdict);
        }
        let verdict = self.ask(alternatives(profile, rules, width)?, width)?;
        self.listed.push((width, rules.to_vec(), verdict));
        Ok(verdict)
    }

    /// A profile that names, say, `connect` means it however i386 makes that call. Its arguments are in memory then,
    /// where no filter can look: conditions on the first one are lost.
    fn carrier(&mut self, profile: &Profile, abi: &Abi, place: usize) -> Result<Verdict> {
        let mut all = match &profile.said[place] {
            Said::Unnamed | Said::Nothing => Vec::new(),
            Said::Always(at) => return Ok(Verdict::Return(profile.rules[*at].action)),
            Said::Rules(rules) => alternatives(profile, rules, abi.width)?,
        };
        for (place, call) in carried(place) {
            let this = Condition { index: 0, operator: Operator::Eq, mask: u32::MAX.into(), value: call.into() };
            let direct = match &profile.said[place] {
                Said::Unnamed | Said::Nothing => continue,
                Said::Always(at) => vec![Alternative { conditions: Vec::new(), action: profile.rules[*at].action }],
                Said::Rules(rules) => alternatives(profile, rules, abi.width)?,
            };
            let before = all.len();
            if before > program::MAX {
                return Err(program::too_long(2 * before));
            }
            for Alternative { conditions, action } in direct {
                let others = conditions.into_iter().filter(|condition| condition.index != 0);
                let conditions: Vec<_> = std::iter::once(this).chain(others).collect();
                // Rules that differed in the first argument alone contradict each other now: the one with fewer
                // conditions counts, then the one that comes first.
                if !all.iter().any(|other| conditions.starts_with(&other.conditions)) {
                    all.extract_if(before.., |other| other.conditions.starts_with(&conditions)).for_each(drop);
                    all.push(Alternative { conditions, action });
                }
            }
        }
        self.ask(all, abi.width)
    }

    fn ask(&mut self, mut alternatives: Vec<Alternative>, width: Width) -> Result<Verdict> {
        match &alternatives[..] {
            [] => return Ok(Verdict::Return(self.default)),
            [only] if only.conditions.is_empty() => return Ok(Verdict::Return(only.action)),
            [first, others @ ..] => {
                if others.iter().any(|other| other.action != first.action) {
                    alternatives.sort_by(|one, other| precedence(&one.conditions, &other.conditions));
                }
            }
        }
        let conditional = Conditional { width, alternatives };
        let place = self.conditional.iter().position(|other| *other == conditional).unwrap_or_else(|| {
            self.conditional.push(conditional);
            self.conditional.len() - 1
        });
        // Each takes a load and a jump at least: there is no use in going on.
        let least = 2 * self.conditional.iter().map(|one| one.alternatives.len()).sum::<usize>();
        if least > program::MAX { Err(program::too_long(least)) } else { Ok(Verdict::Ask(place as u32)) }
    }
}

/// What rules come to on registers of that width: one alternative without conditions, or several with.
fn alternatives(profile: &Profile, rules: &[usize], width: Width) -> Result<Vec<Alternative>> {
    // (conditions, their rule's place in the list, action); by that place is by the profile's order.
    let mut all = Vec::new();
    for (order, &at) in rules.iter().enumerate() {
        let action = profile.rules[at].action;
        for conditions in &profile.rules[at].alternatives {
            let conditions: Vec<_> = conditions.iter().filter_map(|one| one.narrowed(width)).collect();
            if conditions.is_empty() {
                return Ok(vec![Alternative { conditions, action }]);
            }
            all.push((conditions, order, action));
        }
        if all.len() > program::MAX {
            return Err(program::too_long(2 * all.len()));
        }
    }
    if all.len() == 1 {
        return Ok(all.into_iter().map(|(conditions, _, action)| Alternative { conditions, action }).collect());
    }
    all.sort();
    // Whatever begins with some conditions comes right after them now.
    let mut beginnings: Vec<&(Conditions, usize, u32)> = Vec::new();
    let mut kept = Vec::with_capacity(all.len());
    for one in &all {
        let (conditions, order, action) = one;
        beginnings.retain(|(beginning, ..)| conditions.starts_with(beginning));
        for (beginning, earlier, other) in &beginnings {
            // A rule that covers one before it, with another action, cannot be obeyed.
            if other != action && (beginning == conditions || earlier > order) {
                let (first, last) = (rules[*earlier.min(order)], rules[*earlier.max(order)]);
                return Err(Error::invalid(
                    format_args!("linux.seccomp.syscalls[{last}].args"),
                    format_args!("syscalls[{first}] has another action for what these arguments cover"),
                ));
            }
        }
        if beginnings.last().is_none_or(|(beginning, ..)| beginning != conditions) {
            beginnings.push(one);
            kept.push(one);
        }
    }
    kept.sort_by_key(|(_, order, _)| order);
    let alternative = |(conditions, _, action): &(Conditions, usize, u32)| Alternative {
        conditions: conditions.clone(),
        action: *action,
    };
    Ok(kept.into_iter().map(alternative).collect())
}

struct Ranges(Vec<Range>);

impl Ranges {
    /// From this number on, at or above the last one said.
    fn from(&mut self, start: u32, verdict: Verdict) {
        if self.0.last().is_some_and(|last| last.verdict == verdict) {
            return;
        }
        self.0.pop_if(|last| last.start == start);
        if self.0.last().is_none_or(|last| last.verdict != verdict) {
            self.0.push(Range { start, verdict });
        }
    }
}
