//! A bundle that is there: its image, what its container changed, its root file system mounted and unmounted.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Options, RECORD_MAX, Record, init, namespaces, overlay, read_record, userns};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::layer::{Limits, LowerStack, mount_points, open_root};
use crate::layout::{Image, Layer, Store};
use crate::oci;
use crate::platform::Platform;
use crate::progress::{Form, Progress};
use crate::regular;
use crate::unpack::{Unpacking, lower_stack, visible};

/// A bundle of ours.
pub(crate) struct Bundle {
    directory: PathBuf,
    record: Record,
    store: Store,
}

impl Bundle {
    /// Opens a bundle with the rights that `here` is used with.
    pub(crate) fn open(here: &Store, directory: &Path) -> Result<Self> {
        let directory = std::path::absolute(directory)?;
        let record = read_record(&directory)?;
        let store = here.other(&record.store)?;
        Ok(Self { directory, record, store })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// The root file system to be read, with the image's owners.
    pub(crate) fn read(&self) -> Result<OwnedFd> {
        match self.record.ids {
            Some(_) => userns::look(&self.directory, &super::stack(&self.directory, &self.layers()?)),
            None => open_root(&self.rootfs()),
        }
    }

    /// The image, if the store still has it.
    pub(crate) fn image(&self) -> Result<Image> {
        self.store.by_digest(&self.record.digest, &Platform::host()).at(&self.record.image)
    }

    /// What the container changed.
    pub(crate) fn upper(&self) -> Result<OwnedFd> {
        if self.record.copied {
            return Err(Error::other("its files are a copy (--copy): what changed is not known"));
        }
        open_root(&self.directory.join("overlay/upper"))
    }

    /// Whether the root directory's owner or mode are not what the image says.
    pub(crate) fn root_changed(&self) -> Result<bool> {
        let now = rustix::fs::fstat(self.upper()?)?;
        let layers = self.layers()?;
        let Some(layer) = visible(&layers).iter().rev().find(|layer| layer.record.has_root) else {
            return Ok((now.st_mode & 0o7777, now.st_uid, now.st_gid) != (0o755, 0, 0));
        };
        let then = fs::metadata(layer.diff())?;
        Ok((now.st_mode & 0o7777, now.st_uid, now.st_gid) != (then.mode() & 0o7777, then.uid(), then.gid()))
    }

    /// The image's layers, the lowest first.
    fn layers(&self) -> Result<Vec<Layer>> {
        let used = self.store.uses()?.into_iter().find(|used| used.bundle == self.directory);
        let used = used.ok_or_else(|| Error::missing("the store has no record of it"))?;
        match self.store.layers_by_keys(&used.layers) {
            Err(lost) if lost.kind() == Kind::Damaged => self.unpack_again(&used.layers).map_err(|e| e.at(lost)),
            found => found,
        }
    }

    /// Layers that had not reached the disk when the power went are made again from their blobs, which had.
    fn unpack_again(&self, keys: &[Digest]) -> Result<Vec<Layer>> {
        let _hold = self.store.hold()?;
        let image = self.image()?;
        let unpacking = Unpacking {
            store: &self.store,
            registry: None,
            stop: Arc::default(),
            progress: &Progress::new(Form::None),
            limits: Limits::default(),
            parallel: 2,
        };
        let layers = unpacking.layers(&image.manifest, &image.config)?;
        if layers.iter().map(|layer| &layer.key).eq(keys) {
            Ok(layers)
        } else {
            Err(Error::other("the image has other layers now"))
        }
    }

    /// What the image has, for comparison.
    pub(crate) fn lower(&self) -> Result<LowerStack> {
        lower_stack(visible(&self.layers()?))
    }

    /// Where something is mounted that every container has, as far as the runtime had to make a place for it: Docker shows none of
    /// these either, where it does show those of volumes.
    pub(crate) fn mount_points(&self) -> Result<Vec<Vec<u8>>> {
        let mut candidates = vec!["dev", "proc", "sys"];
        let files = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];
        candidates.extend(files.iter().filter(|file| self.directory.join(file).exists()));
        let spec = regular::read(&self.directory.join("config.json"), RECORD_MAX).and_then(|text| oci::json(&text));
        if spec.is_ok_and(|spec| init::is_in(&spec)) {
            candidates.push(init::place());
        }
        mount_points(&self.upper()?, &self.lower()?, &candidates)
    }

    pub(crate) fn is_mounted(&self) -> Result<bool> {
        Ok(fs::metadata(self.rootfs())?.dev() != fs::metadata(&self.directory)?.dev())
    }

    /// Mounts the root file system again, as after a restart of the machine, and what else was mounted for the container but the
    /// namespaces of others, which are no more.
    pub(crate) fn mount(&self) -> Result<()> {
        let shm = self.directory.join(namespaces::SHM);
        if shm.exists() && fs::metadata(&shm)?.dev() == fs::metadata(&self.directory)?.dev() {
            namespaces::mount_shm(&self.directory, self.record.shm.unwrap_or(Options::default().shm_size()))?;
        }
        if self.record.copied || self.is_mounted()? {
            return Ok(());
        }
        let lower = super::stack(&self.directory, &self.layers()?);
        let lower: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
        if let Some(maps) = &self.record.ids {
            return userns::mount(&self.directory, &lower, maps);
        }
        let overlay = self.directory.join("overlay");
        overlay::mount_overlay(
            &lower,
            &overlay.join("upper"),
            &overlay.join("work"),
            &self.rootfs(),
            self.store.rights().powers().overlay,
        )
    }

    /// Unmounts it, unless something uses it; what the container changed stays.
    pub(crate) fn unmount(&self) -> Result<()> {
        if self.record.copied || !self.is_mounted()? {
            return Ok(());
        }
        overlay::unmount_rootfs(&self.rootfs())
    }
}
