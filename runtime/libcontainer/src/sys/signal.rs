//! Signals: sending by descriptor, receiving by descriptor, and the state that a new program starts with.

use super::check;
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    io::Result,
};

/// Sends any signal number, also 0 (is it alive?) and real-time ones, to the process that `pidfd` refers to.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: no siginfo is passed.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    })
    .map(drop)
}

/// Has a pipe that nobody reads be an error of write(2), and not the end of the program.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler is installed. It fails for signals only that do not exist.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// A signal in words, as Go and with it runc prints it: `bad system call`.
pub(crate) fn signal_text(signal: i32) -> String {
    // SAFETY: takes no pointers.
    let text = unsafe { libc::strsignal(signal) };
    if text.is_null() {
        return signal.to_string();
    }
    // SAFETY: the text is a static one, or of this thread until the next call; it is copied at once.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().to_lowercase()
}

/// Has each of `signals` end the caller at once, with 128 and its number as exit status; nothing is blocked any more, and
/// SIGPIPE (which the program ignores) does nothing. Other handlers went with `CLONE_CLEAR_SIGHAND`.
///
/// A program that the caller becomes starts with all signals at their defaults, without a further call: execve(2) forgets
/// handlers.
pub(crate) fn exit_on(signals: &[i32]) -> Result<()> {
    extern "C" fn leave(signal: libc::c_int) {
        super::exit(128 + signal)
    }
    extern "C" fn pass(_: libc::c_int) {}
    let leave: extern "C" fn(libc::c_int) = leave;
    let pass: extern "C" fn(libc::c_int) = pass;
    for (signal, handler) in signals.iter().map(|&signal| (signal, leave)).chain([(libc::SIGPIPE, pass)]) {
        // SAFETY: both handlers are functions of that signature, and do nothing that a handler may not do (signal-safety(7)).
        if unsafe { libc::signal(signal, handler as usize) } == libc::SIG_ERR {
            return Err(rustix::io::Errno::INVAL);
        }
    }
    SignalSet::empty().block_exactly()
}

/// Has a program begin with no signal blocked. It would inherit what its caller blocks to read it from a descriptor, and
/// could not be asked to end.
pub(crate) fn start_unblocked(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let unblock = || SignalSet::empty().block_exactly().map_err(std::io::Error::from);
    // SAFETY: between fork and exec there is one system call, and nothing is allocated.
    unsafe { command.pre_exec(unblock) };
}

/// A set of signals.
struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// None.
    fn empty() -> Self {
        // SAFETY: all-zero is a valid, empty set on Linux.
        Self(unsafe { std::mem::zeroed() })
    }

    /// All.
    fn all() -> Self {
        let mut set = Self::empty();
        // SAFETY: `set` is a valid set.
        unsafe { libc::sigfillset(&raw mut set.0) };
        set
    }

    /// These.
    fn of(signals: &[i32]) -> Self {
        let mut set = Self::empty();
        for &signal in signals {
            // SAFETY: `set` is a valid set; a number that is none changes nothing.
            unsafe { libc::sigaddset(&raw mut set.0, signal) };
        }
        set
    }

    /// Makes this the set of blocked signals of the calling thread.
    fn block_exactly(&self) -> Result<()> {
        // SAFETY: the set lives across the call; the old one is not asked for.
        check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) }.into()).map(drop)
    }
}

fn signal_fd(set: &SignalSet) -> Result<OwnedFd> {
    // SAFETY: the set lives across the call.
    let fd = unsafe { libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd.into())?;
    // SAFETY: the kernel made this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// signalfd(2): blocked signals, as a descriptor to poll.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks every signal and receives them here from now on. Never blocks on read.
    pub fn take_all() -> Result<Self> {
        let set = SignalSet::all();
        set.block_exactly()?;
        signal_fd(&set).map(Self)
    }

    /// Can be read while one of the signals is pending that ask a program to end; they stay pending.
    pub fn endings(&self) -> Result<OwnedFd> {
        signal_fd(&SignalSet::of(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM]))
    }

    /// The next pending signal's number.
    pub fn next(&self) -> Option<i32> {
        let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut buffer) {
            // `ssi_signo` is the structure's first field.
            Ok(n) if n == buffer.len() => Some(i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]])),
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
