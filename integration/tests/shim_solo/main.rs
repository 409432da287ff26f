//! The shim alone: containers from a shell, over the runtime under test.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod health;
mod input;
mod life;
mod logs;
mod patience;
mod reliable;
mod tenancy;
mod terminal;
mod verbs;

use std::process::Command;
use std::time::Duration;

use integration::case::Case;
use integration::command::{self, LIMIT, Out};
use integration::{leak, programs, skip, wait};

/// A bundle, and a shim that keeps everything below the test's directory. The container bears the test's id as name.
pub(crate) struct Solo {
    pub(crate) case: Case,
}

impl Solo {
    pub(crate) fn new() -> Self {
        Self { case: Case::new() }
    }

    /// With this as the container's command.
    pub(crate) fn running(args: &[&str]) -> Self {
        let mut solo = Self::new();
        solo.case.args(args);
        solo
    }

    pub(crate) fn name(&self) -> &str {
        &self.case.id
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(programs::ours("shim"));
        command.arg("--root").arg(self.case.dir.join("containers")).arg("--run-root").arg(self.case.dir.join("run"));
        command.arg("--runtime").arg(&self.case.runtime.binary).arg("--runtime-root").arg(self.case.state_dir());
        command.args(args).env("TARE_TEST", &self.case.id).stdin(self.case.stdin());
        command
    }

    #[track_caller]
    pub(crate) fn shim(&self, args: &[&str]) -> Out {
        command::run(&mut self.command(args), &self.case.files())
    }

    /// `shim run` with these flags.
    #[track_caller]
    pub(crate) fn run(&self, flags: &[&str]) -> Out {
        command::run(&mut self.run_command(flags), &self.case.files())
    }

    pub(crate) fn run_command(&self, flags: &[&str]) -> Command {
        self.case.write();
        let mut args = vec!["run", "--name", self.name()];
        args.extend(flags);
        let bundle = self.case.bundle();
        args.push(bundle.to_str().unwrap());
        self.command(&args)
    }

    /// Runs it detached and waits until the probe holds.
    #[track_caller]
    pub(crate) fn hold(&self) {
        let out = self.run(&["-d"]).ok();
        assert_eq!(out.stdout, format!("{}\n", self.name()), "run -d prints the name");
        self.logged("ready");
    }

    /// Waits until the log has these words.
    #[track_caller]
    pub(crate) fn logged(&self, words: &str) {
        let found = wait::until(Duration::from_millis(10), LIMIT, || {
            // It may not be there yet: `run` in the foreground is still at work.
            self.shim(&["logs", self.name()]).stdout.contains(words).then_some(())
        });
        assert!(found.is_some(), "'{words}' is not in the log: {}", self.shim(&["logs", self.name()]));
    }

    /// The process that watches over the container.
    #[track_caller]
    pub(crate) fn monitor(&self) -> i32 {
        let is_it = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).nth(1) == Some(b"monitor")
        };
        leak::processes(self.name()).into_iter().find(is_it).expect("a monitor")
    }

    /// Its line in `ps -a`.
    #[track_caller]
    pub(crate) fn ps(&self) -> Option<String> {
        let table = self.shim(&["ps", "-a"]).ok().stdout;
        table.lines().find(|l| l.starts_with(self.name())).map(str::to_owned)
    }

    pub(crate) fn exit_json(&self) -> serde_json::Value {
        let path = self.case.dir.join("containers").join(self.name()).join("exit.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    /// Requires that nothing is left of the container: directory, sockets, processes, cgroups, the runtime's state.
    #[track_caller]
    pub(crate) fn gone(&self) {
        let left = || {
            let mut left = Vec::new();
            for dir in [self.case.dir.join("containers"), self.case.dir.join("run"), self.case.state_dir()] {
                let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
                left.extend(entries.map(|e| e.path().display().to_string()).filter(|p| !p.contains("/.empty")));
            }
            left.extend(leak::find(self.name()));
            left
        };
        // The monitor answers before it ends.
        let gone = wait::until(Duration::from_millis(10), LIMIT, || left().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind:\n{}", left().join("\n"));
    }
}

/// Tests the same with runc and with crun as the runtime.
pub(crate) fn over_others(test: impl Fn(Solo)) {
    for name in ["runc", "crun"] {
        let Some(binary) = programs::find(name.as_ref()) else { skip!("{name} is not installed") };
        let mut solo = Solo::new();
        if name == "crun" && integration::cgroups::mode() == integration::cgroups::Mode::Hybrid {
            integration::cgroups::enter_v1();
        }
        solo.case.runtime = programs::Runtime::at(&binary);
        test(solo);
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        // A panic in here while another one is on its way would end the whole test program, with nothing cleaned up.
        command::quietly(&mut self.command(&["rm", "-f", self.name()]));
        if !std::thread::panicking() {
            self.gone();
        }
    }
}
