//! A place for the daemons and stores of one test, with our programs at hand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Files, Out};
use crate::peer::image;
use crate::{case, cgroups, leak, programs, wait};

/// A directory for a test's daemons and stores, removed at its end.
pub struct Place {
    /// The test's id.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    calls: std::cell::Cell<u32>,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new one, empty.
    pub fn new() -> Self {
        cgroups::enter_asked();
        let id = case::unique();
        let dir = Path::new("/tmp").join(&id);
        std::fs::create_dir(&dir).expect("a directory of the test's own");
        Self { id, dir, calls: std::cell::Cell::new(0) }
    }

    /// Runs one of our programs to its end.
    #[track_caller]
    pub fn ours(&self, program: &str, args: &[&str]) -> Out {
        let n = self.calls.get() + 1;
        self.calls.set(n);
        let mut command = Command::new(programs::ours(program));
        command.env("TARE_TEST", &self.id).stdin(std::process::Stdio::null());
        match program {
            "imgtool" => command.arg("--root").arg(self.dir.join("store")),
            "shim" => command
                .arg("--root")
                .arg(self.dir.join("containers"))
                .arg("--run-root")
                .arg(self.dir.join("run"))
                .arg("--runtime")
                .arg(&programs::Runtime::under_test().binary)
                .arg("--runtime-root")
                .arg(self.dir.join("state")),
            _ => &mut command,
        };
        command::run(command.args(args), &Files::new(&self.dir, &format!("call{n}")))
    }

    /// A small image named `small:1` in our store, whose command is the probe in `hold`.
    #[track_caller]
    pub fn small_image(&self) -> PathBuf {
        let tar = image::busybox_tar(&self.dir);
        let change = "CMD [\"/probe\",\"hold\"]";
        self.ours("imgtool", &["import", "--quiet", "-c", change, tar.to_str().unwrap(), "small:1"]).ok();
        tar
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is just ending is not left behind: an engine's cleanup, a daemon that was told to end.
        let gone = || leak::find(&self.id).is_empty().then_some(());
        wait::until(Duration::from_millis(50), Duration::from_secs(5), gone);
        let left: Vec<String> = leak::find(&self.id);
        leak::remove(&self.id);
        if leak::mounts(&self.id).is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
        assert!(std::thread::panicking() || left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}
