//! The pipes between conmon and whoever calls it. Their numbers are in the environment:
//!
//! ```text
//!   caller                               conmon
//!   _OCI_STARTPIPE   a byte ----------->         go on: the caller has put conmon into its cgroup
//!   _OCI_ATTACHPIPE         <-----------  0      (exec-attach) the attach socket is there
//!   _OCI_STARTPIPE   a byte ----------->         (exec-attach) somebody is attached: start the command
//!   _OCI_SYNCPIPE           <-----------  pid    or -1 and why not
//!                           <-----------  status (exec) how the command ended
//! ```
//!
//! Messages are lines of JSON, `{"data": 7, "message": "text"}`. Before there was `--api-version` the first field was
//! called `pid`, and `exit_code` for exec, which then told nothing but the end.

use std::env;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::error::{Context, Error, Result};

pub(super) const SYNC: &str = "_OCI_SYNCPIPE";
pub(super) const START: &str = "_OCI_STARTPIPE";
pub(super) const ATTACH: &str = "_OCI_ATTACHPIPE";

/// The descriptor that `variable` tells of.
pub(super) fn number(variable: &str) -> Result<Option<i32>> {
    let Some(text) = env::var_os(variable) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse::<i32>().ok()).filter(|&number| number > 2);
    number.map(Some).ok_or_else(|| Error::invalid(format!("unable to parse {variable}")))
}

/// A duplicate of the pipe that `variable` tells of. `None` means that there is none.
pub(super) fn borrow(variable: &str) -> Result<Option<OwnedFd>> {
    let Some(number) = number(variable)? else {
        return Ok(None);
    };
    let step = || format!("unable to use descriptor {number} of {variable}");
    // A number is no descriptor of ours until the kernel says so.
    let own = pidfd_open(getpid(), PidfdFlags::empty()).context(step)?;
    pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).map(Some).context(step)
}

/// Takes the pipe over, so that nothing that is started later holds it open.
pub(super) fn take(variable: &str) -> Result<Option<OwnedFd>> {
    let pipe = borrow(variable)?;
    if let Some(number) = number(variable)? {
        let _: nix::Result<()> = nix::unistd::close(number);
    }
    Ok(pipe)
}

/// Waits for a word of the caller's, or for its end.
pub(super) fn await_word(pipe: &OwnedFd) -> Result<()> {
    let step = || "start-pipe read failed";
    let mut buffer = [0_u8; 8192];
    loop {
        match read(pipe, &mut buffer[..]) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(pipe, PollFlags::IN)], None).context(step)?),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(step),
        }
    }
}

/// The end on which the caller is told things.
#[derive(Debug)]
pub(super) struct Report {
    pipe: Option<OwnedFd>,
    field: &'static str,
}

impl Report {
    /// `api_version` and `exec` decide on the form.
    pub(super) fn new(pipe: Option<OwnedFd>, api_version: bool, exec: bool) -> Self {
        let field = match (api_version, exec) {
            (true, _) => "data",
            (false, true) => "exit_code",
            (false, false) => "pid",
        };
        Self { pipe, field }
    }

    /// Tells a number, and perhaps what it means. A caller that has gone is not told anything any more.
    pub(super) fn tell(&mut self, number: i64, message: Option<&str>) {
        let Some(pipe) = &self.pipe else { return };
        let line = line(self.field, number, message);
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match write(pipe.as_fd(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.pipe = None;
                    return;
                }
            }
        }
    }
}

fn line(field: &str, number: i64, message: Option<&str>) -> String {
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{{\"{field}\": {number}, \"message\": {}}}\n", serde_json::Value::from(message)),
        None => format!("{{\"{field}\": {number}}}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_forms() {
        for (api_version, exec, text) in [
            (true, false, "{\"data\": 7}\n"),
            (true, true, "{\"data\": 7}\n"),
            (false, true, "{\"exit_code\": 7}\n"),
            (false, false, "{\"pid\": 7}\n"),
        ] {
            assert_eq!(line(Report::new(None, api_version, exec).field, 7, None), text);
        }
        assert_eq!(line("data", -1, Some("say \"no\"\n")), "{\"data\": -1, \"message\": \"say \\\"no\\\"\\n\"}\n");
        assert_eq!(line("data", -1, Some("")), "{\"data\": -1}\n");
    }
}
