//! A repository of a registry as an end of a transfer.

use std::io::Read;
use std::sync::Arc;

use super::{Name, Source, Target};
use crate::digest::Digest;
use crate::error::{Kind, Result};
use crate::layout::VerifiedReader;
use crate::oci::Descriptor;
use crate::reference::Reference;
use crate::registry::{Access, Delivered, Registry, RemoteBlob, Sent, Stop, Told};

/// One repository, and the tag or digest in it.
pub(crate) struct Remote {
    registry: Registry,
    stop: Arc<Stop>,
    chunk: Option<u64>,
}

impl Remote {
    pub(crate) fn source(reference: &Reference, access: &Access) -> Self {
        let stop = Arc::new(Stop::default());
        Self { registry: Registry::new(reference, access, Arc::clone(&stop)), stop, chunk: None }
    }

    /// To write to. `mount` is a repository of the same registry that has some of the blobs.
    pub(crate) fn target(
        reference: &Reference,
        access: &Access,
        mount: Option<&Reference>,
        chunk: Option<u64>,
    ) -> Self {
        let stop = Arc::new(Stop::default());
        let mount = mount.filter(|other| mountable(reference, other));
        let registry = Registry::new(reference, access, Arc::clone(&stop)).to("pull,push").and_from(mount);
        Self { registry, stop, chunk }
    }

    fn reference(&self) -> &Reference {
        self.registry.reference()
    }
}

/// Whether blobs of `other` can be taken over into `reference` by the registry itself.
fn mountable(reference: &Reference, other: &Reference) -> bool {
    other.domain() == reference.domain() && other.path() != reference.path()
}

impl Source for Remote {
    fn manifest(&self, descriptor: Option<&Descriptor>) -> Result<Delivered> {
        self.registry.manifest(descriptor)
    }

    fn open<'a>(&'a self, blob: &'a Descriptor, offset: u64) -> Result<Box<dyn Read + Send + 'a>> {
        let remote = RemoteBlob::new(&self.registry, blob, offset, Box::new(|_| {}));
        Ok(if offset == 0 { Box::new(VerifiedReader::new(remote, blob)) } else { Box::new(remote) })
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        self.registry.referrers(subject)
    }

    fn tagged(&self, tag: &str) -> Result<Option<Delivered>> {
        match self.registry.manifest_of_tag(tag) {
            Ok(delivered) => Ok(Some(delivered)),
            Err(e) if e.kind() == Kind::Missing => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn repository(&self) -> Option<&Reference> {
        Some(self.reference())
    }

    fn stop(&self) {
        self.stop.stop();
    }
}

impl Target for Remote {
    fn name(&self) -> String {
        self.reference().to_string()
    }

    fn has_named(&self, digest: &Digest) -> Result<bool> {
        match self.registry.current_digest() {
            Ok(current) => Ok(current.as_ref() == Some(digest)),
            Err(e) if e.kind() == Kind::Missing => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn put_blob(&self, blob: &Descriptor, source: &dyn Source, told: &(dyn Fn(u64) + Sync)) -> Result<Sent> {
        let from = source.repository().filter(|other| mountable(self.reference(), other));
        self.registry.send_blob(blob, from, self.chunk, &|offset| {
            Ok(Box::new(Told { inner: source.open(blob, offset)?, tell: told }))
        })
    }

    fn put_manifest(
        &self,
        manifest: &Descriptor,
        bytes: &[u8],
        name: Name<'_>,
        subject: Option<&Descriptor>,
    ) -> Result<()> {
        let selector = match name {
            Name::Asked => self.reference().selector(),
            Name::Tag(tag) => tag.to_owned(),
            Name::Digest => manifest.digest.to_string(),
        };
        let tracked = self.registry.put_manifest(&selector, &manifest.media_type, bytes)?;
        if let (Some(subject), false) = (subject, tracked) {
            self.registry.add_tagged_referrer(&subject.digest, &described(manifest, bytes)?)?;
        }
        Ok(())
    }

    fn stop(&self) {
        self.stop.stop();
    }
}

/// A referrer as lists of referrers have it: with its type and annotations (distribution-spec, "Listing Referrers").
fn described(manifest: &Descriptor, bytes: &[u8]) -> Result<Descriptor> {
    let value: serde_json::Value = crate::oci::json(bytes)?;
    let mut descriptor = manifest.clone();
    let kind = value.get("artifactType").or_else(|| value.get("config")?.get("mediaType"));
    if let Some(kind) = kind.filter(|kind| kind.is_string()) {
        descriptor.rest.insert("artifactType".to_owned(), kind.clone());
    }
    descriptor.annotations = value.get("annotations").and_then(|all| serde_json::from_value(all.clone()).ok());
    Ok(descriptor)
}
