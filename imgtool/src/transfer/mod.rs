//! Images from one place to another, byte for byte: registries, OCI layouts, the store. Nothing is unpacked.
//!
//! What a manifest names is brought first and the manifest last, so that nobody ever sees a name without all that it stands
//! for.

mod end;
mod layout;
mod remote;
mod scratch;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

pub(crate) use end::{Name, Source, Target};
pub(crate) use layout::{LayoutDir, StoreImage};
pub(crate) use remote::Remote;
pub(crate) use scratch::Scratch;

use crate::digest::Digest;
use crate::error::{Error, Result, Step};
use crate::oci::{Descriptor, Document, Manifest};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::registry::{Delivered, Sent};

/// Referrers of referrers are followed so far: a signature of an attestation of an image.
const REFERRERS_DEPTH: usize = 3;
/// How cosign tags what belongs to the manifest `sha256:HEX`.
const COSIGN_SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// A copy of one image.
pub(crate) struct Transfer<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) target: &'a dyn Target,
    pub(crate) progress: &'a Progress,
    /// `None`: all platforms.
    pub(crate) platform: Option<Platform>,
    /// Signatures, SBOMs and other referrers too.
    pub(crate) referrers: bool,
    pub(crate) parallel: usize,
}

impl Transfer<'_> {
    /// Copies, and gives the digest of what got the name.
    pub(crate) fn run(&self) -> Result<Digest> {
        let mut top = self.source.manifest(None)?;
        let mut document =
            Document::parse_any(&top.bytes, &top.media_type).with(|| format!("manifest {}", top.digest))?;
        if let (Some(platform), Document::Index(index)) = (&self.platform, &document) {
            let chosen = index.choose(platform).with(|| format!("manifest {}", top.digest))?;
            top = self.source.manifest(Some(chosen))?;
            document =
                Document::parse_any(&top.bytes, &chosen.media_type).with(|| format!("manifest {}", top.digest))?;
        }
        let mut done = Vec::new();
        if self.target.has_named(&top.digest)? {
            self.progress.say(&format!("{}: up to date", self.target.name()));
            done.push(top.digest.clone());
            if let Document::Index(index) = &document {
                done.extend(index.manifests.iter().map(|manifest| manifest.digest.clone()));
            }
        } else {
            self.document(&document, &top, Name::Asked, 0, &mut done)?;
        }
        if self.referrers {
            let mut seen: HashSet<Digest> = done.iter().cloned().collect();
            for digest in &done {
                self.referrers_of(digest, 0, &mut seen).with(|| format!("referrers of {digest}"))?;
            }
        }
        self.target.finish()?;
        Ok(top.digest)
    }

    fn document(
        &self,
        document: &Document,
        delivered: &Delivered,
        name: Name<'_>,
        depth: usize,
        done: &mut Vec<Digest>,
    ) -> Result<()> {
        match document {
            Document::Manifest(manifest) => self.blobs(manifest)?,
            Document::Index(index) => {
                if depth > 2 {
                    return Err(Error::malformed(format!("manifest {}: indexes inside indexes", delivered.digest)));
                }
                for child in &index.manifests {
                    let below = self.source.manifest(Some(child)).with(|| format!("manifest {}", child.digest))?;
                    let parsed = Document::parse_any(&below.bytes, &child.media_type)
                        .with(|| format!("manifest {}", child.digest))?;
                    self.document(&parsed, &below, Name::Digest, depth + 1, done)?;
                }
            }
        }
        let size = delivered.bytes.len() as u64;
        let descriptor = Descriptor::new(document.media_type(), delivered.digest.clone(), size);
        let subject = match document {
            Document::Manifest(manifest) => manifest.subject.clone(),
            Document::Index(index) => index.rest.get("subject").cloned().and_then(|s| serde_json::from_value(s).ok()),
        };
        self.target.put_manifest(&descriptor, &delivered.bytes, name, subject.as_ref())?;
        done.push(delivered.digest.clone());
        Ok(())
    }

    /// The blobs of a manifest, several at a time, each of them once.
    fn blobs(&self, manifest: &Manifest) -> Result<()> {
        let mut seen = HashSet::new();
        let all = manifest.layers.iter().chain([&manifest.config]);
        let mut blobs: Vec<&Descriptor> = all.filter(|blob| seen.insert(&blob.digest)).collect();
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Error>> = Mutex::default();
        let has_failed = || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        std::thread::scope(|scope| {
            for _ in 0..self.parallel.clamp(1, blobs.len().max(1)) {
                scope.spawn(|| {
                    while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if has_failed() {
                            break;
                        }
                        if let Err(e) = self.blob(blob).with(|| format!("blob {}", blob.digest)) {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                            self.source.stop();
                            self.target.stop();
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn blob(&self, blob: &Descriptor) -> Result<()> {
        let task = self.progress.task(&format!("blob {}", blob.digest.short()), blob.size, 0);
        let sent = self.target.put_blob(blob, self.source, &|bytes| task.advance(bytes))?;
        task.finish(match sent {
            Sent::Exists => "exists",
            Sent::Mounted => "mounted",
            Sent::Uploaded => "copied",
        });
        Ok(())
    }

    /// What says something of the manifest `subject`, by the referrers API and by cosign's tags.
    fn referrers_of(&self, subject: &Digest, depth: usize, seen: &mut HashSet<Digest>) -> Result<()> {
        if depth >= REFERRERS_DEPTH {
            return Ok(());
        }
        let mut found = Vec::new();
        for descriptor in self.source.referrers(subject)? {
            let delivered = self.source.manifest(Some(&descriptor))?;
            found.push((delivered, descriptor.media_type.clone(), None));
        }
        for suffix in COSIGN_SUFFIXES {
            let tag = format!("{}.{suffix}", subject.file_name());
            if let Some(delivered) = self.source.tagged(&tag)? {
                let media_type = delivered.media_type.clone();
                found.push((delivered, media_type, Some(tag)));
            }
        }
        for (delivered, media_type, tag) in found {
            if !seen.insert(delivered.digest.clone()) {
                continue;
            }
            let step = || format!("manifest {}", delivered.digest);
            let document = Document::parse_any(&delivered.bytes, &media_type).with(step)?;
            let name = tag.as_deref().map_or(Name::Digest, Name::Tag);
            self.document(&document, &delivered, name, 0, &mut Vec::new()).with(step)?;
            self.referrers_of(&delivered.digest, depth + 1, seen)?;
        }
        Ok(())
    }
}
