//! From a registry into the store.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::layer::Limits;
use crate::layout::{Image, Layer, SOURCE, Store};
use crate::oci::{CONFIG_MAX, Descriptor, Document, ImageConfig};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::{Access, Registries, Registry, RemoteBlob, Stop};
use crate::trust;
use crate::unpack::Unpacking;

/// What a pull needs to know.
pub(crate) struct Pull<'a> {
    pub(crate) store: &'a Store,
    pub(crate) access: &'a Access,
    pub(crate) registries: &'a Registries,
    pub(crate) platform: Platform,
    pub(crate) limits: Limits,
    pub(crate) parallel: usize,
    pub(crate) progress: &'a Progress,
}

/// What is signed is the image's manifest, or what the registry answered for its name.
fn require_signature(registry: &Registry, image: &Image) -> Result<()> {
    let source = image.entry.annotation(SOURCE).and_then(|text| text.parse::<Digest>().ok());
    let digests: Vec<&Digest> = source.iter().chain([&image.descriptor.digest]).collect();
    trust::require(registry, registry.keys(), &digests)
}

impl Pull<'_> {
    /// Pulls an image, unpacks its layers and names it. The caller holds the store. A short name is looked for where
    /// registries.conf says; the mirrors of a registry come before itself.
    pub(crate) fn run(&self, reference: &Reference) -> Result<(Image, Vec<Layer>)> {
        let mut last = Error::other("registries.conf names no place to pull from");
        for candidate in self.registries.candidates(reference)? {
            for endpoint in self.registries.endpoints(&candidate).at(&candidate)? {
                let through =
                    if endpoint.reference == candidate { String::new() } else { endpoint.reference.to_string() };
                match self.from(&candidate, &endpoint.reference, &endpoint.access(self.access)) {
                    Ok(pulled) => return Ok(pulled),
                    // Content that is not what it should be is no reason to look elsewhere for the same name.
                    Err(e) if matches!(e.kind(), Kind::Malformed) => return Err(e),
                    Err(e) if through.is_empty() => last = if candidate == *reference { e } else { e.at(&candidate) },
                    Err(e) => {
                        last = e.at(through);
                        self.progress.say(&last.to_string());
                    }
                }
            }
        }
        Err(last)
    }

    /// Pulls from one place.
    fn from(&self, reference: &Reference, place: &Reference, access: &Access) -> Result<(Image, Vec<Layer>)> {
        let stop = Arc::new(Stop::default());
        let registry = Registry::new(place, access, Arc::clone(&stop));
        if let Some(image) = self.unchanged(&registry, reference)? {
            require_signature(&registry, &image)?;
            let layers = self.unpacking(Some(&registry), stop).layers(&image.manifest, &image.config)?;
            self.progress.say(&format!("{reference}: up to date"));
            return Ok((image, layers));
        }
        let top = registry.manifest(None)?;
        let step = |digest: &Digest| format!("manifest {digest}");
        let (source, mut delivered) = (top.digest.clone(), top);
        let mut document = Document::parse(&delivered.bytes, &delivered.media_type).with(|| step(&source))?;
        let mut listed = None;
        if let Document::Index(index) = &document {
            let chosen = index.choose(&self.platform).with(|| step(&source))?;
            listed.clone_from(&chosen.platform);
            delivered = registry.manifest(Some(chosen))?;
            // The index says what its entry is; what the server calls it does not count.
            document = Document::parse(&delivered.bytes, &chosen.media_type).with(|| step(&chosen.digest))?;
        }
        let Document::Manifest(manifest) = document else {
            return Err(Error::malformed("an index inside an index")).with(|| step(&source));
        };
        let bytes = self.config(&registry, &manifest.config).with(|| format!("config {}", manifest.config.digest))?;
        let config =
            ImageConfig::parse(&bytes, manifest.layers.len()).with(|| format!("config {}", manifest.config.digest))?;
        self.check_platform(&config, listed.as_ref())?;
        trust::require(&registry, registry.keys(), &[&source, &delivered.digest])?;
        let layers = self.unpacking(Some(&registry), stop).layers(&manifest, &config)?;
        // The name comes last: whoever finds it finds all that it stands for.
        self.store.put_blob_as(manifest.config.clone(), &bytes)?;
        let media_type = manifest.media_type.clone().unwrap_or_default();
        let descriptor = Descriptor::new(&media_type, delivered.digest.clone(), delivered.bytes.len() as u64);
        self.store.put_blob_as(descriptor.clone(), &delivered.bytes)?;
        self.store.tag(&descriptor, config.platform(), &reference.to_string(), Some(&source))?;
        let entry = self.store.find_name(&reference.to_string())?.unwrap_or_else(|| descriptor.clone());
        Ok((Image { entry, descriptor, manifest, config }, layers))
    }

    /// The layers of an image that is in the store.
    pub(crate) fn layers(&self, image: &Image) -> Result<Vec<Layer>> {
        self.unpacking(None, Arc::default()).layers(&image.manifest, &image.config)
    }

    /// Requires that an image of the store is signed, where keys say so: its registry is asked for the signature.
    pub(crate) fn check_signature(&self, image: &Image) -> Result<()> {
        if self.access.keys.is_empty() {
            return Ok(());
        }
        let reference =
            image.reference().ok_or_else(|| Error::other("--verify-key: an image without a name has no registry"))?;
        let mut last = Error::other("registries.conf names no place to ask for signatures");
        for endpoint in self.registries.endpoints(&reference)? {
            let registry = Registry::new(&endpoint.reference, &endpoint.access(self.access), Arc::default());
            match require_signature(&registry, image) {
                Err(e) if e.kind() != Kind::Malformed => last = e,
                result => return result,
            }
        }
        Err(last)
    }

    fn unpacking<'b>(&'b self, registry: Option<&'b Registry>, stop: Arc<Stop>) -> Unpacking<'b> {
        let Self { store, progress, limits, parallel, .. } = *self;
        Unpacking { store, registry, stop, progress, limits, parallel }
    }

    /// The image that the store has under this name, if the registry still has the same.
    fn unchanged(&self, registry: &Registry, reference: &Reference) -> Result<Option<Image>> {
        let Some(entry) = self.store.find_name(&reference.to_string())? else {
            return Ok(None);
        };
        let Some(source) = entry.annotation(SOURCE).and_then(|text| text.parse::<Digest>().ok()) else {
            return Ok(None);
        };
        let current = match registry.current_digest() {
            Ok(current) => current,
            // Some registries answer only GET.
            Err(e) if e.kind() == Kind::Missing => return Ok(None),
            Err(e) => return Err(e),
        };
        if current.as_ref() != Some(&source) {
            return Ok(None);
        }
        let image = self.store.load(&entry, &self.platform).ok();
        Ok(image.filter(|image| self.platform.score(&image.config.platform()).is_some()))
    }

    fn config(&self, registry: &Registry, descriptor: &Descriptor) -> Result<Vec<u8>> {
        crate::layout::check_size(descriptor, CONFIG_MAX)?;
        if let Ok(bytes) = self.store.read_blob(descriptor, CONFIG_MAX) {
            return Ok(bytes);
        }
        let remote = RemoteBlob::new(registry, descriptor, 0, Box::new(|_| {}));
        let mut bytes = Vec::new();
        std::io::copy(&mut crate::layout::VerifiedReader::new(remote, descriptor), &mut bytes)?;
        Ok(bytes)
    }

    fn check_platform(&self, config: &ImageConfig, listed: Option<&Platform>) -> Result<()> {
        let have = config.platform();
        // Images made by hand may leave the platform out.
        if have.architecture.is_empty()
            || self.platform.score(&have).is_some()
            || listed.is_some_and(|listed| self.platform.score(listed).is_some())
        {
            return Ok(());
        }
        Err(Error::missing(format!("the image is for {have}, not for {} (--platform chooses)", self.platform)))
    }
}
