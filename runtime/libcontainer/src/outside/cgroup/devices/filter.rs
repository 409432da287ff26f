//! Device rules as an eBPF program for cgroup v2.
//!
//! The kernel's verifier follows every branch, and takes the better part of a container's birth for a program that tests type,
//! major and minor of each rule. So the type is tested once, both numbers are one value, and all verdicts share two exits.

use super::{ALL, Kind, Rule};
use crate::{
    error::{Error, Result},
    sys::bpf::Insn,
};

/// Registers: 1 holds the context and 0 the answer, as the kernel has it.
const KIND: u8 = 2;
/// The access that no rule has allowed yet.
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Major and minor as the kernel packs them: 12 and 20 bits.
const DEVICE: u8 = 6;
const MINOR_BITS: u32 = 20;

/// `BPF_DEVCG_DEV_BLOCK`; the only other is the character device.
const BLOCK: i32 = 1;

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// To the answer yes.
    Allow,
    /// To the answer no.
    Deny,
    /// To the rules for block devices.
    Block,
    /// Over that many instructions.
    Skip(usize),
}

/// `BPF_JMP32` compares the lower halves: a device's number may have its uppermost bit set, which would count as a sign.
#[derive(Clone, Copy, Debug)]
enum If {
    Equal = 0x16,
    NotEqual = 0x56,
    AnyBit = 0x46,
}

#[derive(Default)]
struct Assembler {
    insns: Vec<Insn>,
    jumps: Vec<(usize, To)>,
}

impl Assembler {
    fn push(&mut self, code: u8, registers: u8, offset: i16, immediate: i32) {
        self.insns.push(Insn { code, registers, offset, immediate });
    }

    /// `to = *(u32 *)(context + offset)`
    fn load(&mut self, to: u8, offset: i16) {
        self.push(0x61, to | 1 << 4, offset, 0);
    }

    fn and(&mut self, register: u8, bits: u32) {
        self.push(0x54, register, 0, bits as i32);
    }

    fn jump_if(&mut self, register: u8, test: If, value: u32, to: To) {
        self.jumps.push((self.insns.len(), to));
        self.push(test as u8, register, 0, value as i32);
    }

    fn answer(&mut self, allow: bool) {
        self.push(0xb4, 0, 0, i32::from(allow));
        self.push(0x95, 0, 0, 0);
    }

    /// The rules that concern one type, from the last to the first. An allowing rule takes its bits off the access asked for,
    /// and nothing left means yes; a denying rule that has one of the bits left means no.
    fn rules(&mut self, rules: &[Rule], kind: Kind) {
        for rule in rules.iter().rev().filter(|it| it.kind == Kind::Any || it.kind == kind) {
            let verdict = if rule.allow { To::Allow } else { To::Deny };
            let number = match (rule.major, rule.minor) {
                (Some(major), Some(minor)) => Some((DEVICE, major << MINOR_BITS | minor)),
                (Some(major), None) => Some((MAJOR, major)),
                (None, Some(minor)) => Some((MINOR, minor)),
                (None, None) => None,
            };
            match number {
                // No rule before this one has a say, and the kernel refuses code that cannot be reached.
                None if rule.access == ALL => return self.answer(rule.allow),
                Some((register, value)) if rule.access == ALL => self.jump_if(register, If::Equal, value, verdict),
                _ => {
                    if let Some((register, value)) = number {
                        self.jump_if(register, If::NotEqual, value, To::Skip(if rule.allow { 2 } else { 1 }));
                    }
                    if rule.allow {
                        self.and(ACCESS, u32::from(ALL & !rule.access));
                        self.jump_if(ACCESS, If::Equal, 0, verdict);
                    } else {
                        self.jump_if(ACCESS, If::AnyBit, u32::from(rule.access), verdict);
                    }
                }
            }
        }
        self.answer(false);
    }
}

/// The program for checked rules.
pub(super) fn program(rules: &[Rule]) -> Result<Vec<Insn>> {
    // No device has such a number.
    let possible =
        |it: &&Rule| it.major.is_none_or(|it| it < 1 << 12) && it.minor.is_none_or(|it| it < 1 << MINOR_BITS);
    let rules: Vec<Rule> = rules.iter().filter(possible).copied().collect();

    let mut to = Assembler::default();
    to.load(KIND, 0);
    to.load(ACCESS, 0);
    to.and(KIND, 0xffff);
    to.push(0x74, ACCESS, 0, 16); // ACCESS >>= 16
    to.load(MAJOR, 4);
    to.load(MINOR, 8);
    to.push(0xbc, DEVICE | MAJOR << 4, 0, 0); // DEVICE = MAJOR
    to.push(0x64, DEVICE, 0, MINOR_BITS as i32); // DEVICE <<= MINOR_BITS
    to.push(0x4c, DEVICE | MINOR << 4, 0, 0); // DEVICE |= MINOR
    to.jump_if(KIND, If::Equal, BLOCK as u32, To::Block);
    to.rules(&rules, Kind::Char);
    let block = to.insns.len();
    to.rules(&rules, Kind::Block);
    let answers = [To::Deny, To::Allow].map(|answer| {
        let used = to.jumps.iter().any(|(_, to)| *to == answer);
        let at = to.insns.len();
        if used {
            to.answer(answer == To::Allow);
        }
        at
    });
    for (from, jump) in to.jumps {
        let target = match jump {
            To::Deny => answers[0],
            To::Allow => answers[1],
            To::Block => block,
            To::Skip(count) => from + 1 + count,
        };
        let offset = i16::try_from(target - from - 1)
            .map_err(|_| Error::invalid("linux.resources.devices", "more rules than a device filter can have"))?;
        if let Some(insn) = to.insns.get_mut(from) {
            insn.offset = offset;
        }
    }
    Ok(to.insns)
}
