//! What resident processes weigh.

use std::fs;
use std::time::Duration;

use integration::wait;

/// Figures of one process.
#[derive(Clone, Copy)]
pub(crate) struct Weight {
    /// KiB.
    pub(crate) pss: u64,
    /// KiB.
    pub(crate) rss: u64,
    pub(crate) threads: usize,
    pub(crate) descriptors: usize,
}

/// Pids of the processes whose command line has all of these words.
pub(crate) fn with(words: &[&str]) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let line = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let own = std::process::id() as i32;
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            let line = String::from_utf8_lossy(&line(pid)).replace('\0', " ");
            words.iter().all(|word| line.contains(word))
        })
        .collect()
}

/// Weighs a process. One that has ended in the meantime weighs nothing.
pub(crate) fn weigh(pid: i32) -> Option<Weight> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    let count = |dir: &str| fs::read_dir(format!("/proc/{pid}/{dir}")).map(Iterator::count).ok();
    Some(Weight { pss: field("Pss:")?, rss: field("Rss:")?, threads: count("task")?, descriptors: count("fd")? })
}

/// The mean of all, and the most threads and descriptors of one.
pub(crate) fn mean(pids: &[i32]) -> Weight {
    let all: Vec<Weight> = pids.iter().filter_map(|pid| weigh(*pid)).collect();
    assert!(!all.is_empty(), "nothing to weigh");
    let number = all.len() as u64;
    Weight {
        pss: all.iter().map(|one| one.pss).sum::<u64>() / number,
        rss: all.iter().map(|one| one.rss).sum::<u64>() / number,
        threads: all.iter().map(|one| one.threads).max().unwrap_or(0),
        descriptors: all.iter().map(|one| one.descriptors).max().unwrap_or(0),
    }
}

/// Processor time that these have used, in ticks, and how often they have been woken.
fn used(pids: &[i32]) -> (u64, u64) {
    let mut sum = (0, 0);
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        sum.0 += fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sum.1 += switches.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

/// What they use while nothing happens: ticks and wakes of all together in this time.
pub(crate) fn idle(pids: &[i32], time: Duration) -> (u64, u64) {
    let before = used(pids);
    // There is nothing to wait for.
    let _: Option<()> = wait::until(time, time, || None);
    let after = used(pids);
    (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1))
}
