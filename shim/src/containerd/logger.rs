//! A program that logs a container's output (`binary:///path`).
//!
//! It gets the container's stdout as descriptor 3, stderr as 4, and on 5 says that it is ready.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;
use tokio::time::timeout;

use super::streams::Owner;
use super::watch::{self, Claim};
use crate::error::{Context, Error, Result};
use crate::io::console::set_nonblocking;
use crate::io::fifo::pipe;

/// How long a logger may take to end by itself once its input has ended, and then again after SIGTERM.
const PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// A running logger.
#[derive(Debug)]
pub(crate) struct Logger {
    child: Child,
    claim: Claim,
}

impl Logger {
    /// Starts the program and waits until it is ready. Returns the writing ends for stdout and stderr.
    pub(crate) async fn start(
        path: &Path,
        arguments: &[String],
        must_confirm: bool,
        owner: &Owner,
    ) -> Result<(Self, OwnedFd, OwnedFd)> {
        let ((stdout, stdout_writer), (stderr, stderr_writer), (ready, ready_writer)) =
            (pipe()?, pipe()?, pipe()?);
        let mut command = Command::new(path);
        command.args(arguments).env_clear();
        command
            .env("CONTAINER_ID", &owner.id)
            .env("CONTAINER_NAMESPACE", &owner.namespace);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mapping = |parent_fd, child_fd| FdMapping {
            parent_fd,
            child_fd,
        };
        let mappings = vec![
            mapping(stdout, 3),
            mapping(stderr, 4),
            mapping(ready_writer, 5),
        ];
        command
            .fd_mappings(mappings)
            .map_err(|error| Error::other(error.to_string()))?;
        let child = command
            .spawn()
            .context(|| format!("start the logging binary {}", path.display()))?;
        // The mapped descriptors live in the command: the logger's end must be visible as an end.
        drop(command);
        let claim = watch::claim(child.id())?;
        let logger = Self { child, claim };
        match logger.confirmed(ready).await {
            Ok(confirmed) if confirmed || !must_confirm => {
                Ok((logger, stdout_writer, stderr_writer))
            }
            Ok(_) => {
                logger.kill();
                Err(Error::other(
                    "logging binary did not call ready (it may have crashed or exited prematurely)",
                ))
            }
            Err(error) => {
                logger.kill();
                Err(error)
            }
        }
    }

    /// Whether a byte came before the end.
    async fn confirmed(&self, ready: OwnedFd) -> Result<bool> {
        set_nonblocking(&ready)?;
        let ready = watch::register(ready, Interest::READABLE)?;
        loop {
            let step = || "wait for the logging binary";
            let mut guard = ready.readable().await.context(step)?;
            match rustix::io::read(&ready, &mut [0_u8; 1][..]) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno).context(step),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        // Already gone is fine.
        let _: rustix::io::Result<()> = pidfd_send_signal(self.claim.pidfd(), signal);
    }

    fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Waits for the end of the program, whose input has ended; in the end by force.
    pub(crate) async fn finish(mut self) {
        let [by_itself, after_signal] = PATIENCE;
        if timeout(by_itself, self.claim.ended()).await.is_err() {
            self.signal(Signal::TERM);
            if timeout(after_signal, self.claim.ended()).await.is_err() {
                self.kill();
                let _: Result<()> = self.claim.ended().await;
            }
        }
        let _: std::io::Result<_> = self.child.wait();
    }
}
