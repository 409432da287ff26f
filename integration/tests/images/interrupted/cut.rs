//! The power goes: of what was written, only what the kernel was made to bring to the disk is there afterwards.
//!
//! The store is on an ext4 in a file, mounted so that nothing reaches that file by itself. A copy of the file, made the moment
//! a verb was killed, is what the disk has after a power cut; it is mounted, under the boot id of another boot.

use std::fs;
use std::path::{Path, PathBuf};

use integration::cgroups::leave_shared_mounts;
use integration::command::{Out, tool};
use integration::skip;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{ENDLESS, KEPT, Yard};

/// Neither the journal nor file contents are written for an hour, unless someone syncs; and ext4 does not help those who
/// rename without syncing.
const LAZY: &str = "loop,commit=3600,noauto_da_alloc";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

macro_rules! wants_loop_devices {
    () => {
        if !Path::new("/dev/loop-control").exists() {
            skip!("there are no loop devices to mount a disk of a test's own");
        }
    };
}

/// A file system in a file, mounted. All of them are mounted at the same place, one over the other, as it is one disk.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(file: &Path) -> Self {
        let at = file.with_file_name("disk");
        fs::create_dir_all(&at).unwrap();
        tool("mount", &["-t", "ext4", "-o", LAZY, file.to_str().unwrap(), at.to_str().unwrap()]).ok();
        Self { at }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // And what is mounted in it.
        umount2(&self.at, MntFlags::MNT_DETACH).expect("unmount the disk");
    }
}

struct Cut {
    yard: Yard,
    /// On the disk.
    store: PathBuf,
    /// A disk with the kept image, before each run.
    first: PathBuf,
}

impl Cut {
    fn new(prepare: impl Fn(&Yard, &Path)) -> Self {
        leave_shared_mounts();
        let yard = Yard::new();
        let first = yard.place.dir.join("first");
        fs::File::create(&first).and_then(|file| file.set_len(24 << 20)).unwrap();
        tool("mkfs.ext4", &["-q", "-F", "-b", "4096", first.to_str().unwrap()]).ok();
        let store = yard.place.dir.join("disk/store");
        let disk = Disk::mount(&first);
        yard.fill(&store);
        prepare(&yard, &store);
        tool("sync", &["-f", store.to_str().unwrap()]).ok();
        drop(disk);
        Self { yard, store, first }
    }

    fn ours(&self, words: &[&str]) -> Out {
        self.yard.imgtool(&self.store, words)
    }

    fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.yard.place.dir.join(name);
        let _ = fs::remove_file(&to);
        tool("cp", &["--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]).ok();
        to
    }

    /// Cuts the power before steps of the verb, and once when it is done; `after` looks at what the next boot has, and is told
    /// whether the verb was done.
    fn each(&self, verb: &[&str], strides: [usize; 2], after: impl Fn(bool)) {
        for (side, stride) in ["outside", "inside"].into_iter().zip(strides) {
            for n in (0..ENDLESS).step_by(stride.max(1)) {
                if stride == 0 {
                    break; // it has one thread
                }
                let work = self.copy(&self.first, "work");
                let disk = Disk::mount(&work);
                let (out, done) = self.yard.stalk(&self.store, side, n, verb);
                let after_cut = Disk::mount(&self.copy(&work, "left"));
                let boot = self.other_boot();
                let what = format!("{side}, step {n}: {out}");
                self.yard.sound(&self.store, &what);
                self.yard.runnable(&self.store, KEPT, &what);
                after(done);
                self.yard.sound(&self.store, &what);
                drop((boot, after_cut, disk));
                if done {
                    break;
                }
            }
        }
    }

    /// What the kernel calls this boot, for as long as the value lives.
    fn other_boot(&self) -> OtherBoot {
        let file = self.yard.place.dir.join("boot_id");
        fs::write(&file, "01234567-89ab-cdef-0123-456789abcdef\n").unwrap();
        mount(Some(&file), BOOT, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("another boot id");
        OtherBoot
    }
}

struct OtherBoot;

impl Drop for OtherBoot {
    fn drop(&mut self) {
        umount2(BOOT, MntFlags::MNT_DETACH).expect("this boot's id");
    }
}

#[test]
fn pull() {
    wants_loop_devices!();
    let cut = Cut::new(|_, _| {});
    let pulled = cut.yard.pulled.as_str();
    cut.each(&["pull", "-q", pulled], [2, 7], |done| {
        if done {
            // Without the registry: all of the image is there.
            cut.yard.runnable(&cut.store, pulled, &"pulled before the cut");
        }
        cut.ours(&["pull", "-q", pulled]).ok();
        cut.yard.runnable(&cut.store, pulled, &"pulled after the cut");
    });
}

#[test]
fn import_and_load() {
    wants_loop_devices!();
    let cut = Cut::new(|_, _| {});
    let tar = cut.yard.tar.to_str().unwrap();
    cut.each(&["import", "-q", tar, "new:1"], [4, 4], |done| {
        if done {
            cut.yard.runnable(&cut.store, "new:1", &"imported before the cut");
        }
        cut.ours(&["import", "-q", tar, "new:1"]).ok();
    });
    let archive = cut.yard.place.dir.join("archive.tar");
    let archive = archive.to_str().unwrap();
    let source = cut.yard.pulled.as_str();
    cut.ours(&["copy", "-q", source, &format!("oci-archive:{archive}:loaded:1")]).ok();
    cut.each(&["load", "-q", "-i", archive], [7, 0], |done| {
        if done {
            cut.yard.runnable(&cut.store, "loaded:1", &"loaded before the cut");
        }
        cut.ours(&["load", "-q", "-i", archive]).ok();
    });
}

#[test]
fn bundles_and_what_their_containers_changed() {
    wants_loop_devices!();
    let cut = Cut::new(|_, _| {});
    let bundle = cut.store.with_file_name("bundle");
    let path = bundle.to_str().unwrap();
    let make = ["bundle", "-q", "--pull", "never", KEPT, path, "--", "/bin/tool"];
    cut.each(&make, [2, 0], |done| {
        let config = bundle.join("config.json");
        assert!(config.exists() || !done);
        if config.exists() {
            let config: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
            assert_eq!(config["process"]["args"][0], "/bin/tool");
            // Its layer had not reached the disk, its blob had.
            cut.ours(&["mount", path]).ok();
            assert!(fs::read(bundle.join("rootfs/bin/large")).unwrap() == super::noise(300_000));
            fs::write(bundle.join("rootfs/etc/changed"), "yes").unwrap();
            cut.ours(&["commit", path, "new:1"]).ok();
        }
        if bundle.join("bundle.json").exists() {
            cut.ours(&["unbundle", path]).ok();
        }
        cut.ours(&make).ok();
        cut.ours(&["unbundle", path]).ok();
    });
}

#[test]
fn commit() {
    let bundle = |store: &Path| store.with_file_name("bundle").to_str().unwrap().to_owned();
    wants_loop_devices!();
    let cut = Cut::new(|yard, store| {
        yard.imgtool(store, &["bundle", "-q", KEPT, &bundle(store)]).ok();
        fs::write(store.with_file_name("bundle").join("rootfs/etc/changed"), super::noise(50_000)).unwrap();
    });
    let path = bundle(&cut.store);
    cut.each(&["commit", &path, "new:1"], [3, 0], |done| {
        if done {
            cut.yard.runnable(&cut.store, "new:1", &"committed before the cut");
        }
        cut.ours(&["mount", &path]).ok();
        cut.ours(&["commit", &path, "new:1"]).ok();
        cut.yard.runnable(&cut.store, "new:1", &"committed after the cut");
    });
}

#[test]
fn rm_and_tag() {
    wants_loop_devices!();
    let cut = Cut::new(|yard, store| drop(yard.imgtool(store, &["pull", "-q", &yard.pulled]).ok()));
    let pulled = cut.yard.pulled.as_str();
    let names = || cut.ours(&["images"]).ok().stdout;
    cut.each(&["rm", pulled], [1, 0], |done| {
        let there = names().contains("pulled");
        assert!(!(there && done), "removed is removed");
        if there {
            cut.yard.runnable(&cut.store, pulled, &"not removed");
        }
    });
    cut.each(&["tag", KEPT, "new:1"], [1, 0], |done| assert!(!done || names().contains("new"), "named is named"));
}
