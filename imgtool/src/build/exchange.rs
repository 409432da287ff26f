//! The cache in other places: `--cache-to` writes what a build used or made, `--cache-from` reads it where the store has
//! nothing.
//!
//! It is an OCI image manifest whose config has the records of the steps by their keys, and whose layers are those of the
//! records; a registry or an OCI layout keeps it like any image. A layer is fetched when a step wants it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::builder::Builder;
use super::cache::{CachedLayer, Record};
use super::display::Display;
use super::parse::csv;
use super::state::State;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::layer::Limits;
use crate::layout::{Layer, Store, VerifiedReader};
use crate::oci::{self, Descriptor, Document, ImageConfig, Manifest};
use crate::reference::Reference;
use crate::registry::{Access, Stop};
use crate::transfer::{LayoutDir, Remote, Source, StoreImage, Target, Transfer};
use crate::unpack::Unpacking;

const CONFIG: &str = "application/vnd.tare.buildcache.config.v1+json";
/// A list of records is read up to this size.
const CONFIG_MAX: u64 = 64 << 20;
/// The name of a cache in a layout.
const TAG: &str = "cache";

/// `--cache-from`, `--cache-to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    kind: PlaceKind,
    /// All steps, not only those of the target's stages (`mode=max`).
    all: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PlaceKind {
    Directory(PathBuf, String),
    Registry(String),
}

impl std::str::FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::malformed(format!("{text}: {why}: want type=local,dest=DIR (or src=DIR), or type=registry,ref=REF"))
        };
        // The old form is a reference alone.
        if !text.contains('=') {
            text.parse::<Reference>()?;
            return Ok(Self { kind: PlaceKind::Registry(text.to_owned()), all: false });
        }
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        for field in csv(text)? {
            let (key, value) = field.split_once('=').ok_or_else(|| bad(format!("{field:?} has no =")))?;
            fields.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        let mut take = |key: &str| fields.remove(key);
        let kind = match take("type").as_deref() {
            Some("local") => {
                let directory =
                    take("dest").or_else(|| take("src")).ok_or_else(|| bad("which directory".to_owned()))?;
                PlaceKind::Directory(directory.into(), take("tag").unwrap_or_else(|| TAG.to_owned()))
            }
            Some("registry") => {
                let reference = take("ref").ok_or_else(|| bad("which ref".to_owned()))?;
                reference.parse::<Reference>()?;
                PlaceKind::Registry(reference)
            }
            Some(other) => return Err(bad(format!("type {other:?} is not known here"))),
            None => return Err(bad("no type".to_owned())),
        };
        let all = match take("mode").as_deref() {
            None | Some("min") => false,
            Some("max") => true,
            Some(other) => return Err(bad(format!("mode={other}"))),
        };
        match fields.keys().next() {
            Some(key) => Err(bad(format!("unknown key {key:?}"))),
            None => Ok(Self { kind, all }),
        }
    }
}

/// The config of a cache.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Records {
    /// By key.
    steps: BTreeMap<String, Record>,
}

/// A step that a build used or made, and by which stage.
pub(crate) type Used = (usize, Digest, Record);

/// Writes the records of a build, and their layers.
pub(crate) fn export(store: &Store, place: &Place, used: &[Used], stages: &[usize], access: &Access) -> Result<()> {
    let mut records = Records::default();
    let mut layers: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    for (_, key, record) in used.iter().filter(|(stage, ..)| place.all || stages.contains(stage)) {
        if let Some(layer) = &record.layer {
            layers.insert(layer.descriptor.digest.clone(), layer.descriptor.clone());
        }
        // Names of files are for telling what changed where it was built.
        records.steps.insert(key.to_string(), record.without_files());
    }
    let config = store.put_blob(CONFIG, &oci::to_json(&records)?)?;
    let manifest = crate::layout::put_manifest(store, config, layers.into_values().collect())?;
    let source = StoreImage::new(store, &manifest, None);
    let progress = crate::progress::Progress::Quiet;
    let send = |target: &dyn Target| {
        let transfer =
            Transfer { source: &source, target, progress: &progress, platform: None, referrers: false, parallel: 3 };
        transfer.run().map(drop)
    };
    match &place.kind {
        PlaceKind::Directory(directory, tag) => send(&LayoutDir::create(directory, Some(tag.clone()))?),
        PlaceKind::Registry(reference) => {
            let parsed: Reference = reference.parse()?;
            send(&Remote::target(&parsed, access, None, None)).with(|| reference.clone())
        }
    }
}

/// Records of other places.
pub(crate) struct Imported {
    sources: Vec<(Box<dyn Source + Send + Sync>, Records)>,
}

impl Imported {
    /// Reads the records. A place that has none, or is not there, is told of and passed over.
    pub(crate) fn of(places: &[Place], access: &Access, display: &Display) -> Option<Self> {
        let mut sources = Vec::new();
        for place in places {
            match open(place, access) {
                Ok(found) => sources.push(found),
                Err(e) => display.note(&format!("--cache-from: {e}: goes on without")),
            }
        }
        (!sources.is_empty()).then_some(Self { sources })
    }

    /// The step of this key, with its layer brought into the store.
    #[allow(clippy::type_complexity, reason = "a record and what it stands for")]
    pub(crate) fn take(
        &self,
        builder: &Builder,
        key: &Digest,
        below: Option<&Digest>,
        state: &State,
    ) -> Result<Option<(Record, Option<(Layer, Descriptor)>)>> {
        for (source, records) in &self.sources {
            let Some(record) = records.steps.get(&key.to_string()) else { continue };
            let Some(CachedLayer { diff_id, descriptor }) = &record.layer else {
                return Ok(Some((record.clone(), None)));
            };
            if !builder.store.has_blob(descriptor) {
                let reader = source.open(descriptor, 0)?;
                store_blob(&builder.store, descriptor, reader)?;
            }
            if let Some(layer) = builder.store.layer(diff_id, below)? {
                return Ok(Some((record.clone(), Some((layer, descriptor.clone())))));
            }
            let mut config = state.config.clone();
            config.rootfs.diff_ids.push(diff_id.clone());
            let manifest = Manifest {
                schema_version: 2,
                media_type: None,
                config: Descriptor::new(oci::OCI_CONFIG, key.clone(), 0),
                layers: state.blobs.iter().chain([descriptor]).cloned().collect(),
                subject: None,
                annotations: None,
            };
            let layer = unpack(&builder.store, &manifest, &config, &builder.display)?.pop();
            let layer = layer.ok_or_else(|| Error::other("no layer"))?;
            return Ok(Some((record.clone(), Some((layer, descriptor.clone())))));
        }
        Ok(None)
    }
}

fn open(place: &Place, access: &Access) -> Result<(Box<dyn Source + Send + Sync>, Records)> {
    let source: Box<dyn Source + Send + Sync> = match &place.kind {
        PlaceKind::Directory(directory, tag) => {
            let step = || directory.display().to_string();
            let layout = Store::at(directory)?;
            let index = layout.index().with(step)?;
            let named = |entry: &&Descriptor| entry.annotation(crate::layout::NAME) == Some(tag);
            let entry = index.manifests.iter().find(named).ok_or_else(|| Error::missing("there is no cache in it"));
            Box::new(StoreImage::new(&layout, entry.with(step)?, None))
        }
        PlaceKind::Registry(reference) => Box::new(Remote::source(&reference.parse()?, access)),
    };
    let delivered = source.manifest(None)?;
    let Document::Manifest(manifest) = Document::parse_any(&delivered.bytes, &delivered.media_type)? else {
        return Err(Error::new(Kind::Malformed, "is an index, not a build cache"));
    };
    if manifest.config.media_type != CONFIG {
        return Err(Error::malformed("is an image without a build cache"));
    }
    crate::layout::check_size(&manifest.config, CONFIG_MAX)?;
    let mut bytes = Vec::new();
    source.open(&manifest.config, 0)?.read_to_end(&mut bytes)?;
    let records = oci::json(&bytes)?;
    Ok((source, records))
}

/// Brings a blob of another layout into the store.
pub(crate) fn take_blob(store: &Store, other: &Store, blob: &Descriptor) -> Result<()> {
    if store.has_blob(blob) {
        return Ok(());
    }
    store_blob(store, blob, other.open_blob(blob)?)
}

fn store_blob(store: &Store, blob: &Descriptor, reader: impl std::io::Read) -> Result<()> {
    let copy = || -> Result<()> {
        let mut new = store.new_file()?;
        std::io::copy(&mut VerifiedReader::new(reader, blob), new.file())?;
        store.adopt_blob(&blob.digest, new)
    };
    copy().with(|| format!("blob {}", blob.digest))
}

/// Unpacks the layers of a manifest whose blobs are in the store.
pub(crate) fn unpack(
    store: &Store,
    manifest: &Manifest,
    config: &ImageConfig,
    display: &Display,
) -> Result<Vec<Layer>> {
    let progress = display.transfers();
    let unpacking = Unpacking {
        store,
        registry: None,
        stop: std::sync::Arc::new(Stop::default()),
        progress: &progress,
        limits: Limits::default(),
        parallel: 3,
    };
    unpacking.layers(manifest, config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_cache() {
        let place: Place = "type=local,dest=/c,mode=max".parse().unwrap();
        assert_eq!((place.kind, place.all), (PlaceKind::Directory("/c".into(), TAG.into()), true));
        assert_eq!("reg.example/c:1".parse::<Place>().unwrap().kind, PlaceKind::Registry("reg.example/c:1".into()));
        for bad in [
            "type=local",
            "type=gha",
            "type=registry",
            "type=local,dest=/c,x=y",
            "type=registry,ref=BAD!",
            "type=local,dest=/c,mode=x",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
