//! What a profile answers, as ranges of call numbers for each value of `seccomp_data.arch`.

use super::arch::{Abi, Width, X32_BIT, X86_64};
use super::names::{IPC, SOCKETCALL, carried};
use super::profile::{Condition, Operator, Profile, Rule, Rules, action};
use crate::error::{Error, Result};

/// What happens to a call of an architecture that the profile does not list: libseccomp's default for it.
pub(super) const BAD_ARCH: u32 = action::KILL_THREAD;

const ENOSYS: u32 = action::ERRNO | libc::ENOSYS as u32;

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Return(u32),
    /// Ask the [`Verdicts::conditional`] of that place.
    Ask(usize),
}

/// From this number on, up to the next range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) verdict: Verdict,
}

/// The rules of a call, of which the first that holds counts, else the default.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conditional {
    pub(super) width: Width,
    pub(super) rules: Vec<Rule>,
}

/// All answers of a profile.
pub(super) struct Verdicts {
    /// (`AUDIT_ARCH_*`, ranges from 0 on), native first.
    pub(super) architectures: Vec<(u32, Vec<Range>)>,
    pub(super) conditional: Vec<Conditional>,
    pub(super) default: u32,
}

impl Verdicts {
    pub(super) fn of(profile: &Profile) -> Result<Self> {
        let mut this = Self { architectures: Vec::new(), conditional: Vec::new(), default: profile.default };
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
        for &(number, place) in abi.calls.all() {
            let (number, place) = (abi.base | number, usize::from(place));
            if profile.named[place] {
                newest = Some(number);
            }
            let verdict = self.verdict(profile, abi, place)?;
            if verdict != default {
                ranges.from(number, verdict);
                ranges.from(number + 1, default);
            }
        }
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

    fn verdict(&mut self, profile: &Profile, abi: &Abi, place: usize) -> Result<Verdict> {
        if abi.carriers && matches!(place, SOCKETCALL | IPC) {
            return self.carrier(profile, abi, place);
        }
        match &profile.rules[place] {
            Rules::None => Ok(Verdict::Return(profile.default)),
            Rules::Always(action) => Ok(Verdict::Return(*action)),
            Rules::Listed(rules) => self.listed(rules, abi.width),
        }
    }

    /// A profile that names, say, `connect` means it however i386 makes that call. Its arguments are in memory then,
    /// where no filter can look: conditions on the first one are lost.
    fn carrier(&mut self, profile: &Profile, abi: &Abi, place: usize) -> Result<Verdict> {
        let mut rules = match &profile.rules[place] {
            Rules::None => Vec::new(),
            Rules::Always(action) => return Ok(Verdict::Return(*action)),
            Rules::Listed(rules) => rules.clone(),
        };
        for (place, call) in carried(place) {
            let this = Condition { index: 0, operator: Operator::Eq, mask: u64::MAX, value: call.into() };
            let only = |action, at| Rule { conditions: vec![this], action, at };
            match &profile.rules[place] {
                Rules::None => {}
                Rules::Always(action) => rules.push(only(*action, usize::MAX)),
                Rules::Listed(listed) => {
                    if let Some(rule) = unconditional(listed, abi.width) {
                        rules.push(only(rule.action, rule.at));
                        continue;
                    }
                    for rule in listed {
                        let others = rule.conditions.iter().copied().filter(|condition| condition.index != 0);
                        let rule = Rule { conditions: std::iter::once(this).chain(others).collect(), ..*rule };
                        // Two rules that differ in the first argument alone: the one that comes first counts.
                        if !rules.iter().any(|other| other.conditions == rule.conditions) {
                            rules.push(rule);
                        }
                    }
                }
            }
        }
        if rules.is_empty() { Ok(Verdict::Return(profile.default)) } else { self.listed(&rules, abi.width) }
    }

    fn listed(&mut self, rules: &[Rule], width: Width) -> Result<Verdict> {
        if let Some(rule) = unconditional(rules, width) {
            return Ok(Verdict::Return(rule.action));
        }
        let mut kept: Vec<Rule> = Vec::with_capacity(rules.len());
        for rule in rules {
            let conditions: Vec<_> = rule.conditions.iter().filter_map(|one| one.narrowed(width)).collect();
            // An earlier rule that this one covers, with another action, cannot be obeyed.
            let contradicted =
                kept.iter().find(|other| other.action != rule.action && other.conditions.starts_with(&conditions));
            if let Some(other) = contradicted {
                let field = format_args!("linux.seccomp.syscalls[{}].args", rule.at);
                let rule = format_args!("syscalls[{}] has another action for what these arguments cover", other.at);
                return Err(Error::invalid(field, rule));
            }
            if !kept.iter().any(|other| other.conditions == conditions) {
                kept.push(Rule { conditions, ..*rule });
            }
        }
        if kept.iter().any(|rule| rule.action != kept[0].action) {
            kept.sort_by(Rule::precedence);
        }
        let conditional = Conditional { width, rules: kept };
        let place = self.conditional.iter().position(|other| *other == conditional).unwrap_or_else(|| {
            self.conditional.push(conditional);
            self.conditional.len() - 1
        });
        Ok(Verdict::Ask(place))
    }
}

/// The first rule without any condition on registers of that width, which no other rule can limit.
fn unconditional(rules: &[Rule], width: Width) -> Option<&Rule> {
    rules.iter().find(|rule| rule.conditions.iter().all(|one| one.narrowed(width).is_none()))
}

struct Ranges(Vec<Range>);

impl Ranges {
    /// From this number on, at or above the last one said.
    fn from(&mut self, start: u32, verdict: Verdict) {
        self.0.pop_if(|last| last.start == start);
        if self.0.last().is_none_or(|last| last.verdict != verdict) {
            self.0.push(Range { start, verdict });
        }
    }
}
