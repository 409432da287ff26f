//! The kernel's interpreter of classic BPF, as far as seccomp lets it: what a program answers, and at what price.

use super::super::Insn;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) number: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

/// The action, and how many instructions it took. Panics where the kernel would have refused the program.
pub(super) fn run(program: &[Insn], data: &Data) -> (u32, usize) {
    assert!(program.len() <= 4096, "{} instructions", program.len());
    let (mut at, mut steps, mut accumulator) = (0, 0, None);
    loop {
        let Insn { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        let value = || accumulator.expect("a value was loaded");
        match code {
            0x20 => accumulator = Some(load(data, k)),
            0x54 => accumulator = Some(value() & k),
            0x05 => at += k as usize,
            0x15 => at += branch(value() == k),
            0x25 => at += branch(value() > k),
            0x35 => at += branch(value() >= k),
            0x06 => return (k, steps),
            _ => panic!("unknown instruction {code:#x} at {}", at - 1),
        }
    }
}

fn load(data: &Data, offset: u32) -> u32 {
    match offset {
        0 => data.number,
        4 => data.arch,
        16..64 if offset.is_multiple_of(4) => {
            let arg = data.args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
        _ => panic!("load from {offset}"),
    }
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
