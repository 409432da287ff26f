//! `events`: what a container uses, at intervals, and processes that the kernel killed for want of memory.

use crate::cli::{Events, Global};
use libcontainer::{
    At, Error, Kind, Result,
    life::{self, Status},
    outside::{
        cgroup::{Cgroup, Stats},
        network::{self, Interface},
        rdt,
    },
    process,
    store::State,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::AsFd,
    io::Errno,
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// One line of output: runc's names and order.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

#[derive(Serialize)]
struct Data {
    #[serde(flatten)]
    cgroup: Stats,
    intel_rdt: rdt::Stats,
    /// `null` for none.
    network_interfaces: Option<Vec<Interface>>,
}

pub(crate) fn run(global: &Global, args: &Events) -> Result<u8> {
    let interval = duration(&args.interval).ok_or_else(|| {
        let rule = "use a number with a unit (500ms, 5s, 1m30s)";
        Error::new(Kind::Invalid, format!("--interval: invalid duration {:?}: {rule}", args.interval))
    })?;
    if interval.is_zero() {
        return Err(Error::new(Kind::Invalid, "duration interval must be greater than 0"));
    }
    let slot = super::find(global, &args.id)?;
    let state = life::load(&slot).at_with(|| args.id.clone())?;
    if Status::of(&slot, &state) == Status::Stopped {
        return Err(Error::new(Kind::NotRunning, format!("container with id {} is not running", args.id)));
    }
    let cgroup = Cgroup::open(&state.cgroup)?;
    if args.stats {
        print(&state, "stats", Some(data(&state, &cgroup).at_with(|| args.id.clone())?))?;
        return Ok(0);
    }
    watch(&state, &cgroup, interval)?;
    Ok(0)
}

/// Prints until the container's init is gone.
fn watch(state: &State, cgroup: &Cgroup, interval: Duration) -> Result<()> {
    let init = process::open(state.pid, state.start_time)?;
    let mut oom = cgroup.watch_oom()?;
    if oom.is_none() {
        tracing::warn!(
            "{}: no memory controller: the kernel cannot tell of processes killed for want of memory",
            state.id
        );
    }
    let mut next = Instant::now() + interval;
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN)];
        fds.extend(oom.as_ref().map(|oom| PollFd::from_borrowed_fd(oom.as_fd(), PollFlags::IN)));
        let left = next.saturating_duration_since(Instant::now());
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Err(Errno::INTR) => continue,
            polled => polled.at("wait for events")?,
        };
        let ended = !fds[0].revents().is_empty();
        drop(fds);
        if oom.as_mut().is_some_and(libcontainer::outside::cgroup::OomWatch::happened) {
            print(state, "oom", None)?;
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            next = Instant::now() + interval;
            match data(state, cgroup) {
                Ok(data) => print(state, "stats", Some(data))?,
                // It may be about to end: then the next round sees it.
                Err(error) => tracing::error!("{}: {error}", state.id),
            }
        }
    }
}

fn data(state: &State, cgroup: &Cgroup) -> Result<Data> {
    let interfaces = network::interfaces(state)?;
    let network_interfaces = (!interfaces.is_empty()).then_some(interfaces);
    Ok(Data {
        cgroup: cgroup.stats()?,
        intel_rdt: state.rdt.as_ref().map(rdt::stats).unwrap_or_default(),
        network_interfaces,
    })
}

fn print(state: &State, kind: &str, data: Option<Data>) -> Result<()> {
    let event = Event { kind, id: &state.id, data };
    super::print_line(&serde_json::to_string(&event).map_err(|error| Error::other(error.to_string()))?)
}

/// As Go writes a span of time: numbers, perhaps with a fraction, each with a unit.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let after = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(after);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        if tail.is_empty() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1.5s", 1500), ("1h", 3_600_000), ("0", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "5 s", "5x", "1s5", "1..2s", "1e400h", "99999999999999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
