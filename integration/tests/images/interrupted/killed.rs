//! SIGKILL before any step of a verb, of its main thread and of those that work for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use integration::command::Out;
use integration::leak;

use super::{ENDLESS, KEPT, Yard, as_before, files};

/// One store for all the runs of a test.
struct Steps {
    yard: Yard,
    store: PathBuf,
    before: BTreeSet<PathBuf>,
}

impl Steps {
    fn new() -> Self {
        let yard = Yard::new();
        let store = yard.place.dir.join("store");
        yard.fill(&store);
        let before = files(&store);
        Self { yard, store, before }
    }

    fn ours(&self, words: &[&str]) -> Out {
        self.yard.imgtool(&self.store, words)
    }

    /// Kills the verb before each step (or each of a `stride`); `prepare` puts in place what it needs, `after` does
    /// what a user would do next.
    fn each(&self, verb: &[&str], strides: [usize; 2], prepare: impl Fn(), after: impl Fn(&Out)) {
        for (side, stride) in ["outside", "inside"].into_iter().zip(strides) {
            for n in (0..ENDLESS).step_by(stride.max(1)) {
                if stride == 0 {
                    break; // it has one thread
                }
                prepare();
                let (out, done) = self.yard.stalk(&self.store, side, n, verb);
                let what = format!("{side}, step {n}: {out}");
                self.yard.sound(&self.store, &what);
                after(&out);
                self.yard.tidy(&self.store);
                as_before(&self.store, &self.before, &what);
                assert!(leak::mounts(&self.yard.place.id).is_empty(), "{what}");
                if done {
                    break;
                }
            }
        }
    }
}

#[test]
fn pull() {
    let steps = Steps::new();
    let pulled = steps.yard.pulled.as_str();
    steps.each(
        &["pull", "-q", pulled],
        [1, 3],
        || {},
        |out| {
            steps.ours(&["pull", "-q", pulled]).ok();
            steps.yard.runnable(&steps.store, pulled, out);
        },
    );
}

#[test]
fn import_and_load() {
    let steps = Steps::new();
    let tar = steps.yard.tar.to_str().unwrap();
    steps.each(
        &["import", "-q", tar, "new:1"],
        [1, 2],
        || {},
        |_| drop(steps.ours(&["import", "-q", tar, "new:1"]).ok()),
    );
    let archive = steps.yard.place.dir.join("archive.tar");
    let archive = archive.to_str().unwrap();
    steps.ours(&["copy", "-q", &steps.yard.pulled, &format!("docker-archive:{archive}:loaded:1")]).ok();
    steps.each(
        &["load", "-q", "-i", archive],
        [2, 0],
        || {},
        |out| {
            steps.ours(&["load", "-q", "-i", archive]).ok();
            steps.yard.sound(&steps.store, out);
        },
    );
}

#[test]
fn bundle_and_unbundle() {
    let steps = Steps::new();
    let bundle = steps.yard.place.dir.join("b");
    let path = bundle.to_str().unwrap();
    let make = ["bundle", "-q", "--pull", "never", KEPT, path];
    let remove = || {
        // What has a record can be removed by it; what has none, not even a file of ours, is an empty directory.
        if bundle.join("bundle.json").exists() {
            steps.ours(&["unbundle", path]).ok();
        }
    };
    let works = |out: &Out| {
        let again = steps.ours(&make);
        assert_eq!(again.code, 0, "{again}\nafter {out}");
        steps.ours(&["unbundle", path]).ok();
        assert!(!bundle.exists());
    };
    steps.each(
        &make,
        [1, 1],
        || {},
        |out| {
            remove();
            works(out);
        },
    );
    let prepare = || drop(steps.ours(&make).ok());
    steps.each(&["unbundle", path], [1, 0], prepare, |out| {
        remove();
        works(out);
    });
    // A bundle in the store that nobody was told of.
    steps.each(
        &["bundle", "-q", "--pull", "never", KEPT],
        [3, 0],
        || {},
        |_| {
            for entry in fs::read_dir(steps.store.join("bundles")).into_iter().flatten().flatten() {
                if entry.path().join("bundle.json").exists() {
                    steps.ours(&["unbundle", entry.path().to_str().unwrap()]).ok();
                }
            }
            steps.ours(&["prune"]).ok();
            let _ = fs::remove_dir(steps.store.join("bundles"));
        },
    );
}

#[test]
fn commit() {
    let steps = Steps::new();
    let bundle = steps.yard.place.dir.join("b");
    let path = bundle.to_str().unwrap();
    steps.ours(&["bundle", "-q", KEPT, path]).ok();
    fs::write(bundle.join("rootfs/etc/changed"), super::noise(100_000)).unwrap();
    fs::remove_file(bundle.join("rootfs/etc/conf")).unwrap();
    let steps = Steps { before: files(&steps.store), ..steps };
    let verb = ["commit", path, "new:1"];
    let mounted = |out: &Out| {
        steps.ours(&verb).ok();
        steps.yard.sound(&steps.store, out);
    };
    for n in 0..ENDLESS {
        let (out, done) = steps.yard.stalk(&steps.store, "outside", n, &verb);
        let what = format!("step {n}: {out}");
        steps.yard.sound(&steps.store, &what);
        mounted(&out);
        let other = steps.yard.place.dir.join("other");
        steps.ours(&["bundle", "-q", "new:1", other.to_str().unwrap()]).ok();
        assert_eq!(fs::read(other.join("rootfs/etc/changed")).unwrap().len(), 100_000, "{what}");
        assert!(!other.join("rootfs/etc/conf").exists(), "{what}");
        steps.ours(&["unbundle", other.to_str().unwrap()]).ok();
        steps.yard.tidy(&steps.store);
        as_before(&steps.store, &steps.before, &what);
        if done {
            break;
        }
    }
    steps.ours(&["unbundle", path]).ok();
}

#[test]
fn push() {
    let steps = Steps::new();
    steps.ours(&["pull", "-q", &steps.yard.pulled]).ok();
    let before = files(&steps.store);
    let look = |reference: &str, out: &Out, whole: bool| {
        let store = steps.yard.place.dir.join("elsewhere");
        let pull = steps.ours_in(&store, &["pull", "-q", reference]);
        // Before the last step the name is not there at all.
        let absent = pull.code == 1 && pull.stderr.contains("not found") || pull.stderr.contains("no such");
        assert!(pull.code == 0 || (absent && !whole), "{pull}\nafter {out}");
        let _ = fs::remove_dir_all(&store);
    };
    for (side, stride) in [("outside", 2), ("inside", 3)] {
        for n in (0..ENDLESS).step_by(stride) {
            let target = format!("{}/{side}{n}:1", steps.yard.registry.host);
            let verb = ["push", "-q", &steps.yard.pulled, &target];
            let (out, done) = steps.yard.stalk(&steps.store, side, n, &verb);
            let what = format!("{side}, step {n}: {out}");
            steps.yard.sound(&steps.store, &what);
            as_before(&steps.store, &before, &what);
            look(&target, &out, false);
            steps.ours(&verb).ok();
            look(&target, &out, true);
            if done {
                break;
            }
        }
    }
}

#[test]
fn rm_and_prune_and_tag() {
    let steps = Steps::new();
    let pulled = steps.yard.pulled.as_str();
    let pull = || drop(steps.ours(&["pull", "-q", pulled]).ok());
    let images = || steps.ours(&["images", "-q"]).ok().stdout.lines().count();
    steps.each(&["rm", pulled], [1, 0], pull, |out| {
        // Its name is there, and all of the image with it; or it is gone.
        if images() == 2 {
            steps.yard.runnable(&steps.store, pulled, out);
        }
    });
    steps.each(
        &["prune", "--all"],
        [1, 0],
        || {
            pull();
            // A bundle keeps its image.
            steps.ours(&["bundle", "-q", KEPT, steps.bundle().to_str().unwrap()]).ok();
        },
        |_| {
            assert!(images() >= 1, "the bundle's image is there");
            steps.ours(&["unbundle", steps.bundle().to_str().unwrap()]).ok();
        },
    );
    steps.each(&["tag", KEPT, "new:1"], [1, 0], || {}, |_| drop(steps.ours(&["tag", KEPT, "new:1"]).ok()));
}

#[test]
fn volumes() {
    let mut steps = Steps::new();
    steps.ours(&["volume", "create", "kept"]).ok();
    steps.before = files(&steps.store);
    let file = steps.store.join("volumes/gone/directory/file");
    let make = || {
        steps.ours(&["volume", "create", "gone"]).ok();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
    };
    let names = || steps.ours(&["volume", "ls", "-q"]).ok().stdout;
    steps.each(&["volume", "rm", "gone"], [1, 0], make, |out| {
        assert!(file.exists() || names() == "kept\n", "all of it is there, or nothing: {out}");
        steps.ours(&["volume", "rm", "-f", "gone"]).ok();
    });
    steps.each(
        &["volume", "create", "gone"],
        [1, 0],
        || {},
        |_| drop(steps.ours(&["volume", "rm", "-f", "gone"]).ok()),
    );
}

#[test]
fn copy_into_an_archive_and_a_layout() {
    let steps = Steps::new();
    let beside = steps.yard.place.dir.join("beside");
    let (archive, layout) = (beside.join("a.tar"), beside.join("layout"));
    let target = |kind: &str, path: &Path| format!("{kind}:{}:new", path.display());
    let listed = |directory: &Path| {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let fresh = || {
        let _ = fs::remove_dir_all(&beside);
        fs::create_dir(&beside).unwrap();
    };
    let source = format!("store:{KEPT}");
    let verb = ["copy", "-q", &source, &target("docker-archive", &archive)];
    steps.each(&verb, [3, 3], fresh, |out| {
        // What has the name is whole, and the next one takes away what this one left.
        if !archive.exists() {
            steps.ours(&verb).ok();
        }
        steps.ours(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
        steps.ours(&["copy", "-q", &source, &target("oci-archive", &beside.join("b.tar"))]).ok();
        assert_eq!(listed(&beside), ["a.tar", "b.tar"], "{out}");
    });
    let verb = ["copy", "-q", &source, &target("oci", &layout)];
    steps.each(&verb, [3, 3], fresh, |out| {
        steps.ours(&verb).ok();
        // Files under way have no name, except while they take another's.
        let mut named = files(&layout);
        named.retain(|path| !path.file_name().unwrap().to_string_lossy().starts_with(".imgtool-"));
        assert_eq!(named.iter().filter(|path| layout.join(path).is_file()).count(), 5, "{named:?} {out}");
        let source = format!("oci:{}:new", layout.display());
        steps.ours(&["copy", "-q", &source, &target("oci", &beside.join("again"))]).ok();
    });
}

impl Steps {
    fn bundle(&self) -> PathBuf {
        self.yard.place.dir.join("bundle")
    }

    fn ours_in(&self, store: &Path, words: &[&str]) -> Out {
        self.yard.imgtool(store, words)
    }
}
