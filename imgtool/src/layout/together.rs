//! Files that come to the disk together. A disk takes its time for each request to be sure, and whoever asks right after a pull waits
//! for what is still being written besides: so they are asked for in one go.
//!
//! Until then a power cut may leave the name of a file without its content: [`is_blank`] says so of what is found.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use crate::error::{Result, Step};

/// What was written, and is not known to be on the disk.
#[derive(Default)]
pub(crate) struct Together {
    files: Vec<(PathBuf, File)>,
    directories: Vec<PathBuf>,
}

impl Together {
    pub(crate) fn add(&mut self, path: PathBuf, file: File) {
        self.files.push((path, file));
    }

    /// A directory in which there are new names.
    pub(crate) fn add_directory(&mut self, path: PathBuf) {
        self.directories.push(path);
    }

    /// Waits until all of it is on the disk. Then `from` becomes `to` in the same directory, which says that the whole is there: it
    /// has that name after a power cut only if all the rest is there, too.
    pub(crate) fn sync(self, from: &Path, to: &Path) -> Result<()> {
        for (_, file) in &self.files {
            // Linux begins to write then (mm/fadvise.c), and waits for nothing: with all of them in its journal the first of the
            // requests below is the one that counts. A file system that does not is as right, and slower.
            let _ = fadvise(file, 0, None, Advice::DontNeed);
        }
        for (path, file) in &self.files {
            file.sync_data().with(|| format!("sync {}", path.display()))?;
        }
        for path in &self.directories {
            File::open(path).and_then(|dir| dir.sync_all()).with(|| format!("sync {}", path.display()))?;
        }
        std::fs::rename(from, to).with(|| format!("rename to {}", to.display()))?;
        super::sync_parent(to)
    }
}

/// Whether this is what a power cut leaves of a file that had its name and was not on the disk. Nobody was told that it is there.
pub(crate) fn is_blank(content: &[u8]) -> bool {
    content.iter().all(|&byte| byte == 0)
}

/// The same of a file, which is there.
pub(crate) fn is_blank_file(path: &Path) -> bool {
    crate::regular::read(path, 1 << 20).is_ok_and(|content| is_blank(&content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_content_are_told_from_content() {
        for (content, want) in [(&b""[..], true), (&[0; 4096], true), (b"{}", false), (b"\0\0x", false)] {
            assert_eq!(is_blank(content), want);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(!is_blank_file(&path));
        std::fs::write(&path, "").unwrap();
        assert!(is_blank_file(&path));
        std::fs::write(&path, "{}").unwrap();
        assert!(!is_blank_file(&path));
        // What cannot be read is not known to be blank.
        assert!(!is_blank_file(dir.path()));
    }

    #[test]
    fn what_a_power_cut_left_of_a_bundle_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let store = super::super::Store::at(&dir.path().join("store")).unwrap();
        store.create().unwrap();
        let (record, bundle) = (store.path("uses/0123.json"), store.path("bundles/left"));
        std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
        for content in [&b""[..], &[0; 200]] {
            std::fs::write(&record, content).unwrap();
            std::fs::create_dir_all(&bundle).unwrap();
            std::fs::write(bundle.join("bundle.json"), content).unwrap();
            assert!(store.check().unwrap().is_empty());
            store.collect().unwrap();
            assert!(!record.exists() && !bundle.exists());
        }
    }
}
