//! Under the engines that people use: containerd with our shim, and dockerd, with the runtime under test.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod containerd;
mod docker;
mod pipeline;

use std::path::{Path, PathBuf};
use std::process::Command;

use integration::case;
use integration::command::{self, Files, Out};
use integration::peer::image;
use integration::programs;

/// A directory for a test's daemons and stores, removed at its end.
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    calls: std::cell::Cell<u32>,
}

impl Place {
    pub(crate) fn new() -> Self {
        integration::cgroups::enter_asked();
        let id = case::unique();
        let dir = Path::new("/tmp").join(&id);
        std::fs::create_dir(&dir).unwrap();
        Self { id, dir, calls: std::cell::Cell::new(0) }
    }

    /// Runs one of our programs to its end.
    #[track_caller]
    pub(crate) fn ours(&self, program: &str, args: &[&str]) -> Out {
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
    pub(crate) fn small_image(&self) -> PathBuf {
        let tar = image::busybox_tar(&self.dir);
        let change = "CMD [\"/probe\",\"hold\"]";
        self.ours("imgtool", &["import", "--quiet", "-c", change, tar.to_str().unwrap(), "small:1"]).ok();
        tar
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left: Vec<String> = integration::leak::find(&self.id);
        integration::leak::remove(&self.id);
        if integration::leak::mounts(&self.id).is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
        assert!(std::thread::panicking() || left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}
