//! Seccomp profiles, compiled to classic BPF.
//!
//! [`compile`] is pure: it turns `linux.seccomp` of a configuration into a [`Filter`], or names the field that it refuses.
//! [`Filter::load`] gives the filter to the kernel, for the calling thread and all that it becomes.
//!
//! A profile means what it means to runc and crun, which leave it to libseccomp:
//!
//! * A call that no rule names gets the default action, and so does one whose rules' conditions all fail. Conditions of one
//!   rule must all hold, unless two of them are on one argument: then each is a rule of its own.
//! * A rule without conditions goes before those with conditions, the first of several before the others; a rule whose
//!   action is the default one says nothing. Names that no table has are passed over.
//! * i386 and x32 compare the lower 32 bits of arguments and values, x86-64 and arm64 all 64.
//! * Calls from an architecture that is not listed kill the thread; the native architecture is always listed.
//! * On i386 a rule for a socket or System V IPC call also means that call made through `socketcall` or `ipc`.
//! * Unless the default action lets calls through, numbers above the highest that the profile names get ENOSYS.

mod arch;
mod interpret;
mod names;
mod profile;
mod program;
#[cfg(test)]
mod tests;
mod verdict;

use std::os::fd::OwnedFd;

use rustix::thread::CapabilitySet;

pub use self::arch::Machine;
pub use self::interpret::{Call, interpret};
use self::profile::{ACTIONS, FLAGS, OPERATORS, Profile, flag};
use self::verdict::Verdicts;
use crate::error::{At, Error, Result};
use crate::spec::Seccomp;
use crate::sys;
pub use crate::sys::seccomp::Insn;

/// A compiled profile, to be loaded as often as one likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_*`, `NEW_LISTENER` included where it is needed.
    pub flags: u32,
    /// The program. It is empty for a profile that says nothing at all, and then nothing is loaded.
    pub program: Vec<Insn>,
    /// Whether loading gives a descriptor on which an agent answers calls (`SCMP_ACT_NOTIFY`).
    pub needs_listener: bool,
}

/// Compiles a profile for this machine.
///
/// # Errors
/// [`Kind::Invalid`] with the field's path: an action, operator, architecture or flag that does not exist, an argument
/// that no call has, an error number of more than 16 bits, an empty name, `SCMP_ACT_NOTIFY` where it would block the
/// start of the container, rules that contradict each other, or more rules than fit a program.
pub fn compile(profile: &Seccomp) -> Result<Filter> {
    compile_for(profile, Machine::native()?)
}

/// Compiles a profile for any machine, to look at what it would do there. Errors are those of [`compile`].
pub fn compile_for(profile: &Seccomp, machine: Machine) -> Result<Filter> {
    if profile.default_action.is_empty() && profile.syscalls.is_empty() {
        return Ok(Filter { flags: 0, program: Vec::new(), needs_listener: false });
    }
    let profile = Profile::of(profile, machine)?;
    let program = program::program(&Verdicts::of(&profile)?)?;
    Ok(Filter { flags: profile.flags, program, needs_listener: profile.flags & flag::NEW_LISTENER != 0 })
}

impl Filter {
    /// Loads the filter for this thread, and returns the listener where the profile needs one. The thread must have
    /// `no_new_privs` set or `CAP_SYS_ADMIN` in its user namespace; neither is this function's business.
    ///
    /// # Errors
    /// seccomp(2)'s.
    pub fn load(&self) -> Result<Option<OwnedFd>> {
        if self.program.is_empty() {
            return Ok(None);
        }
        sys::seccomp::set_filter(self.flags, &self.program).map_err(|errno| {
            let error = Error::from(errno);
            match errno {
                rustix::io::Errno::ACCESS => error.at("needs process.noNewPrivileges or CAP_SYS_ADMIN"),
                rustix::io::Errno::BUSY => error.at("a filter with a listener is loaded already"),
                _ => error,
            }
            .at("load seccomp filter")
        })
    }
}

/// The capability by which this thread may load a filter without `no_new_privs`.
///
/// # Errors
/// Where it does not have it, as the kernel would say.
pub(crate) fn may_load() -> Result<CapabilitySet> {
    let held = rustix::thread::capabilities(None).at("capget")?.effective;
    if held.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(CapabilitySet::SYS_ADMIN);
    }
    let refused = Error::from(rustix::io::Errno::ACCESS).at("needs process.noNewPrivileges or CAP_SYS_ADMIN");
    Err(refused.at("load seccomp filter").at("seccomp"))
}

/// Names of actions, sorted.
pub fn known_actions() -> impl Iterator<Item = &'static str> {
    ACTIONS.iter().map(|(name, _)| *name)
}

/// Names of operators, sorted.
pub fn known_operators() -> impl Iterator<Item = &'static str> {
    OPERATORS.iter().map(|(name, _)| *name)
}

/// Names of architectures, sorted. Those that this machine cannot run are accepted and left out.
pub fn known_architectures() -> impl Iterator<Item = &'static str> {
    arch::KNOWN.into_iter()
}

/// Names of flags.
pub fn known_flags() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|(name, _)| *name)
}

/// Names of the flags that this kernel takes.
pub fn supported_flags() -> impl Iterator<Item = &'static str> {
    let supported = |bit: u32| {
        // The kernel takes this flag together with a listener alone.
        let with = if bit == flag::WAIT_KILLABLE_RECV { flag::NEW_LISTENER } else { 0 };
        bit == 0 || sys::seccomp::takes_flags(bit | with)
    };
    FLAGS.iter().filter(move |(_, bit)| supported(*bit)).map(|(name, _)| *name)
}
