//! What a birth has made so far. Dropped before it is disarmed, it takes all of it back.

use super::link::ToInside;
use crate::{
    error::{At, Error, Result},
    outside::{cgroup::Cgroup, net_devices, rdt},
    store::Slot,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid},
};

/// In the order in which things are made.
#[derive(Default)]
pub(crate) struct Undo {
    pub(crate) slot: Option<Slot>,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) rdt: Option<rdt::Group>,
    pub(crate) processes: Vec<(Pid, OwnedFd)>,
    pub(crate) devices: net_devices::Gift,
}

impl Undo {
    /// Waits until the process that was made needs ids; returns who does, which is on record from then on.
    pub(super) fn expect_needs_ids(&mut self, link: &ToInside) -> Result<Pid> {
        let Some((cloned, pidfd)) = self.processes.last() else {
            return Err(Error::other("init is not on record"));
        };
        let cloned = *cloned;
        let pid = link.expect_needs_ids(cloned, pidfd.as_fd())?;
        if pid != cloned {
            self.processes.push((pid, pidfd_open(pid, PidfdFlags::empty()).at("pidfd_open")?));
        }
        Ok(pid)
    }

    /// A waypoint is a child of ours too, beside the process that it made in its stead. Called late: by then it has long
    /// ended, and nobody waited for it.
    pub(super) fn reap_waypoint(&mut self) -> Result<()> {
        while self.processes.len() > 1 {
            let (_, waypoint) = self.processes.remove(0);
            waitid(WaitId::PidFd(waypoint.as_fd()), WaitIdOptions::EXITED).at("wait for the waypoint")?;
        }
        Ok(())
    }

    /// The birth is on record: everything stays. Returns what was made.
    pub(crate) fn disarm(mut self) -> (Option<Slot>, Option<Cgroup>, Vec<(Pid, OwnedFd)>) {
        self.rdt = None;
        self.devices = net_devices::Gift::default();
        (self.slot.take(), self.cgroup.take(), std::mem::take(&mut self.processes))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for (_, pidfd) in self.processes.drain(..).rev() {
            // Both fail only for a process that is gone already.
            let _ = crate::sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
            // `ALL`: a process made with CLONE_PARENT has no exit signal.
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | all_children());
        }
        std::mem::take(&mut self.devices).take_back();
        let complain = |what: &str, result: Result<()>| {
            if let Err(error) = result {
                tracing::warn!("undo: {what}: {error}");
            }
        };
        if let Some(cgroup) = self.cgroup.take() {
            complain("kill what is left in the cgroup", cgroup.kill_all());
            complain("remove the cgroup", cgroup.undo());
        }
        if let Some(rdt) = self.rdt.take() {
            complain("Intel RDT", rdt.remove());
        }
        if let Some(slot) = self.slot.take() {
            complain("remove the container's directory", slot.remove());
        }
    }
}

/// `__WALL`, which rustix has no name for.
fn all_children() -> WaitIdOptions {
    WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned())
}
