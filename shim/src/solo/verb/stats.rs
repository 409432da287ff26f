//! `shim stats`: what containers use, once or as it changes.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use serde_json::{Value, json};

use crate::cli::{Format, Stats};
use crate::error::Result;
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::say;
use crate::solo::usage::Usage;
use crate::solo::verb::{not_running, ps};

/// How often the table is drawn anew, and over which time processor use is measured.
const INTERVAL: Duration = Duration::from_secs(1);
const HEADING: [&str; 6] = ["NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS"];
/// Clears the terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

type Sample = (Usage, Instant);

/// Prints what the containers use. Returns the exit code.
pub(crate) fn stats(layout: &Layout, stats: &Stats) -> Result<u8> {
    let chosen = stats.names.iter().map(|name| layout.find(name)).collect::<Result<Vec<_>>>()?;
    for directory in &chosen {
        if !matches!(directory.status()?, Status::Running { .. }) {
            return Err(not_running(&directory.name));
        }
    }
    let containers = || if chosen.is_empty() { layout.all() } else { Ok(chosen.clone()) };
    let (mut before, mut told) = (HashMap::new(), HashSet::new());
    sample(&containers()?, &mut before, &mut told);
    loop {
        let timeout = Timespec { tv_sec: INTERVAL.as_secs() as i64, tv_nsec: 0 };
        let _: rustix::io::Result<usize> = poll(&mut [], Some(&timeout));
        let rows = sample(&containers()?, &mut before, &mut told);
        match stats.format {
            Format::Json => say(&serde_json::to_string(&rows.iter().map(Row::json).collect::<Vec<_>>())?),
            Format::Table => {
                if !stats.no_stream {
                    say(CLEAR);
                }
                let cells: Vec<_> = rows.iter().map(Row::cells).collect();
                for line in ps::align(HEADING, &cells) {
                    say(&line);
                }
            }
        }
        if stats.no_stream {
            return Ok(0);
        }
    }
}

/// Measures all that run, and remembers that for the next time, and of whom it is told that it cannot be measured.
fn sample(containers: &[Directory], before: &mut HashMap<String, Sample>, told: &mut HashSet<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut now = HashMap::new();
    for directory in containers {
        // One that ends meanwhile uses nothing.
        let Ok(Status::Running { state, .. }) = directory.status() else { continue };
        let Ok(usage) = Usage::of(state.pid) else { continue };
        if usage.is_none() && told.insert(directory.name.clone()) {
            let name = &directory.name;
            let _: io::Result<()> = writeln!(io::stderr(), "shim: {name} has no cgroup: what it uses is not known");
        }
        let usage = usage.unwrap_or_default();
        let moment = Instant::now();
        let percent = before.get(&directory.name).and_then(|(past, then)| percent(past, &usage, moment - *then));
        rows.push(Row { name: directory.name.clone(), percent, usage: usage.clone() });
        now.insert(directory.name.clone(), (usage, moment));
    }
    *before = now;
    rows
}

/// Of one processor's time.
#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn percent(past: &Usage, now: &Usage, time: Duration) -> Option<f64> {
    let used = now.cpu_ns?.saturating_sub(past.cpu_ns?);
    Some(used as f64 / time.as_nanos().max(1) as f64 * 100.0)
}

struct Row {
    name: String,
    percent: Option<f64>,
    usage: Usage,
}

impl Row {
    fn json(&self) -> Value {
        let mut row = json!(self.usage);
        row["name"] = json!(self.name);
        row["cpu_percent"] = json!(self.percent);
        row
    }

    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    fn cells(&self) -> [String; 6] {
        let usage = &self.usage;
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "--".to_owned(), human);
        let percent =
            |percent: Option<f64>| percent.map_or_else(|| "--".to_owned(), |percent| format!("{percent:.2}%"));
        let memory = usage.memory.zip(usage.memory_limit);
        [
            self.name.clone(),
            percent(self.percent),
            format!("{} / {}", size(usage.memory), size(usage.memory_limit)),
            percent(memory.map(|(used, limit)| used as f64 / limit.max(1) as f64 * 100.0)),
            format!("{} / {}", size(usage.io_read), size(usage.io_write)),
            usage.pids.map_or_else(|| "--".to_owned(), |pids| pids.to_string()),
        ]
    }
}

/// Bytes as people read them.
#[expect(clippy::cast_precision_loss, reason = "rounded")]
fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{size:.1}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares() {
        for (bytes, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (64 << 20, "64.0MiB")] {
            assert_eq!(human(bytes), text);
        }
        let usage = |cpu_ns| Usage { cpu_ns, ..Usage::default() };
        let second = Duration::from_secs(1);
        assert_eq!(percent(&usage(Some(0)), &usage(Some(500_000_000)), second), Some(50.0));
        assert_eq!(percent(&usage(None), &usage(Some(5)), second), None);
    }
}
