//! conmon's own complaints: on stderr as long as there is one, and in syslog if the caller wants that.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use super::flags::Flags;
use crate::error::{Error, Result};

/// Where the machine's log listens.
const SYSLOG: &str = "/dev/log";
/// syslog's facility `user` with the levels `err` and `info`.
const ERROR: u8 = 11;
const INFORMATION: u8 = 14;

/// The words for `--log-level`, loudest last; some have two names.
const LEVELS: [&[&str]; 5] = [&["error", "fatal", "panic"], &["warn", "warning"], &["info"], &["debug"], &["trace"]];
const WARN: usize = 1;

/// How loud it is to be, and for whom it speaks.
#[derive(Debug)]
pub(super) struct Say {
    cid: String,
    level: usize,
    syslog: bool,
}

impl Say {
    pub(super) fn new(flags: &Flags) -> Result<Self> {
        let wanted = flags.log_level.as_deref();
        let known = wanted.map_or(Some(WARN), |wanted| {
            LEVELS.iter().position(|names| names.iter().any(|name| name.eq_ignore_ascii_case(wanted)))
        });
        let level = known.ok_or_else(|| Error::invalid(format!("No such log level {}", wanted.unwrap_or_default())))?;
        Ok(Self { cid: flags.cid.chars().take(20).collect(), level, syslog: flags.syslog })
    }

    /// Says why conmon gives up.
    pub(super) fn error(&self, text: &str) {
        self.put("e", ERROR, "error", text);
    }

    /// Says what went wrong but does not matter much.
    pub(super) fn warn(&self, text: &str) {
        if self.level >= WARN {
            self.put("w", INFORMATION, "nwarn", text);
        }
    }

    fn put(&self, mark: &str, priority: u8, word: &str, text: &str) {
        complain(mark, text);
        if self.syslog
            && let Ok(socket) = UnixDatagram::unbound()
        {
            let line = format!("<{priority}>conmon: conmon {} <{word}>: {text}", self.cid);
            let _: io::Result<usize> = socket.send_to(line.as_bytes(), SYSLOG);
        }
    }
}

/// A line on stderr.
pub(super) fn complain(mark: &str, text: &str) {
    let _: io::Result<()> = writeln!(io::stderr(), "[conmon:{mark}]: {text}");
}
