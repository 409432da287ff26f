//! What the unpacker is told and what it tells.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Which attributes mark opaque directories: only root may set `trusted.*`; a user namespace mounts with `userxattr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OverlayForm {
    Trusted,
    User,
}

/// What may be made of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Powers {
    pub(crate) overlay: OverlayForm,
    /// Files keep their owners. Else all belong to whoever unpacks.
    pub(crate) owners: bool,
    /// Devices are made. Else they are left out, as no user namespace may make them.
    pub(crate) devices: bool,
}

impl Powers {
    /// Those of the machine's root.
    pub(crate) const ROOT: Self = Self { overlay: OverlayForm::Trusted, owners: true, devices: true };
}

impl Default for Powers {
    fn default() -> Self {
        Self::ROOT
    }
}

/// How much a layer may hold, against bombs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all files together.
    pub(crate) bytes: u64,
    /// Number of entries.
    pub(crate) entries: u64,
    /// Unpacked bytes for each compressed one, above [`Limits::RATIO_FREE`]; `None` when the user gave a size.
    pub(crate) ratio: Option<u64>,
}

impl Limits {
    /// A layer may always unpack to this much, however small its blob is.
    const RATIO_FREE: u64 = 1 << 30;

    /// Limits for a layer that may unpack to `bytes`, at whatever ratio.
    pub(crate) fn of_size(bytes: u64) -> Self {
        Self { bytes, ratio: None, ..Self::default() }
    }

    pub(crate) fn for_blob(mut self, compressed: Option<u64>) -> Self {
        if let (Some(ratio), Some(compressed)) = (self.ratio, compressed) {
            self.bytes = self.bytes.min(compressed.saturating_mul(ratio).max(Self::RATIO_FREE));
        }
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 128 << 30, entries: 4_000_000, ratio: Some(200) }
    }
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Option<Digest>,
    /// Size of the uncompressed tar in bytes.
    pub(crate) tar_size: u64,
    pub(crate) entries: u64,
    /// Bytes of the files.
    pub(crate) bytes: u64,
    /// The result would be the same whatever layers are below.
    pub(crate) self_contained: bool,
    /// Something is missing that only a look at the layers below can give: unpack again with them.
    pub(crate) needs_lower: bool,
    /// The archive has an entry for the root directory.
    pub(crate) has_root: bool,
    /// The layer hides all layers below. (overlayfs ignores the attribute on a layer's root.)
    pub(crate) opaque_root: bool,
    /// Devices that were left out.
    pub(crate) devices_left_out: u64,
}
