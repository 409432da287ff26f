//! A verb that is ended at any of its steps, by a SIGKILL, a full disk or a power cut: no image that was whole is lost, `fsck`
//! finds nothing broken, the same verb succeeds afterwards, and when what it made is removed the store is as it was.

mod cut;
mod full;
mod killed;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration::command::{self, Files, Out, tool};
use integration::peer::registry::Registry;
use integration::place::Place;
use integration::programs;

/// The image that is in the store before, and has to be there after.
const KEPT: &str = "kept:1";
/// Steps there are, at the most: the count ends where a run is over before its step comes.
const ENDLESS: u64 = 10_000;

/// A registry with the image `pulled:1`, and files that verbs are given. Stores come and go.
struct Yard {
    registry: Registry,
    place: Place,
    /// The image in the registry: three layers, the topmost of which can only be unpacked over the others.
    pulled: String,
    /// A tar of a root file system.
    tar: PathBuf,
    calls: Cell<u32>,
}

impl Yard {
    fn new() -> Self {
        let place = Place::new();
        let registry = Registry::start(&place.id, &place.dir);
        let root = place.dir.join("root");
        for name in ["bin", "etc/deep", "dev", "proc"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for (name, content) in [("bin/tool", "a tool"), ("etc/conf", "one"), ("etc/gone", "two"), ("etc/deep/file", "")]
        {
            fs::write(root.join(name), content).unwrap();
        }
        // More than a write, and nothing that compresses.
        fs::write(root.join("bin/large"), noise(300_000)).unwrap();
        fs::hard_link(root.join("bin/tool"), root.join("bin/same")).unwrap();
        std::os::unix::fs::symlink("tool", root.join("bin/link")).unwrap();
        let pulled = format!("{}/pulled:1", registry.host);
        let mut yard = Self { registry, tar: place.dir.join("root.tar"), place, pulled, calls: Cell::new(0) };
        tar(&root, &yard.tar, &["."]);
        yard.publish(&root);
        yard
    }

    fn publish(&mut self, root: &Path) {
        let layout = self.place.dir.join("layout");
        let layout = layout.to_str().unwrap();
        let image = format!("{layout}:x");
        tool("umoci", &["init", "--layout", layout]).ok();
        tool("umoci", &["new", "--image", &image]).ok();
        let (second, third) = (self.place.dir.join("second.tar"), self.place.dir.join("third.tar"));
        fs::write(root.join("etc/.wh.gone"), "").unwrap();
        fs::write(root.join("etc/new"), "three").unwrap();
        tar(root, &second, &["etc", "etc/.wh.gone", "etc/new"]);
        // No entries for its directories, and a hardlink to a file of a lower layer.
        fs::hard_link(root.join("etc/new"), root.join("bin/newer")).unwrap();
        tar(root, &third, &["etc/new", "bin/newer"]);
        tool("tar", &["--delete", "-f", third.to_str().unwrap(), "etc/new"]).ok();
        for tar in [&self.tar, &second, &third] {
            tool("umoci", &["raw", "add-layer", "--image", &image, tar.to_str().unwrap()]).ok();
        }
        let store = self.place.dir.join("unused");
        self.imgtool(&store, &["copy", "-q", &format!("oci:{image}"), &self.pulled]).ok();
    }

    /// A store with the image that has to be there after.
    fn fill(&self, store: &Path) {
        self.imgtool(store, &["import", "-q", "-c", "CMD [\"/bin/tool\"]", self.tar.to_str().unwrap(), KEPT]).ok();
    }

    fn command(&self, store: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(programs::ours("imgtool"));
        command.arg("--root").arg(store).args(words);
        command.env("TARE_TEST", &self.place.id).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, command: &mut Command) -> Out {
        let n = self.calls.get() + 1;
        self.calls.set(n);
        let files = Files::new(&self.place.dir, &format!("run{}", n % 50));
        command::run(command, &files)
    }

    #[track_caller]
    fn imgtool(&self, store: &Path, words: &[&str]) -> Out {
        self.run(&mut self.command(store, words))
    }

    /// Kills the verb before its step `n`. Tells also whether it has fewer, and was done.
    #[track_caller]
    fn stalk(&self, store: &Path, side: &str, n: u64, words: &[&str]) -> (Out, bool) {
        let ours = self.command(store, words);
        let mut command = Command::new(programs::stalk());
        command.args([side, &n.to_string(), "--"]).arg(ours.get_program()).args(ours.get_args());
        let out = self.run(command.env("TARE_TEST", &self.place.id).stdin(Stdio::null()));
        let done = out.stdout.contains("not reached");
        if done {
            assert_eq!(out.code, 0, "the verb works when nobody is killed: {out}");
            assert!(n > 0, "no step was found on the {side} of {words:?}");
            println!("{side} of {}: at most {n} steps", words[0]);
        }
        (out, done)
    }

    /// Requires that nothing is broken, and that what was whole before is whole.
    #[track_caller]
    fn sound(&self, store: &Path, what: &dyn std::fmt::Display) {
        let out = self.imgtool(store, &["fsck"]);
        assert_eq!((out.code, &*out.stdout, &*out.stderr), (0, "", ""), "{what}\n{out}");
        let image = self.imgtool(store, &["inspect", KEPT]);
        assert_eq!(image.code, 0, "{what}\n{image}");
    }

    /// Makes a bundle of an image that is in the store, looks into it and removes it.
    #[track_caller]
    fn runnable(&self, store: &Path, image: &str, what: &dyn std::fmt::Display) {
        let bundle = self.place.dir.join("bundle");
        let path = bundle.to_str().unwrap();
        let out = self.imgtool(store, &["bundle", "-q", "--pull", "never", image, path, "--", "/bin/tool"]);
        assert_eq!(out.code, 0, "{what}\n{out}");
        let large = fs::read(bundle.join("rootfs/bin/large")).unwrap_or_default();
        assert!(large == noise(300_000), "{what}: {} bytes of a file in {image}", large.len());
        if image == self.pulled {
            assert_eq!(fs::read(bundle.join("rootfs/bin/newer")).unwrap(), b"three", "{what}");
            assert!(!bundle.join("rootfs/etc/gone").exists(), "{what}");
        }
        self.imgtool(store, &["unbundle", path]).ok();
    }

    /// Removes all images but the kept one, and whatever nothing uses.
    #[track_caller]
    fn tidy(&self, store: &Path) {
        let images = self.imgtool(store, &["images", "--format", "json"]).ok().json();
        for name in images.as_array().unwrap().iter().filter_map(|image| image["name"].as_str()) {
            if !name.ends_with(KEPT) {
                self.imgtool(store, &["rm", name]).ok();
            }
        }
        self.imgtool(store, &["prune"]).ok();
    }
}

/// A tar of just these entries, or of all with ".".
fn tar(root: &Path, tar: &Path, names: &[&str]) {
    let mut args = vec!["-C", root.to_str().unwrap(), "--no-recursion", "-cf", tar.to_str().unwrap()];
    if names == ["."] {
        args.retain(|arg| *arg != "--no-recursion");
    }
    args.extend(names);
    tool("tar", &args).ok();
}

/// Bytes that do not compress, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

/// All files of a store but its locks.
fn files(store: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut pending = vec![store.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path == store.join("locks") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                pending.push(path.clone());
            }
            all.insert(path);
        }
    }
    all
}

/// Requires that a store has just these files again.
#[track_caller]
fn as_before(store: &Path, before: &BTreeSet<PathBuf>, what: &dyn std::fmt::Display) {
    let now = files(store);
    let (more, less): (Vec<_>, Vec<_>) = (now.difference(before).collect(), before.difference(&now).collect());
    assert!(more.is_empty() && less.is_empty(), "{what}\nleft behind: {more:?}\nlost: {less:?}");
}
