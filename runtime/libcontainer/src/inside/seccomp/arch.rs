//! The machines that a filter can be for, and the calling conventions (ABIs) that a process on each can use.
//!
//! A kernel for x86-64 takes calls in three conventions, which seccomp tells apart by `seccomp_data.arch` and, for x32,
//! by bit 30 of the call's number; a kernel for arm64 takes two. The audit values are those of `linux/audit.h`.

use super::names::{ARM64, Calls, Names, X86};
use crate::error::{Error, Kind, Result};

/// Bit 30 of a call's number: an x32 call under the x86-64 architecture value.
pub(super) const X32_BIT: u32 = 1 << 30;

/// `AUDIT_ARCH_X86_64`, which x32 shares.
pub(super) const X86_64: u32 = 0xc000_003e;

/// Names of `linux.seccomp.architectures`, as the OCI specification and libseccomp have them, sorted.
pub(super) const KNOWN: [&str; 18] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// A kernel's processor family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64, with i386 and x32 processes.
    X86,
    /// arm64, with 32-bit arm processes.
    Arm64,
}

/// How many bits of an argument count.
///
/// The kernel may hand over rubbish in the upper half of a register that a 32-bit call never reads (`int 0x80` from
/// 64-bit code), so that a comparison which looked at it could be dodged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Bits32,
    Bits64,
}

/// One calling convention.
pub(super) struct Abi {
    pub(super) name: &'static str,
    /// `AUDIT_ARCH_*`.
    pub(super) audit: u32,
    pub(super) width: Width,
    /// Added to a number of `calls`: the x32 bit or nothing.
    pub(super) base: u32,
    /// Whether `socketcall` and `ipc` carry the socket and System V IPC calls.
    pub(super) carriers: bool,
    pub(super) calls: &'static Calls,
}

static X86_ABIS: [Abi; 3] = [
    Abi {
        name: "SCMP_ARCH_X86_64",
        audit: X86_64,
        width: Width::Bits64,
        base: 0,
        carriers: false,
        calls: &X86.calls[0],
    },
    Abi {
        name: "SCMP_ARCH_X32",
        audit: X86_64,
        width: Width::Bits32,
        base: X32_BIT,
        carriers: false,
        calls: &X86.calls[1],
    },
    Abi {
        name: "SCMP_ARCH_X86",
        audit: 0x4000_0003,
        width: Width::Bits32,
        base: 0,
        carriers: true,
        calls: &X86.calls[2],
    },
];

static ARM64_ABIS: [Abi; 2] = [
    Abi {
        name: "SCMP_ARCH_AARCH64",
        audit: 0xc000_00b7,
        width: Width::Bits64,
        base: 0,
        carriers: false,
        calls: &ARM64.calls[0],
    },
    Abi {
        name: "SCMP_ARCH_ARM",
        audit: 0x4000_0028,
        width: Width::Bits32,
        base: 0,
        carriers: false,
        calls: &ARM64.calls[1],
    },
];

impl Machine {
    /// The machine that this program was built for.
    ///
    /// # Errors
    /// Where the engine has no tables of system calls for it.
    pub fn native() -> Result<Self> {
        if cfg!(target_arch = "x86_64") {
            Ok(Self::X86)
        } else if cfg!(target_arch = "aarch64") {
            Ok(Self::Arm64)
        } else {
            let arch = std::env::consts::ARCH;
            Err(Error::new(Kind::Invalid, format!("linux.seccomp: seccomp profiles are not supported on {arch}")))
        }
    }

    /// The native convention first.
    pub(super) fn abis(self) -> &'static [Abi] {
        match self {
            Self::X86 => &X86_ABIS,
            Self::Arm64 => &ARM64_ABIS,
        }
    }

    pub(super) fn names(self) -> &'static Names {
        match self {
            Self::X86 => &X86.names,
            Self::Arm64 => &ARM64.names,
        }
    }
}
