//! A file system that has no room left at any moment of a verb, for bytes or for files: the verb fails in one line that says
//! so, and what it took can be given back.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use integration::cgroups::leave_shared_mounts;
use integration::command::Out;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{KEPT, Yard, as_before, files};

const PAGE: u64 = 4096;
/// More than any of these stores has.
const WIDE: &str = "size=64m,nr_inodes=100000";

/// A tmpfs whose room can be changed.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounted for the calling thread and what it starts.
    fn new(at: PathBuf) -> Self {
        leave_shared_mounts();
        fs::create_dir_all(&at).unwrap();
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(WIDE)).expect("mount a tmpfs");
        Self { at }
    }

    fn set(&self, options: &str) {
        mount(None::<&str>, &self.at, None::<&str>, MsFlags::MS_REMOUNT, Some(options)).expect("change its size");
    }

    /// Leaves room for so many more pages, or files.
    fn leave(&self, what: Room, count: u64) {
        let stat = rustix::fs::statvfs(&self.at).unwrap();
        self.set(&match what {
            Room::Pages => format!("size={}", (stat.f_blocks - stat.f_bfree) * stat.f_frsize + count * PAGE),
            Room::Files => format!("nr_inodes={}", stat.f_files - stat.f_ffree + count),
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Room {
    Pages,
    Files,
}

struct Full {
    disk: Disk,
    yard: Yard,
    before: BTreeSet<PathBuf>,
}

impl Full {
    fn new() -> Self {
        let yard = Yard::new();
        let disk = Disk::new(yard.place.dir.join("store"));
        yard.fill(&disk.at);
        let before = files(&disk.at);
        Self { disk, yard, before }
    }

    fn ours(&self, words: &[&str]) -> Out {
        self.yard.imgtool(&self.disk.at, words)
    }

    /// Runs the verb with more and more room until that is enough. Tells how often it was not.
    fn squeeze(&self, what: Room, stride: usize, verb: &[&str], sound: impl Fn(&Out)) -> usize {
        let before = files(&self.disk.at);
        for (tries, count) in (0..100_000).step_by(stride).enumerate() {
            self.disk.leave(what, count);
            let out = self.ours(verb);
            self.disk.set(WIDE);
            if out.code == 0 {
                return tries;
            }
            out.clone().refused(&["No space left on device"]);
            self.yard.sound(&self.disk.at, &out);
            sound(&out);
            // What was complete of it would have served another try.
            self.ours(&["prune"]).ok();
            as_before(&self.disk.at, &before, &format!("room for {count} {what:?}: {out}"));
        }
        panic!("there is no end of it");
    }

    fn tidied(&self) {
        self.yard.tidy(&self.disk.at);
        as_before(&self.disk.at, &self.before, &"when all is removed");
    }
}

#[test]
fn pull() {
    let full = Full::new();
    let pulled = full.yard.pulled.as_str();
    for (what, stride) in [(Room::Pages, 2), (Room::Files, 1)] {
        let tries = full.squeeze(what, stride, &["pull", "-q", pulled], |_| {});
        assert!(tries > 10, "{tries}");
        full.yard.runnable(&full.disk.at, pulled, &"with room");
        full.tidied();
    }
}

#[test]
fn import_and_load() {
    let full = Full::new();
    let tar = full.yard.tar.to_str().unwrap();
    let archive = full.yard.place.dir.join("archive.tar");
    let archive = archive.to_str().unwrap();
    let source = full.yard.pulled.clone();
    full.ours(&["copy", "-q", &source, &format!("oci-archive:{archive}:loaded:1")]).ok();
    for (what, stride) in [(Room::Pages, 3), (Room::Files, 1)] {
        full.squeeze(what, stride, &["import", "-q", "--compression", "none", tar, "new:1"], |_| {});
        full.squeeze(what, stride, &["load", "-q", "-i", archive], |_| {});
        full.tidied();
    }
}

#[test]
fn bundle_and_commit_and_unbundle() {
    let full = Full::new();
    // On the full file system, beside the store.
    let bundle = full.disk.at.join("here");
    let path = bundle.to_str().unwrap();
    for what in [Room::Pages, Room::Files] {
        let gone = |_: &Out| assert!(!bundle.exists(), "a failed bundle is gone");
        full.squeeze(what, 1, &["bundle", "-q", "--copy", KEPT, path], gone);
        full.ours(&["unbundle", path]).ok();
        full.squeeze(what, 1, &["bundle", "-q", KEPT, path], gone);
        fs::write(bundle.join("rootfs/etc/changed"), super::noise(20_000)).unwrap();
        full.squeeze(what, 1, &["commit", path, "new:1"], |_| {});
        // What was there before the disk was full can be removed while it is.
        full.disk.leave(what, 0);
        full.ours(&["unbundle", path]).ok();
        full.disk.set(WIDE);
        full.tidied();
    }
}

#[test]
fn what_is_of_no_use_is_removed_from_a_full_disk() {
    let full = Full::new();
    let pulled = full.yard.pulled.as_str();
    for what in [Room::Pages, Room::Files] {
        full.ours(&["pull", "-q", pulled]).ok();
        // A killed download, which a later one would go on with.
        let partial = full.disk.at.join("ingest").join(format!("sha256-{}.partial", "a".repeat(64)));
        fs::write(&partial, super::noise(50_000)).unwrap();
        full.disk.leave(what, 0);
        full.ours(&["rm", pulled]).ok();
        assert!(!partial.exists());
        full.disk.set(WIDE);
        full.tidied();
    }
}
