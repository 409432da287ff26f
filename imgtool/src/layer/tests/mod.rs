//! Layers as an attacker or an odd tool writes them, unpacked for real.

mod escape;
mod format;
mod fuzz;
mod lower;
mod metadata;
mod race;
mod whiteout;
mod write;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::{Job, Limits, LowerStack, Powers, Unpacked, open_root, unpack};
use crate::error::Result;

/// A tar that is written byte by byte, so that it may hold what no honest tool writes.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

#[derive(Clone, Copy)]
pub(crate) struct Spec<'a> {
    pub(crate) kind: u8,
    pub(crate) name: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
    pub(crate) data: &'a [u8],
}

impl Default for Spec<'_> {
    fn default() -> Self {
        Spec {
            kind: b'0',
            name: b"",
            link: b"",
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_000_000_000,
            device: (0, 0),
            data: b"",
        }
    }
}

impl Tar {
    pub(crate) fn add(mut self, spec: Spec<'_>) -> Self {
        let mut header = Header::new_gnu();
        {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.name[..spec.name.len()].copy_from_slice(spec.name);
            gnu.linkname[..spec.link.len()].copy_from_slice(spec.link);
        }
        header.set_entry_type(EntryType::new(spec.kind));
        header.set_mode(spec.mode);
        header.set_uid(spec.owner.0);
        header.set_gid(spec.owner.1);
        header.set_mtime(spec.mtime);
        header.set_device_major(spec.device.0).unwrap();
        header.set_device_minor(spec.device.1).unwrap();
        header.set_size(spec.data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.data(spec.data)
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        let padded = self.0.len().next_multiple_of(512);
        self.0.resize(padded, 0);
        self
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.add(Spec { kind: b'5', name: name.as_bytes(), mode: 0o755, ..Spec::default() })
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.add(Spec { name: name.as_bytes(), data: data.as_bytes(), ..Spec::default() })
    }

    pub(crate) fn symlink(self, name: &str, link: &str) -> Self {
        self.add(Spec { kind: b'2', name: name.as_bytes(), link: link.as_bytes(), ..Spec::default() })
    }

    pub(crate) fn hardlink(self, name: &str, link: &str) -> Self {
        self.add(Spec { kind: b'1', name: name.as_bytes(), link: link.as_bytes(), ..Spec::default() })
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let len = (rest..rest + 20).find(|len| len - rest == len.to_string().len()).unwrap();
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.add(Spec { kind: b'x', name: b"pax", data: &data, ..Spec::default() })
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A directory for a layer, with something beside it that no layer may reach.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn apply(&self, tar: &[u8], limits: Limits, lower: Option<&LowerStack>) -> Result<Unpacked> {
        let job = Job {
            diff_id: None,
            root: open_root(&self.root()).unwrap(),
            powers: Powers::ROOT,
            limits,
            compressed: Some(tar.len() as u64),
            lower,
        };
        unpack(tar, job, None)
    }

    fn unpack(&self, tar: Tar) -> Result<Unpacked> {
        self.apply(&tar.bytes(), Limits::default(), Some(&LowerStack::default()))
    }

    /// Nothing but the secret is outside, unchanged.
    fn check_outside(&self) {
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(self.outside().join("secret")).unwrap(), "secret");
        assert_eq!(fs::metadata(self.outside().join("secret")).unwrap().nlink(), 1);
        let above: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert_eq!(above.len(), 2);
    }
}

fn refused(tar: Tar) -> String {
    let place = Place::new();
    let error = place.unpack(tar).expect_err("must be refused").to_string();
    place.check_outside();
    error
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}
