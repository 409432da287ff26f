//! The process that holds a pod's namespaces: it waits to be told to go, and collects what the pod's containers orphan.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

use crate::reap;

/// Holds until TERM or INT.
pub(crate) fn pause() -> ExitCode {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        set.add(signal);
    }
    if set.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    while let Ok(signal) = set.wait() {
        if signal != Signal::SIGCHLD {
            return ExitCode::SUCCESS;
        }
        reap::sweep(|_| false);
    }
    ExitCode::FAILURE
}
