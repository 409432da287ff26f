//! Ending a command in a container together with what it has started.
//!
//! A parent that ends hands its children to the container's init, where nobody tells them from the container's own. But
//! every runtime makes a session for the command that it is told to run, and what the command leaves in the background
//! stays in it. So whoever is below the command or in its session is its offspring. One that has left both (a daemon)
//! is the container's business. This takes no cgroup, which a container may lack, and asks nothing of the runtime.

use std::collections::{BTreeMap, BTreeSet};
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
    let Some(command) = look(pid) else { return };
    let mut found = BTreeMap::from([(pid, command.start)]);
    let mut killed = BTreeSet::new();
    for _ in 0..ROUNDS {
        let doomed = offspring(&mut found, &all(), command);
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

/// Those of `all` that are among `found` (by pid and start), below them or in the session that `command` leads, if it leads one.
/// They are added to `found`.
///
/// A number counts only as long as it is that process's: whoever was found may have ended, and the next to get its pid is a
/// stranger with children of its own.
fn offspring(found: &mut BTreeMap<u32, u64>, all: &[Process], command: Process) -> BTreeSet<Process> {
    let starts: BTreeMap<u32, u64> = all.iter().map(|process| (process.pid, process.start)).collect();
    // Without its leader a session keeps its number to itself.
    let leads = command.session == command.pid && starts.get(&command.pid).is_none_or(|start| *start == command.start);
    let mut doomed = BTreeSet::new();
    loop {
        let before = doomed.len();
        for process in all {
            let is_found = |pid: u32| found.get(&pid).is_some_and(|start| starts.get(&pid) == Some(start));
            let is = is_found(process.pid) || is_found(process.parent) || (leads && process.session == command.session);
            if is {
                found.insert(process.pid, process.start);
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
        let pids = |command: Process| {
            let doomed = offspring(&mut BTreeMap::from([(20, 1)]), &all, command);
            doomed.into_iter().map(|process| process.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(process(20, 5, 20)), [20, 22, 30, 31, 40]);
        assert_eq!(pids(process(20, 5, 5)), [20, 30, 31, 40], "without a session of its own");
    }

    #[test]
    fn who_gets_the_pid_of_one_that_was_found_is_a_stranger() {
        let command = process(20, 5, 20);
        let mut found = BTreeMap::from([(20, 1), (30, 1)]);
        let stranger = |pid, parent, session| Process { pid, parent, session, start: 2 };
        // Of both pids the processes are others by now, with children; one leads a session of its own.
        let all = [stranger(20, 5, 20), stranger(21, 20, 20), stranger(30, 5, 30), stranger(31, 30, 30)];
        assert!(offspring(&mut found, &all, command).is_empty());
        // The leader is gone, its session is not.
        assert_eq!(offspring(&mut found, &[stranger(22, 1, 20)], command).len(), 1);
    }
}
