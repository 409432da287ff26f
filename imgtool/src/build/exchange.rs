//! The cache in other places: `--cache-to` writes what a build used or made, `--cache-from` reads it where the store has
//! nothing.
//!
//! It is an OCI image manifest whose config has the records of the steps by their keys, and whose layers are those of the
//! records; a registry or an OCI layout keeps it like any image. A layer is fetched when a step wants it. An image may have
//! the records of its own layers in its config (`type=inline`), and is then a cache itself.

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
use crate::error::{Error, Result, Step};
use crate::layer::Limits;
use crate::layout::{Layer, Store, VerifiedReader};
use crate::oci::{self, Descriptor, Document, ImageConfig, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Access, Stop};
use crate::transfer::{LayoutDir, Remote, Source, StoreImage, Target, Transfer};
use crate::unpack::Unpacking;

/// The member of an image's config that has the records of its layers.
const INLINE: &str = "org.tare.buildcache.v1";
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
    /// In the config of the image that is built.
    Inline,
}

impl Place {
    pub(crate) fn is_inline(&self) -> bool {
        self.kind == PlaceKind::Inline
    }
}

/// Where it is, whatever is written or read there.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            PlaceKind::Directory(path, tag) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                write!(f, "{}:{tag}", path.display())
            }
            PlaceKind::Registry(text) => match text.parse::<Reference>() {
                Ok(reference) => write!(f, "{reference}"),
                Err(_) => f.write_str(text),
            },
            PlaceKind::Inline => f.write_str("inline"),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::malformed(format!(
                "{text}: {why}: want type=local,dest=DIR (or src=DIR), type=registry,ref=REF, or to write type=inline"
            ))
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
            Some("inline") => PlaceKind::Inline,
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
    if place.is_inline() {
        return Ok(());
    }
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
        PlaceKind::Inline => Ok(()),
    }
}

/// An image's config with the records of the steps that its layers are of.
pub(crate) fn with_cache(config: &ImageConfig, builder: &Builder, state: &State) -> Result<Vec<u8>> {
    let stages = builder.plan.lineage();
    let used = builder.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut records = Records::default();
    for (_, key, record) in used.iter().filter(|(stage, ..)| stages.contains(stage)) {
        if record
            .layer
            .as_ref()
            .is_none_or(|layer| state.blobs.iter().any(|blob| blob.digest == layer.descriptor.digest))
        {
            records.steps.insert(key.to_string(), record.without_parts());
        }
    }
    let bad = |e: serde_json::Error| Error::other(e.to_string());
    let mut config = serde_json::to_value(config).map_err(bad)?;
    config[INLINE] = serde_json::to_value(&records).map_err(bad)?;
    oci::to_json(&config)
}

/// Records of other places.
pub(crate) struct Imported {
    sources: Vec<Open>,
}

/// One of them: its name, where its layers are, and its records.
struct Open {
    name: String,
    source: Box<dyn Source + Send + Sync>,
    records: Records,
}

impl Imported {
    /// Reads the records. A place that has none, or is not there, is told of and passed over.
    pub(crate) fn of(places: &[Place], access: &Access, platform: &Platform, display: &Display) -> Option<Self> {
        let mut sources = Vec::new();
        for place in places {
            match open(place, access, platform) {
                Ok((source, records)) => sources.push(Open { name: place.to_string(), source, records }),
                Err(e) => display.note(&format!("--cache-from: {place}: {e}: goes on without")),
            }
        }
        (!sources.is_empty()).then_some(Self { sources })
    }

    /// The step of this key, with its layer brought into the store. Where that cannot be, the step is done as if there were no
    /// such cache.
    pub(crate) fn take(&self, builder: &Builder, key: &Digest, state: &State) -> Option<Taken> {
        for open in &self.sources {
            let Some(record) = open.records.steps.get(&key.to_string()) else { continue };
            match open.layer(builder, key, record, state) {
                Ok(layer) => return Some((record.brought_from(&open.name), layer)),
                Err(e) => builder.display.note(&format!("--cache-from: {}: {e}: goes on without", open.name)),
            }
        }
        None
    }
}

/// A record, and the layer that it stands for.
pub(crate) type Taken = (Record, Option<(Layer, Descriptor)>);

impl Open {
    fn layer(
        &self,
        builder: &Builder,
        key: &Digest,
        record: &Record,
        state: &State,
    ) -> Result<Option<(Layer, Descriptor)>> {
        let Some(CachedLayer { diff_id, descriptor }) = &record.layer else { return Ok(None) };
        let below = state.chain_id();
        if !builder.store.has_blob(descriptor) {
            let reader = self.source.open(descriptor, 0)?;
            store_blob(&builder.store, descriptor, reader)?;
        }
        if let Some(layer) = builder.store.layer(diff_id, below.as_ref())? {
            return Ok(Some((layer, descriptor.clone())));
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
        Ok(Some((layer, descriptor.clone())))
    }
}

fn open(place: &Place, access: &Access, platform: &Platform) -> Result<(Box<dyn Source + Send + Sync>, Records)> {
    let source: Box<dyn Source + Send + Sync> = match &place.kind {
        PlaceKind::Directory(directory, tag) => {
            let layout = Store::at(directory)?;
            let index = layout.index()?;
            let named = |entry: &&Descriptor| entry.annotation(crate::layout::NAME) == Some(tag);
            let entry = index.manifests.iter().find(named).ok_or_else(|| Error::missing("there is no cache in it"));
            Box::new(StoreImage::new(&layout, entry?, None))
        }
        PlaceKind::Registry(reference) => Box::new(Remote::source(&reference.parse()?, access)),
        PlaceKind::Inline => return Err(Error::malformed("of which image? give type=registry,ref=REF")),
    };
    let delivered = source.manifest(None)?;
    let manifest = match Document::parse_any(&delivered.bytes, &delivered.media_type)? {
        Document::Manifest(manifest) => manifest,
        // An image of several platforms, or with statements beside it.
        Document::Index(index) => {
            let delivered = source.manifest(Some(index.choose(platform)?))?;
            match Document::parse_any(&delivered.bytes, &delivered.media_type)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Err(Error::malformed("an index in an index")),
            }
        }
    };
    let is_cache = manifest.config.media_type == CONFIG;
    crate::layout::check_size(&manifest.config, if is_cache { CONFIG_MAX } else { oci::CONFIG_MAX })?;
    let mut bytes = Vec::new();
    source.open(&manifest.config, 0)?.read_to_end(&mut bytes)?;
    if is_cache {
        return Ok((source, oci::json(&bytes)?));
    }
    let mut config: BTreeMap<String, serde_json::Value> = oci::json(&bytes)?;
    let records = config.remove(INLINE).ok_or_else(|| Error::missing("is an image without a build cache"))?;
    let records: Records = serde_json::from_value(records).map_err(|e| Error::malformed(e.to_string()))?;
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
        assert!("type=inline".parse::<Place>().unwrap().is_inline());
        let shown = |text: &str| text.parse::<Place>().unwrap().to_string();
        assert_eq!(shown("type=registry,ref=x:1"), shown("x:1"));
        assert_eq!(shown("type=local,src=/c"), shown("type=local,dest=/c,mode=max"));
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
