//! Readiness of descriptors on the one thread's event loop, and the set of children that have an owner.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Context, Result};
use crate::reap::{self, Exit};

thread_local! {
    /// Children that somebody waits for by pidfd.
    static CLAIMED: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
    /// Runtimes at work, whose offspring must not be swept yet.
    static AT_WORK: RefCell<usize> = const { RefCell::new(0) };
}

/// Registers a descriptor with the event loop.
pub(crate) fn register<T: AsRawFd>(fd: T, interest: Interest) -> Result<AsyncFd<T>> {
    // The replacement is unsafe because a descriptor could be closed under it; those who own theirs cannot do that.
    #[expect(deprecated, reason = "the replacement needs unsafe, and an owner of its descriptor keeps the promise")]
    AsyncFd::with_interest(fd, interest).context(|| "watch a descriptor")
}

/// A process that will be collected through its pidfd and by nobody else.
#[derive(Debug)]
pub(crate) struct Claim {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
}

/// Claims process `pid`, living or a zombie.
pub(crate) fn claim(pid: u32) -> Result<Claim> {
    let pidfd = register(reap::open(pid)?, Interest::READABLE)?;
    CLAIMED.with_borrow_mut(|claimed| claimed.insert(pid));
    Ok(Claim { pid, pidfd })
}

impl Claim {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }

    /// Waits for the end of the process without collecting it.
    pub(crate) async fn ended(&self) -> Result<()> {
        // A pidfd stays readable: nothing to clear.
        self.pidfd.readable().await.map(|mut guard| guard.retain_ready()).context(|| "wait for a process")
    }

    /// Collects the ended process.
    pub(crate) fn collect(&self) -> Exit {
        reap::collect(self.pidfd()).ok().flatten().unwrap_or_else(Exit::unknown)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // May panic only if thread locals are gone, at the end of the process.
        let _: std::result::Result<bool, _> = CLAIMED.try_with(|claimed| claimed.borrow_mut().remove(&self.pid));
    }
}

/// Held while a runtime is at work and until the process that it made has been claimed.
#[derive(Debug)]
pub(crate) struct AtWork(());

impl AtWork {
    pub(crate) fn begin() -> Self {
        AT_WORK.with_borrow_mut(|count| *count += 1);
        Self(())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let last = AT_WORK.with_borrow_mut(|count| {
            *count -= 1;
            *count == 0
        });
        if last {
            sweep();
        }
    }
}

/// Collects orphans, unless a runtime is at work: then the last one to end does it.
pub(crate) fn sweep() {
    if AT_WORK.with_borrow(|count| *count == 0) {
        CLAIMED.with_borrow(|claimed| reap::sweep(|pid| claimed.contains(&pid)));
    }
}
