//! The kernel's interpreter of classic BPF, as far as seccomp lets it: what a program answers, to hold it against others.

use super::Insn;

/// A system call as filters see it: `struct seccomp_data` of `linux/seccomp.h` without the instruction pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The call's number; bit 30 is x32's.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// All six registers, used or not.
    pub args: [u64; 6],
}

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// What `program` answers to `call` (`SECCOMP_RET_*` with its data), and in how many instructions. `None` where the kernel
/// would have refused the program.
pub fn interpret(program: &[Insn], call: &Call) -> Option<(u32, usize)> {
    if program.len() > LONGEST {
        return None;
    }
    let (mut at, mut steps, mut accumulator) = (0_usize, 0, None);
    loop {
        let Insn { code, jt, jf, k } = *program.get(at)?;
        at += 1;
        steps += 1;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = Some(load(call, k)?),
            0x54 => accumulator = Some(accumulator? & k),
            0x05 => at += k as usize,
            0x15 => at += branch(accumulator? == k),
            0x25 => at += branch(accumulator? > k),
            0x35 => at += branch(accumulator? >= k),
            0x45 => at += branch(accumulator? & k != 0),
            0x06 => return Some((k, steps)),
            _ => return None,
        }
    }
}

fn load(call: &Call, offset: u32) -> Option<u32> {
    match offset {
        0 => Some(call.number),
        4 => Some(call.arch),
        16..64 if offset.is_multiple_of(4) => {
            let arg = call.args[(offset as usize - 16) / 8];
            Some(if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 })
        }
        _ => None,
    }
}
