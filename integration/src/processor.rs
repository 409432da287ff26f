//! What a process costs in processor time.

use std::fs;
use std::time::Duration;

use crate::wait;

/// How much processor time the process uses in a second, in hundredths of one.
pub fn used_in_a_second(pid: i32) -> u64 {
    let before = used(pid);
    // There is nothing to wait for.
    wait::until(Duration::from_secs(1), Duration::from_secs(1), || None::<()>);
    used(pid) - before
}

fn used(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|e| panic!("process {pid}: {e}"));
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum()
}
