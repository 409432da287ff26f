//! The log, in runc's two formats: engines read the JSON lines of `--log-format json` for the text of an error.

use crate::cli::{Global, LogFormat};
use libcontainer::{At, Result, shortened};
use rustix::fd::{AsFd, BorrowedFd};
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    fs::File,
    io::Write as _,
    sync::OnceLock,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Of one message, in bytes.
const MAX_TEXT: usize = 8 << 10;

static FILE: OnceLock<File> = OnceLock::new();

/// Opens the log and sends everything there from now on.
pub(crate) fn set_up(global: &Global) -> Result<()> {
    if let Some(path) = &global.log {
        let file = File::options().append(true).create(true).open(path);
        // Set once: this is called once.
        let _ = FILE.set(file.at_with(|| format!("open the log {}", path.display()))?);
    }
    let level = if global.debug { Level::DEBUG } else { Level::INFO };
    let log = Log { json: global.log_format == LogFormat::Json, level };
    // Fails only where a log is set up already.
    drop(tracing::subscriber::set_global_default(log));
    Ok(())
}

/// Whether the log goes to a file.
pub(crate) fn to_file() -> bool {
    FILE.get().is_some()
}

/// The file's descriptor, if the log goes to one.
pub(crate) fn descriptor() -> Option<BorrowedFd<'static>> {
    FILE.get().map(AsFd::as_fd)
}

/// runc's formats are not among those of ready-made subscribers; events are all that we use.
struct Log {
    json: bool,
    level: Level,
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'a str,
    msg: &'a str,
    time: &'a str,
}

impl Log {
    fn line(&self, level: Level, message: &str) -> String {
        let level = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let time = now();
        let message = &*shortened(message, MAX_TEXT);
        if self.json {
            return serde_json::to_string(&Line { level, msg: message, time: &time }).unwrap_or_default();
        }
        if !to_file() && level == "error" {
            // What a person reads on a terminal is one plain line.
            return format!("runtime: {}", one_line(message));
        }
        format!("time=\"{time}\" level={level} msg={message:?}")
    }
}

/// Names in an error may be anything; a person gets one line of them, and no control characters.
pub(crate) fn one_line(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    shortened(text, MAX_TEXT).chars().map(escaped).collect()
}

/// RFC 3339, in UTC, to the second.
fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    crate::verb::rfc3339(now, None)
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let line = self.line(*event.metadata().level(), &message.0) + "\n";
        // There is no other place to say that the log cannot be written.
        let _ = match FILE.get() {
            Some(mut file) => file.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        // No spans are enabled.
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_engines_read() {
        let log = Log { json: true, level: Level::INFO };
        let line = log.line(Level::ERROR, "exec: \"x\": not found");
        assert!(line.starts_with(r#"{"level":"error","msg":"exec: \"x\": not found","time":"2"#), "{line}");
        let log = Log { json: false, ..log };
        assert!(log.line(Level::WARN, "a \"b\"").ends_with(r#"level=warning msg="a \"b\"""#));
    }
}
