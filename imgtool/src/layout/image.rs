//! Images of the store: found by name, digest or ID.

use std::collections::BTreeMap;

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::oci::{self, CONFIG_MAX, Descriptor, Document, ImageConfig, MANIFEST_MAX, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Registries;

/// The annotation of an index entry that has the image's name.
pub(crate) const NAME: &str = "org.opencontainers.image.ref.name";
/// The same for containerd, which keeps only the tag in [`NAME`].
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// What the registry answered for the name: the index's digest where the image was chosen from an index.
pub(crate) const SOURCE: &str = "org.tare.image.source-digest";
/// Fewest digits that an ID may be shortened to.
const ID_MIN: usize = 4;

/// An image with its documents.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The entry in index.json.
    pub(crate) entry: Descriptor,
    /// The manifest's own descriptor: differs from `entry` where that is an index.
    pub(crate) descriptor: Descriptor,
    pub(crate) manifest: Manifest,
    pub(crate) config: ImageConfig,
}

impl Image {
    /// The name, if it has one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.entry.annotation(NAME)
    }

    /// The name split into repository and tag, as far as it is a reference.
    pub(crate) fn reference(&self) -> Option<Reference> {
        self.entry.annotation(CONTAINERD_NAME).or(self.name())?.parse().ok()
    }

    /// The image's ID: its config's digest.
    pub(crate) fn id(&self) -> &Digest {
        &self.manifest.config.digest
    }

    /// What people call it, for messages.
    pub(crate) fn display(&self) -> String {
        self.name().map_or_else(|| self.descriptor.digest.to_string(), str::to_owned)
    }

    /// Bytes of the blobs.
    pub(crate) fn size(&self) -> u64 {
        let blobs =
            self.manifest.layers.iter().map(|l| l.size).chain([self.manifest.config.size, self.descriptor.size]);
        blobs.fold(0, u64::saturating_add)
    }
}

/// The annotations of an entry for `name`.
pub(crate) fn annotations(name: &str, source: Option<&Digest>) -> BTreeMap<String, String> {
    let mut annotations =
        BTreeMap::from([(NAME.to_owned(), name.to_owned()), (CONTAINERD_NAME.to_owned(), name.to_owned())]);
    if let Some(source) = source {
        annotations.insert(SOURCE.to_owned(), source.to_string());
    }
    annotations
}

/// Takes the name from an entry.
pub(super) fn forget_name(entry: &mut Descriptor) {
    if let Some(annotations) = &mut entry.annotations {
        annotations.remove(NAME);
        annotations.remove(CONTAINERD_NAME);
    }
}

impl Store {
    /// Names a manifest.
    pub(crate) fn tag(
        &self,
        manifest: &Descriptor,
        platform: Platform,
        name: &str,
        source: Option<&Digest>,
    ) -> Result<()> {
        let mut entry = manifest.clone();
        entry.platform = Some(platform);
        entry.annotations = Some(annotations(name, source));
        self.set_entry(entry)
    }

    /// Gives what has one name another, with all of its platforms and what was attached to them.
    pub(crate) fn tag_too(&self, image: &Image, name: &str) -> Result<()> {
        if image.entry.digest == image.descriptor.digest {
            return self.tag(&image.descriptor, image.config.platform(), name, None);
        }
        let mut entry = image.entry.clone();
        entry.annotations = Some(annotations(name, None));
        self.set_entry(entry)
    }

    /// Whether all that an entry leads to is in the store: an index may be here for one of its images only.
    pub(crate) fn has_all(&self, entry: &Descriptor) -> bool {
        match self.document(entry) {
            Ok(Document::Index(index)) => index.manifests.iter().all(|manifest| {
                // One inside another is nobody's.
                matches!(self.document(manifest), Ok(Document::Manifest(_))) && self.has_all(manifest)
            }),
            Ok(Document::Manifest(manifest)) => {
                self.has_blob(&manifest.config) && manifest.layers.iter().all(|layer| self.has_blob(layer))
            }
            Err(_) => false,
        }
    }

    /// Reads the image that an entry stands for.
    pub(crate) fn load(&self, entry: &Descriptor, platform: &Platform) -> Result<Image> {
        let mut descriptor = entry.clone();
        let mut document = self.document(&descriptor)?;
        if let Document::Index(index) = &document {
            descriptor = index.choose(platform)?.clone();
            document = self.document(&descriptor)?;
        }
        let Document::Manifest(manifest) = document else {
            return Err(Error::malformed(format!("{}: an index inside an index", descriptor.digest)));
        };
        let bytes = self.read_blob(&manifest.config, CONFIG_MAX).at("config")?;
        let config =
            ImageConfig::parse(&bytes, manifest.layers.len()).with(|| format!("config {}", manifest.config.digest))?;
        Ok(Image { entry: entry.clone(), descriptor, manifest, config })
    }

    pub(crate) fn document(&self, descriptor: &Descriptor) -> Result<Document> {
        let bytes = self.read_blob(descriptor, MANIFEST_MAX).at("manifest")?;
        Document::parse(&bytes, &descriptor.media_type).with(|| format!("manifest {}", descriptor.digest))
    }

    /// All images of the store, each with its entry; what cannot be read is given as an error.
    pub(crate) fn images(&self, platform: &Platform) -> Result<Vec<(Descriptor, Result<Image>)>> {
        let index = self.index()?;
        Ok(index.manifests.into_iter().map(|entry| (entry.clone(), self.load(&entry, platform))).collect())
    }

    /// The image of a manifest's digest, named or not.
    pub(crate) fn by_digest(&self, digest: &Digest, platform: &Platform) -> Result<Image> {
        let path = self.blob_path(digest);
        let size = std::fs::metadata(&path)
            .map_err(|_| Error::missing(format!("{digest}: the image is not in the store any more")))?
            .len();
        self.load(&Descriptor::new("", digest.clone(), size), platform)
    }

    /// Finds an image by its name; `None` if there is none.
    pub(crate) fn find_name(&self, text: &str) -> Result<Option<Descriptor>> {
        let index = self.index()?;
        let exact = |name: &str| index.manifests.iter().find(|entry| entry.annotation(NAME) == Some(name)).cloned();
        if let Ok(written) = text.parse::<Reference>() {
            // A short name was kept under the name that it meant when it was pulled.
            let meant = match written.short_name() {
                Some(_) => {
                    Registries::load().and_then(|registries| registries.candidates(&written)).unwrap_or_default()
                }
                None => Vec::new(),
            };
            let reference = meant.into_iter().find(|name| exact(&name.to_string()).is_some()).unwrap_or(written);
            if let Some(entry) = exact(&reference.to_string()) {
                return Ok(Some(entry));
            }
            if let Some(digest) = reference.digest() {
                let of_repository = |entry: &&Descriptor| {
                    let name = entry.annotation(NAME).and_then(|name| name.parse::<Reference>().ok());
                    name.is_some_and(|name| name.name() == reference.name())
                        && (entry.digest == *digest || entry.annotation(SOURCE) == Some(&digest.to_string()))
                };
                return Ok(index.manifests.iter().find(of_repository).cloned());
            }
        }
        // A layout of another tool may have names that are no references.
        Ok(exact(text))
    }

    /// Finds an image by name, or by an ID or digest, which may be shortened.
    pub(crate) fn find(&self, text: &str, platform: &Platform) -> Result<Image> {
        if let Some(entry) = self.find_name(text)? {
            return self.load(&entry, platform).at(text);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let mut found: Vec<Image> = Vec::new();
        if hex.len() >= ID_MIN && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            let matches = |digest: &Digest| digest.hex().starts_with(hex);
            for (_, image) in self.images(platform)? {
                if let Ok(image) = image
                    && (matches(image.id()) || matches(&image.descriptor.digest) || matches(&image.entry.digest))
                    && !found.iter().any(|have| have.id() == image.id())
                {
                    found.push(image);
                }
            }
        }
        match found.len() {
            0 => {
                let full =
                    text.parse::<Reference>().map_or_else(|_| text.to_owned(), |reference| reference.to_string());
                Err(Error::new(Kind::Missing, format!("{full}: no such image in {}", self.root().display())))
            }
            1 => Ok(found.remove(0)),
            n => Err(Error::other(format!("{text}: {n} images have an ID that begins so: give more digits"))),
        }
    }
}

/// Writes an image's config and manifest, as OCI documents, and names it.
pub(crate) fn put_image(store: &Store, config: &ImageConfig, layers: Vec<Descriptor>) -> Result<Descriptor> {
    let config = oci::to_json(config)?;
    oci::check_config_size(config.len() as u64)?;
    let config_descriptor = store.put_blob(oci::OCI_CONFIG, &config)?;
    put_manifest(store, config_descriptor, layers)
}

/// Writes an OCI manifest for a config that is in the store already.
pub(crate) fn put_manifest(store: &Store, config: Descriptor, layers: Vec<Descriptor>) -> Result<Descriptor> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(oci::OCI_MANIFEST.to_owned()),
        config,
        layers,
        subject: None,
        annotations: None,
    };
    store.put_blob(oci::OCI_MANIFEST, &oci::to_json(&manifest)?)
}
