//! Programs run, and checked as the kernel checks them.

pub(super) use super::super::Call as Data;
use super::super::{Insn, interpret};

/// The action, and how many instructions it took. Panics where the kernel would have refused the program.
pub(super) fn run(program: &[Insn], data: &Data) -> (u32, usize) {
    interpret(program, data).expect("a program that the kernel takes")
}

/// Checks what holds for each instruction, reachable or not: the kernel looks at all of them.
pub(super) fn check(program: &[Insn]) {
    for (at, insn) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match insn.code {
            0x05 => assert!((insn.k as usize) < left, "jump past the end at {at}"),
            0x15 | 0x25 | 0x35 => assert!(usize::from(insn.jt.max(insn.jf)) < left, "jump past the end at {at}"),
            _ => {}
        }
    }
    assert_eq!(program.last().map(|insn| insn.code), Some(0x06), "the last instruction returns");
}
