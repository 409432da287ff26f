//! Which processors a process may run on (sched_setaffinity(2)).

use super::id_list::IdSet;
use crate::{
    error::{At, Error, Result},
    spec::CpuAffinity,
    sys,
};
use rustix::process::Pid;

/// `process.execCPUAffinity`: of a process that `exec` makes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Affinity {
    /// Until it is in the container's cgroup.
    initial: Option<IdSet>,
    /// From then on.
    last: Option<IdSet>,
}

impl Affinity {
    /// Translates and checks `process.execCPUAffinity`.
    pub(crate) fn of(affinity: Option<&CpuAffinity>) -> Result<Self> {
        let Some(CpuAffinity { initial, last }) = affinity else { return Ok(Self::default()) };
        let set = |name: &str, list: &str| match IdSet::parse(list) {
            Ok(set) => Ok(Some(set).filter(|set| set.len() > 0)),
            Err(rule) => Err(Error::invalid(format!("process.execCPUAffinity.{name}"), rule)),
        };
        Ok(Self { initial: set("initial", initial)?, last: set("final", last)? })
    }

    /// Does `clone` on the initial processors, and goes back to those of before. A child stays on them.
    pub(crate) fn around<T>(&self, clone: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(initial) = &self.initial else { return clone() };
        let before = sys::cpu_affinity().at("ask for the CPU affinity")?;
        sys::set_cpu_affinity(None, initial.words()).at("error setting initial CPU affinity")?;
        // The words are runc's: its tests look for them.
        tracing::debug!("nsexec: affinity: {:#x}", initial.words().first().copied().unwrap_or_default());
        let cloned = clone();
        sys::set_cpu_affinity(None, &before).at("go back to the CPU affinity of before")?;
        cloned
    }

    /// Gives `pid`, which is in the container's cgroup by now, its processors: those that were asked for, or all of the cgroup's.
    pub(crate) fn settle(&self, pid: Pid) -> Result<()> {
        match (&self.initial, &self.last) {
            (_, Some(last)) => sys::set_cpu_affinity(Some(pid), last.words()).at("error setting final CPU affinity"),
            (Some(_), None) => Ok(()),
            (None, None) => {
                reset(pid);
                Ok(())
            }
        }
    }
}

/// Lets `pid` run on every processor that its cgroup allows, now and later: where the runtime itself may run is its caller's
/// business, and none of the container's.
pub(crate) fn reset(pid: Pid) {
    if let Err(error) = sys::set_cpu_affinity(Some(pid), IdSet::all().words()) {
        tracing::warn!("the container keeps the caller's CPU affinity: {error}");
    }
}
