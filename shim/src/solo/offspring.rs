//! Ending a command in a container together with what it has started.
//!
//! A parent that ends hands its children to the container's init, where nobody tells them from the container's own. But
//! every runtime makes a session for the command that it is told to run, and what the command leaves in the background
//! stays in it. So whoever is below the command or in its session is its offspring. One that has left both (a daemon)
//! is the container's business. This takes no cgroup, which a container may lack, and asks nothing of the runtime.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Signal, pidfd_send_signal};

use crate::reap;
use crate::stat::Stat;

/// How often we look again for what was started meanwhile. Who is faster than that is for the container's limits.
const ROUNDS: usize = 16;

/// A process, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: u32,
    parent: u32,
    session: u32,
    start: u64,
}

/// Kills the command `pid` and all its offspring.
pub(super) fn end(pid: u32) {
    let leads = look(pid).is_some_and(|command| command.session == pid);
    let mut found = BTreeSet::from([pid]);
    let mut killed = BTreeSet::new();
    for _ in 0..ROUNDS {
        let all = all();
        let doomed = offspring(&mut found, &all, leads.then_some(pid));
        let fresh: Vec<_> = doomed.into_iter().filter(|process| killed.insert((process.pid, process.start))).collect();
        // Who has been killed starts nothing any more: when nobody new is found, nobody is left.
        if fresh.is_empty() {
            return;
        }
        for process in fresh {
            kill(process);
        }
    }
}

/// Those of `all` that are among `found`, below them or in `session`. They are added to `found`.
fn offspring(found: &mut BTreeSet<u32>, all: &[Process], session: Option<u32>) -> BTreeSet<Process> {
    let mut doomed = BTreeSet::new();
    loop {
        let before = doomed.len();
        for process in all {
            let is =
                found.contains(&process.pid) || found.contains(&process.parent) || Some(process.session) == session;
            if is {
                found.insert(process.pid);
                doomed.insert(*process);
            }
        }
        if doomed.len() == before {
            return doomed;
        }
    }
}

fn kill(process: Process) {
    let Ok(pidfd) = reap::open(process.pid) else { return };
    // Looked at again after opening: the descriptor is of the process that was found, or of nobody.
    if look(process.pid).is_some_and(|now| now.start == process.start) {
        // Already gone is fine.
        let _: rustix::io::Result<()> = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn look(pid: u32) -> Option<Process> {
    let Stat { parent, session, start, .. } = Stat::of(pid).ok()?;
    Some(Process { pid, parent, session, start })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, session: u32) -> Process {
        Process { pid, parent, session, start: 1 }
    }

    #[test]
    fn offspring_is_who_is_below_or_in_the_session() {
        // The init, the command with a child and a grandchild, one that init has inherited from it, one that has left the
        // session but not its parent, a daemon that has left both, and another command. The children come first.
        let all = [(31, 30), (30, 20), (20, 5), (1, 0), (22, 1), (40, 20), (50, 1), (60, 5)];
        let session = |pid| match pid {
            20 | 22 | 30 | 31 => 20,
            other => other,
        };
        let all = all.map(|(pid, parent)| process(pid, parent, session(pid)));
        let pids = |leads: Option<u32>| {
            let doomed = offspring(&mut BTreeSet::from([20]), &all, leads);
            doomed.into_iter().map(|process| process.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(Some(20)), [20, 22, 30, 31, 40]);
        assert_eq!(pids(None), [20, 30, 31, 40], "without a session of its own");
    }
}
