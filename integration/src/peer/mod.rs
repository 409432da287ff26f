//! Real peers that tests bring up for themselves: a registry, containerd, dockerd. Each has all its files below the
//! test's own directory, speaks on a socket or port of its own, bears the test's id in its environment, and ends with
//! the guard that holds it. The system's own services are never touched.

pub mod containerd;
pub mod dockerd;
pub mod image;
pub mod libseccomp;
pub mod registry;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{leak, wait};

/// A service that ends when this is dropped.
pub struct Service {
    child: Child,
    /// What it wrote.
    pub log: PathBuf,
    name: String,
}

impl Service {
    /// Starts the program with its output in `log`.
    pub fn start(command: &mut Command, id: &str, log: &Path) -> Self {
        let file = File::create(log).expect("a log");
        let name = command.get_program().to_string_lossy().into_owned();
        command.env("TARE_TEST", id).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a second handle")).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}: run hack/setup"));
        Self { child, log: log.to_owned(), name }
    }

    /// Waits until the service answers.
    pub fn ready(&mut self, mut answers: impl FnMut() -> bool) {
        let limit = Duration::from_mins(1);
        let ready = wait::until(Duration::from_millis(20), limit, || {
            let ended = self.child.try_wait().expect("its status");
            assert!(ended.is_none(), "{} ended: {ended:?}\n{}", self.name, self.said());
            answers().then_some(())
        });
        assert!(ready.is_some(), "{} did not answer in {limit:?}\n{}", self.name, self.said());
    }

    /// What it wrote so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Kills it at once, as a crash does.
    pub fn crash(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let pid = self.pid();
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        if !wait::exited(pid, Duration::from_secs(20)) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Ends whatever still bears the id: shims and helpers of a service that has gone.
pub fn end_all(id: &str) {
    leak::remove(id);
}
