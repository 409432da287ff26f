//! `shim logs`: prints what a container has written, and with -f what it goes on to write.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::cli::Logs;
use crate::error::{Context, Error, Result};
use crate::io::events::forget_changes;
use crate::io::log::Stream;
use crate::io::log::read::{Entry, Form, Reader, readers};
use crate::io::time;
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::policy::LogDriver;
use crate::solo::record::open_alive;
use crate::solo::relay;
use crate::solo::session::Session;

/// How much is printed at once.
const CHUNK: usize = 64 * 1024;

/// Prints the log. Returns the exit code.
pub(crate) fn logs(layout: &Layout, logs: &Logs) -> Result<u8> {
    let directory = layout.find(&logs.name)?;
    let form = match directory.options().map(|options| options.log.driver).unwrap_or_default() {
        LogDriver::JsonFile => Form::Json,
        LogDriver::K8sFile => Form::K8s,
        LogDriver::Journald => {
            let text = format!("the journal has this log: journalctl CONTAINER_NAME={}", logs.name);
            return Err(Error::invalid(text));
        }
        LogDriver::None => return Err(Error::invalid(format!("container {} keeps no log", logs.name))),
    };
    let mut printer = Printer::new(logs)?;
    // Watched before it is read: nothing can be written unnoticed in between.
    let changes = logs.follow.then(|| watch(&directory)).transpose()?;
    let mut end = logs.follow.then(|| End::of(&directory)).transpose()?.flatten();
    let mut reader = Reader::open(&directory.log(), form)?;
    if !printer.first(&mut reader)? {
        return Ok(0);
    }
    if let Some(changes) = changes {
        while let Some(watched) = &mut end {
            relay::wait(&mut [
                PollFd::new(&changes, PollFlags::IN),
                PollFd::from_borrowed_fd(watched.as_fd(), PollFlags::IN),
            ])?;
            forget_changes(&changes)?;
            // What was written before the end is in the log by then.
            if watched.has_come(&directory)? {
                end = None;
            }
            if !printer.more(&mut reader)? {
                break;
            }
        }
    }
    Ok(0)
}

/// What tells of the container's end.
enum End {
    Monitor(Session),
    /// Its monitor was killed.
    Init(OwnedFd),
}

impl End {
    /// `None` means that it has ended.
    fn of(directory: &Directory) -> Result<Option<Self>> {
        match directory.status()? {
            Status::Exited(_) | Status::Lost => return Ok(None),
            Status::Running { state, watched: false } => return Ok(open_alive(&state).map(Self::Init)),
            Status::Running { .. } | Status::Starting | Status::Restarting(_) => {}
        }
        Ok(Session::connect(directory, false)?.map(Self::Monitor))
    }

    fn has_come(&mut self, directory: &Directory) -> Result<bool> {
        let ended = match self {
            Self::Init(pidfd) => return crate::reap::has_ended(&*pidfd),
            Self::Monitor(session) => session.has_ended()?,
        };
        // The monitor may have been killed; the container goes on.
        if ended && let Some(init @ Self::Init(_)) = Self::of(directory)? {
            *self = init;
            return Ok(false);
        }
        Ok(ended)
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Monitor(session) => session.as_fd(),
            Self::Init(pidfd) => pidfd.as_fd(),
        }
    }
}

fn watch(directory: &Directory) -> Result<OwnedFd> {
    let step = || format!("watch {}", directory.log().display());
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(step)?;
    // The directory and not the file: a full file is followed by a new one.
    let kinds = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&changes, &directory.path, kinds).context(step)?;
    Ok(changes)
}

/// Prints records where they belong.
struct Printer {
    stdout: BufWriter<io::Stdout>,
    tail: Option<usize>,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    timestamps: bool,
    /// Whether the next record of each stream begins a line.
    fresh: [bool; 2],
}

impl Printer {
    fn new(logs: &Logs) -> Result<Self> {
        let when = |flag: &str, text: &Option<String>| {
            let wrong = |text: &str| {
                Error::invalid(format!("--{flag} {text}: give a time (2026-01-02T03:04:05Z), seconds, or an age (10m)"))
            };
            text.as_deref().map(|text| moment(text, SystemTime::now()).ok_or_else(|| wrong(text))).transpose()
        };
        let tail = match logs.tail.as_deref() {
            None | Some("all" | "-1") => None,
            Some(text) => {
                let number = text.parse().map_err(|_| Error::invalid(format!("--tail {text}: give a number, or all")));
                Some(number?)
            }
        };
        Ok(Self {
            stdout: BufWriter::with_capacity(CHUNK, io::stdout()),
            tail,
            since: when("since", &logs.since)?,
            until: when("until", &logs.until)?,
            timestamps: logs.timestamps,
            fresh: [true, true],
        })
    }

    /// Prints what is there. `false` means that nobody reads any more.
    fn first(&mut self, reader: &mut Reader) -> Result<bool> {
        let Some(most) = self.tail else {
            return self.more(reader);
        };
        let mut last = VecDeque::new();
        reader.each(|entry| {
            if self.wants(&entry) {
                last.push_back(entry);
                if last.len() > most {
                    last.pop_front();
                }
            }
            Ok(true)
        })?;
        for entry in &last {
            if !readers(self.print(entry).map(|()| true))? {
                return Ok(false);
            }
        }
        readers(self.stdout.flush().map(|()| true))
    }

    /// Prints what has been written since.
    fn more(&mut self, reader: &mut Reader) -> Result<bool> {
        let read = reader.each(|entry| {
            if self.wants(&entry) {
                self.print(&entry)?;
            }
            Ok(true)
        })?;
        Ok(read && readers(self.stdout.flush().map(|()| true))?)
    }

    fn wants(&self, entry: &Entry) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        time::parse(&entry.time).is_none_or(|written| {
            self.since.is_none_or(|since| written >= since) && self.until.is_none_or(|until| written < until)
        })
    }

    fn print(&mut self, entry: &Entry) -> io::Result<()> {
        let fresh = std::mem::replace(&mut self.fresh[entry.stream as usize], entry.text.ends_with(b"\n"));
        let time = if self.timestamps && fresh { format!("{} ", entry.time) } else { String::new() };
        match entry.stream {
            Stream::Stdout => {
                self.stdout.write_all(time.as_bytes())?;
                self.stdout.write_all(&entry.text)
            }
            Stream::Stderr => {
                self.stdout.flush()?;
                let mut stderr = io::stderr();
                stderr.write_all(time.as_bytes())?;
                stderr.write_all(&entry.text)
            }
        }
    }
}

/// A point in time as people give it: RFC 3339 in UTC, a date, seconds since 1970, or how long ago.
fn moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    if let Ok(seconds) = text.parse::<f64>() {
        return SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?);
    }
    let whole = [text.to_owned(), format!("{text}Z"), format!("{text}T00:00:00Z")];
    whole.iter().find_map(|text| time::parse(text)).or_else(|| now.checked_sub(age(text)?))
}

/// An age such as `90s`, `10m` or `1h30m`.
fn age(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut whole = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|&digits| digits > 0)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        whole = whole.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |text| moment(text, now).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis());
        for (text, millis) in [
            ("0", Some(0)),
            ("12.5", Some(12_500)),
            ("1970-01-01T00:00:07Z", Some(7000)),
            ("1970-01-01T00:00:07", Some(7000)),
            ("1970-01-02", Some(86_400_000)),
            ("10s", Some(999_990_000)),
            ("1h30m", Some(994_600_000)),
            ("500ms", Some(999_999_500)),
            ("-5", None),
            ("yesterday", None),
            ("10x", None),
            ("m", None),
            ("", None),
        ] {
            assert_eq!(at(text), millis, "{text}");
        }
    }
}
