//! The two ends of a transfer.

use std::io::Read;

use crate::digest::Digest;
use crate::error::Result;
use crate::oci::Descriptor;
use crate::reference::Reference;
use crate::registry::{Delivered, Sent};

/// How a manifest is called at the target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'a> {
    /// What the user asked for.
    Asked,
    /// Another tag of the same repository.
    Tag(&'a str),
    /// Only its digest.
    Digest,
}

/// Where an image comes from.
pub(crate) trait Source: Sync {
    /// The manifest that was asked for, or the one that a descriptor names. Its digest is proved.
    fn manifest(&self, descriptor: Option<&Descriptor>) -> Result<Delivered>;
    /// Opens a blob at an offset. From the start, the reader fails at its end if it is not what the digest says.
    fn open<'a>(&'a self, blob: &'a Descriptor, offset: u64) -> Result<Box<dyn Read + Send + 'a>>;
    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>>;
    /// The manifest of another tag of the same repository.
    fn tagged(&self, tag: &str) -> Result<Option<Delivered>>;
    /// The repository that a registry may take blobs over from.
    fn repository(&self) -> Option<&Reference> {
        None
    }
    /// Ends what other threads wait for.
    fn stop(&self) {}
}

/// Where an image goes to.
pub(crate) trait Target: Sync {
    /// What people call it.
    fn name(&self) -> String;
    /// Whether the name stands for this manifest already.
    fn has_named(&self, digest: &Digest) -> Result<bool>;
    /// Brings a blob there, unless it is; `told` gets the numbers of bytes that were read.
    fn put_blob(&self, blob: &Descriptor, source: &dyn Source, told: &(dyn Fn(u64) + Sync)) -> Result<Sent>;
    fn put_manifest(
        &self,
        manifest: &Descriptor,
        bytes: &[u8],
        name: Name<'_>,
        subject: Option<&Descriptor>,
    ) -> Result<()>;
    /// All is there.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
    fn stop(&self) {}
}
