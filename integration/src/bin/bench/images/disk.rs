//! A fresh ext4 in a file, mounted; and what has to be quiet before a measurement.

use std::fs::File;
use std::path::{Path, PathBuf};

use integration::command::tool;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Enough for the image in the form of whichever tool, and sparse.
const SIZE: u64 = 12 << 30;
/// What the largest contender and the page cache want in one run.
const MEMORY: usize = 3 << 30;

/// Mounts of this process, and of those it starts, are nobody else's.
pub(super) fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: the benchmark wants root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("private mounts");
}

/// The first touch of a virtual machine's memory is slow: that is paid here.
pub(super) fn touch_memory() {
    let mut memory = vec![0_u8; MEMORY];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}

/// One fresh file system.
pub(super) struct Disk {
    file: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes it in a file of this name, and mounts it beside.
    pub(super) fn new(file: &Path) -> Self {
        File::create(file).and_then(|f| f.set_len(SIZE)).expect("a file for the disk");
        let at = file.with_extension("mnt");
        std::fs::create_dir_all(&at).expect("a mount point");
        let (source, target) = (file.to_str().expect("a path"), at.to_str().expect("a path"));
        tool("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", source]).ok();
        // The tables of inodes are not filled in the background of what is measured.
        tool("mount", &["-o", "loop,noinit_itable", source, target]).ok();
        rustix::fs::sync();
        Self { file: file.to_owned(), at }
    }

    pub(super) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever a tool left mounted on it comes first.
        for mount in integration::leak::mounts(self.at.to_str().expect("a path")) {
            let _ = umount2(&mount, MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_file(&self.file);
    }
}
