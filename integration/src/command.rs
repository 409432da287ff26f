//! Running a program with its output in files, so that what it leaves behind may go on writing, and with a time limit.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::report::{Outcome, Report};
use crate::wait;

/// Longer than anything here takes on a slow machine: a program that needs more hangs.
pub const LIMIT: Duration = Duration::from_mins(3);

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Out {
    /// What was run, for messages.
    pub line: String,
    /// Exit status; 128 + n after signal n.
    pub code: i32,
    /// Standard output so far.
    pub stdout: String,
    /// Standard error so far.
    pub stderr: String,
    /// A peer's: its words are its own, and not tested.
    pub peer: bool,
}

impl Out {
    /// Requires status 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.is(0)
    }

    /// Requires this status.
    #[track_caller]
    pub fn is(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Requires status 1 and exactly one line on stderr that has all these words. Of a peer: that it refuses, and says
    /// something.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        if self.peer {
            assert!(self.code != 0 && !self.stderr.is_empty(), "{self}");
            return self;
        }
        assert_eq!(self.code, 1, "{self}");
        assert_eq!(self.stderr.lines().count(), 1, "one line on stderr: {self}");
        for word in words {
            assert!(self.stderr.contains(word), "stderr does not name '{word}': {self}");
        }
        self
    }

    /// stdout as the probe's report.
    #[track_caller]
    pub fn report(&self) -> Report {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not a report: {e}: {self}"))
    }

    /// stdout as the probe's list of outcomes.
    #[track_caller]
    pub fn outcomes(&self) -> Vec<Outcome> {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not a list of outcomes: {e}: {self}"))
    }

    /// stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON: {e}: {self}"))
    }
}

impl std::fmt::Display for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}", self.line, self.code, self.stdout, self.stderr)
    }
}

/// Where the output of one run goes.
pub struct Files {
    /// File for stdout.
    pub stdout: PathBuf,
    /// File for stderr.
    pub stderr: PathBuf,
}

impl Files {
    /// Two files named after `name` in `dir`.
    pub fn new(dir: &Path, name: &str) -> Self {
        Self { stdout: dir.join(format!("{name}.out")), stderr: dir.join(format!("{name}.err")) }
    }

    /// Points the command there. stdin stays as it was set.
    pub fn attach(&self, command: &mut Command) {
        command.stdout(File::create(&self.stdout).expect("a file for stdout"));
        command.stderr(File::create(&self.stderr).expect("a file for stderr"));
    }
}

/// Runs to the end, at most [`LIMIT`].
#[track_caller]
pub fn run(command: &mut Command, files: &Files) -> Out {
    let line = line(command);
    files.attach(command);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("`{line}`: {e}"));
    if !wait::exited(child.id() as i32, LIMIT) {
        let _ = child.kill();
        let _ = child.wait();
        panic!(
            "`{line}` did not end in {LIMIT:?}\n--- stdout\n{}\n--- stderr\n{}",
            read(&files.stdout),
            read(&files.stderr)
        );
    }
    let status = child.wait().expect("its status");
    Out { line, code: code(status), stdout: read(&files.stdout), stderr: read(&files.stderr), peer: false }
}

/// Runs to the end for cleaning up: no output, no panic, and no longer than half a minute.
pub fn quietly(command: &mut Command) {
    let Ok(mut child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else { return };
    if !wait::exited(child.id() as i32, LIMIT / 2) {
        let _ = child.kill();
    }
    let _ = child.wait();
}

/// Runs a tool of the host in a temporary directory of its own; for what leaves nothing running.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Out {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run(Command::new(program).args(args).stdin(Stdio::null()), &Files::new(dir.path(), "tool"))
}

/// The exit status as a shell says it.
pub fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}
