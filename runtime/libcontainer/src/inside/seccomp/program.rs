//! Classic BPF for a profile's answers.
//!
//! ```text
//!     load arch
//!     native?  ── no ──> next architecture ──> ... ──> return kill
//!     load number
//!     binary search over the ranges ──> return action
//!                                  └──> compare arguments ──> return action or default
//! ```
//!
//! The search is as deep as the logarithm of the number of ranges, and a constant answer takes no other load: the kernel
//! runs the filter for every number when it is loaded, and remembers which calls are always allowed.
//!
//! Classic BPF jumps forwards only, conditionally by at most 255 instructions. So the program is written from its end:
//! whatever an instruction jumps to is there already, and where it is too far away, a copy or a long jump is put between.

use super::Insn;
use super::arch::Width;
use super::profile::{Condition, Operator};
use super::verdict::{BAD_ARCH, Conditional, Range, Verdict, Verdicts};
use crate::error::{Error, Result};

/// The kernel's `BPF_MAXINSNS`.
pub(super) const MAX: usize = 4096;

/// How many single numbers are asked for one after the other: more make a smaller program that runs longer.
const ISLANDS: usize = 6;

// Opcodes (linux/bpf_common.h), all on the constant K.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE
const RETURN: u16 = 0x06; // BPF_RET

// Offsets in struct seccomp_data (linux/seccomp.h). Both machines are little-endian: the lower half comes first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

const fn lower(index: u8) -> u32 {
    16 + 8 * index as u32
}

const fn upper(index: u8) -> u32 {
    lower(index) + 4
}

/// An instruction of the program so far, counted from the end.
#[derive(Clone, Copy, PartialEq)]
struct Label(usize);

pub(super) fn program(verdicts: &Verdicts) -> Result<Vec<Insn>> {
    let mut writer = Writer {
        reversed: Vec::with_capacity(512),
        returns: Vec::new(),
        asked: vec![None; verdicts.conditional.len()],
        verdicts,
    };
    // The native architecture's part comes last here, so that it is the next to the beginning.
    let mut parts = Vec::new();
    for (arch, ranges) in verdicts.architectures.iter().rev() {
        let part = writer.search(ranges);
        // A single answer needs no number.
        parts.push((*arch, if ranges.len() > 1 { writer.push(LOAD, NUMBER) } else { part }));
    }
    let mut other = writer.answer(Verdict::Return(BAD_ARCH));
    for (arch, part) in parts {
        other = writer.branch(EQUAL, arch, part, other);
    }
    writer.push(LOAD, ARCH);
    let len = writer.reversed.len();
    if len > MAX {
        return Err(too_long(len));
    }
    writer.reversed.reverse();
    Ok(writer.reversed)
}

/// The refusal of a profile that takes so many instructions at least.
pub(super) fn too_long(len: usize) -> Error {
    let rule = format!(
        "the profile takes {len} instructions, more than the kernel's {MAX}: use fewer conditions on arguments"
    );
    Error::invalid("linux.seccomp", rule)
}

struct Writer<'a> {
    reversed: Vec<Insn>,
    /// The latest return of each action.
    returns: Vec<(u32, Label)>,
    /// The latest beginning of each conditional answer.
    asked: Vec<Option<Label>>,
    verdicts: &'a Verdicts,
}

impl Writer<'_> {
    fn push(&mut self, code: u16, k: u32) -> Label {
        self.reversed.push(Insn { code, jt: 0, jf: 0, k });
        Label(self.reversed.len() - 1)
    }

    /// How far the next instruction would have to jump.
    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - to.0 - 1
    }

    /// The label, or a stand-in that stays in reach of a conditional jump after so many further instructions.
    fn near(&mut self, to: Label, further: usize) -> Label {
        if self.distance(to) + further <= u8::MAX.into() {
            return to;
        }
        match self.reversed[to.0] {
            Insn { code: RETURN, k, .. } => self.give(k),
            _ => self.push(JUMP, self.distance(to) as u32),
        }
    }

    /// A conditional jump; it must be the next thing that runs before whatever was written last.
    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.reversed.push(Insn { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// A new return of the action.
    fn give(&mut self, action: u32) -> Label {
        let label = self.push(RETURN, action);
        match self.returns.iter_mut().find(|(known, _)| *known == action) {
            Some((_, latest)) => *latest = label,
            None => self.returns.push((action, label)),
        }
        label
    }

    fn answer(&mut self, verdict: Verdict) -> Label {
        match verdict {
            Verdict::Return(action) => {
                let known = self.returns.iter().find(|(known, _)| *known == action);
                if let Some((_, label)) = known { *label } else { self.give(action) }
            }
            Verdict::Ask(place) => {
                let place = place as usize;
                if let Some(label) = self.asked[place] {
                    return label;
                }
                let verdicts = self.verdicts;
                let label = self.conditional(&verdicts.conditional[place]);
                self.asked[place] = Some(label);
                label
            }
        }
    }

    /// A binary search down to a few numbers that stand out, which are then asked for one by one: that takes fewer
    /// instructions, and most of the time to load a filter goes by their count. The number is in the accumulator.
    fn search(&mut self, ranges: &[Range]) -> Label {
        let islands = self.islands(ranges);
        islands.unwrap_or_else(|| self.halve(ranges, Self::search))
    }

    fn halve(&mut self, ranges: &[Range], search: fn(&mut Self, &[Range]) -> Label) -> Label {
        if let [only] = ranges {
            return self.answer(only.verdict);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let yes = search(self, high);
        let no = search(self, low);
        self.branch(AT_LEAST, high[0].start, yes, no)
    }

    fn plain(&mut self, ranges: &[Range]) -> Label {
        self.halve(ranges, Self::plain)
    }

    /// Asks for the single numbers that part ranges of one answer, then for those ranges; nothing if there are no such
    /// numbers or too many.
    fn islands(&mut self, ranges: &[Range]) -> Option<Label> {
        const FEW: usize = 4 * ISLANDS;
        if !(3..=FEW).contains(&ranges.len()) {
            return None;
        }
        let (mut islands, mut found) = ([ranges[0]; ISLANDS], 0);
        let (mut rest, mut left) = ([ranges[0]; FEW], 0);
        for range in ranges {
            match rest[..left] {
                [.., before, one] if before.verdict == range.verdict && range.start == one.start + 1 => {
                    *islands.get_mut(found)? = one;
                    found += 1;
                    left -= 1;
                }
                _ => {
                    rest[left] = *range;
                    left += 1;
                }
            }
        }
        if found == 0 {
            return None;
        }
        let mut next = self.plain(&rest[..left]);
        for island in islands[..found].iter().rev() {
            let yes = self.answer(island.verdict);
            next = self.branch(EQUAL, island.start, yes, next);
        }
        Some(next)
    }

    fn conditional(&mut self, ask: &Conditional) -> Label {
        let mut otherwise = self.answer(Verdict::Return(self.verdicts.default));
        for rule in ask.alternatives.iter().rev() {
            let mut holds = self.answer(Verdict::Return(rule.action));
            for condition in rule.conditions.iter().rev() {
                holds = self.compare(condition, ask.width, holds, otherwise);
            }
            otherwise = holds;
        }
        otherwise
    }

    fn compare(&mut self, condition: &Condition, width: Width, yes: Label, no: Label) -> Label {
        // The kernel's instructions have no "not" and no "less".
        let (code, yes, no) = match condition.operator {
            Operator::Eq | Operator::MaskedEq => (EQUAL, yes, no),
            Operator::Ne => (EQUAL, no, yes),
            Operator::Gt => (GREATER, yes, no),
            Operator::Le => (GREATER, no, yes),
            Operator::Ge => (AT_LEAST, yes, no),
            Operator::Lt => (AT_LEAST, no, yes),
        };
        let half = |value: u64, shift: u32| (value >> shift) as u32;
        let index = condition.index;
        let mut next = yes;
        if half(condition.mask, 0) != 0 {
            next = self.half(code, lower(index), half(condition.mask, 0), half(condition.value, 0), yes, no);
        }
        if width == Width::Bits32 || half(condition.mask, 32) == 0 {
            return next;
        }
        let (mask, value) = (half(condition.mask, 32), half(condition.value, 32));
        if code == EQUAL {
            return self.half(EQUAL, upper(index), mask, value, next, no);
        }
        // Upper halves that differ decide, equal ones leave it to the lower halves.
        let equal = self.branch(EQUAL, value, next, no);
        self.branch(GREATER, value, yes, equal);
        self.push(LOAD, upper(index))
    }

    fn half(&mut self, code: u16, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        self.branch(code, value, yes, no);
        if mask != u32::MAX {
            self.push(AND, mask);
        }
        self.push(LOAD, offset)
    }
}
