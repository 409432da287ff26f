//! imgtool build: from a Dockerfile to an image that runs.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod attacks;
mod cache;
mod calls;
mod contexts;
mod copies;
mod devices;
mod flask;
mod instructions;
mod mistakes;
mod mounts;
mod outputs;
mod rootless;
mod together;

use std::fs;
use std::path::PathBuf;

use integration::command::Out;
use integration::place::Place;
use integration::programs::Runtime;
use serde_json::Value;

/// A place with an image `base` of busybox, and an empty context.
pub(crate) struct Yard {
    pub(crate) place: Place,
    pub(crate) context: PathBuf,
}

impl Yard {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let place = Place::new();
        let tar = integration::peer::image::busybox_tar(&place.dir);
        let args = ["import", "--quiet", "-c", "ENV BASE=1", tar.to_str().unwrap(), "base"];
        place.ours("imgtool", &args).ok();
        let context = place.dir.join("context");
        fs::create_dir(&context).unwrap();
        Self { place, context }
    }

    /// Writes a file of the context.
    #[track_caller]
    pub(crate) fn file(&self, name: &str, content: &str) -> &Self {
        let path = self.context.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// `imgtool build` of this Dockerfile, as `app`.
    #[track_caller]
    pub(crate) fn build(&self, dockerfile: &str, args: &[&str]) -> Out {
        self.file("Dockerfile", dockerfile);
        let mut all = vec!["build", "--progress", "plain", "-t", "app", "--runtime"];
        let runtime = Runtime::under_test().binary.to_str().unwrap();
        all.extend([runtime]);
        if !args.contains(&"--network") {
            all.extend(["--network", "none"]); // the host's bridges and rules are nobody's to change
        }
        all.extend(args);
        all.push(self.context.to_str().unwrap());
        let out = self.place.ours("imgtool", &all);
        let left: Vec<_> =
            fs::read_dir(self.place.dir.join("store/tmp")).unwrap().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "left of the build: {left:?}\n{out}");
        assert!(integration::leak::mounts(&self.place.id).is_empty(), "mounts are left");
        out
    }

    /// The config of an image.
    #[track_caller]
    pub(crate) fn config(&self, image: &str) -> Value {
        let text = self.place.ours("imgtool", &["inspect", image]).ok().stdout;
        let all: Value = serde_json::from_str(&text).unwrap();
        all[0]["config"].clone()
    }

    /// What a command prints in a container of an image.
    #[track_caller]
    pub(crate) fn prints(&self, image: &str, command: &[&str]) -> String {
        let mut args = vec!["bundle", "--quiet", image, "--"];
        args.extend(command);
        let bundle = self.place.ours("imgtool", &args).ok().stdout.trim().to_owned();
        let state = self.place.dir.join("state");
        let mut call = std::process::Command::new(&Runtime::under_test().binary);
        call.arg("--root").arg(state).args(["run", "--bundle", &bundle, &self.place.id]);
        call.env("TARE_TEST", &self.place.id).stdin(std::process::Stdio::null());
        let out = integration::command::run(&mut call, &integration::command::Files::new(&self.place.dir, "prints"));
        self.place.ours("imgtool", &["unbundle", &bundle]).ok();
        out.ok().stdout
    }
}
