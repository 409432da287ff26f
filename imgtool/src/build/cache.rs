//! What was built before, by what it was built from.
//!
//! ```text
//! STORE/cache/
//!   steps/HEX.json    one record a step: the parts of its key, the layer it gave
//!   seen/HEX          by an instruction's text, or its place in a file: the key of the record that it had last
//!   mounts/HEX/       directories of RUN --mount=type=cache
//! ```
//! A key is the digest of all that the step's result depends on: the layers below, the command, variables, the content of
//! files. Secrets are none of it. A record whose layer is gone counts for nothing. Nothing here is synced: what a crash
//! cuts short reads as a miss.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Result, Step};
use crate::layer::remove_all;
use crate::layout::{Store, if_there, random_hex};
use crate::oci::{self, Descriptor};

/// A record that no build asked for in this time is forgotten when the store is collected.
const KEPT: Duration = Duration::from_hours(24 * 30);

/// What a step's result depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Key {
    /// Names, and short digests of their values.
    parts: Vec<(String, String)>,
    /// Files by path, to tell which of them changed.
    pub(crate) files: BTreeMap<String, String>,
}

impl Key {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: &str) {
        // Digests: a variable's value is nobody's business who reads the cache.
        self.parts.push((name.into(), Digest::of(value.as_bytes()).hex().to_owned()));
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&oci::to_json(&self.parts).unwrap_or_default())
    }
}

/// The layer that a step gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CachedLayer {
    pub(crate) diff_id: Digest,
    pub(crate) descriptor: Descriptor,
}

/// A step that was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<String, String>,
    /// `None`: the step changed nothing.
    pub(crate) layer: Option<CachedLayer>,
    /// RFC 3339.
    pub(crate) created: String,
    /// The `--cache-from` that it came by: it counts for those builds that name this place, and for no other. Who can write
    /// there could have made any layer of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
}

impl Record {
    pub(crate) fn new(key: &Key, layer: Option<CachedLayer>, created: String) -> Self {
        Self { parts: key.parts.clone(), files: key.files.clone(), layer, created, origin: None }
    }
}

impl Record {
    /// For others: what its files were called is nobody's business.
    pub(crate) fn without_files(&self) -> Self {
        Self { files: BTreeMap::new(), origin: None, ..self.clone() }
    }

    pub(crate) fn brought_from(&self, place: &str) -> Self {
        Self { origin: Some(place.to_owned()), ..self.clone() }
    }

    /// For everybody who has the image: of its key they need no more than the whole.
    pub(crate) fn without_parts(&self) -> Self {
        Self { parts: Vec::new(), ..self.without_files() }
    }
}

/// The cache of a store.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    pub(crate) fn of(store: &Store) -> Result<Self> {
        let cache = Self { directory: store.path("cache") };
        for name in ["steps", "seen", "mounts"] {
            let path = cache.directory.join(name);
            if !path.is_dir() {
                fs::create_dir_all(&path).with(|| format!("mkdir {}", path.display()))?;
            }
        }
        Ok(cache)
    }

    fn step(&self, key: &Digest) -> PathBuf {
        self.directory.join("steps").join(format!("{}.json", key.hex()))
    }

    pub(crate) fn mounts(&self) -> PathBuf {
        self.directory.join("mounts")
    }

    /// The record of a key. That it was asked for is noted: what nobody asks for goes one day.
    pub(crate) fn find(&self, key: &Digest) -> Option<Record> {
        let path = self.step(key);
        let record = oci::json(&fs::read(&path).ok()?).ok()?;
        if let Ok(file) = fs::File::open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(record)
    }

    /// Keeps a record, and notes it as the last of `places`.
    pub(crate) fn keep(&self, key: &Digest, record: &Record, places: &[Digest]) -> Result<()> {
        write(&self.step(key), &oci::to_json(record)?)?;
        self.note(key, places)
    }

    /// Notes which key an instruction had.
    pub(crate) fn note(&self, key: &Digest, places: &[Digest]) -> Result<()> {
        for place in places {
            let path = self.directory.join("seen").join(place.hex());
            if fs::read_to_string(&path).ok().as_deref() != Some(key.hex()) {
                write(&path, key.hex().as_bytes())?;
            }
        }
        Ok(())
    }

    /// Why there is no record of `key`: how it differs from what the instruction was last.
    pub(crate) fn why(&self, key: &Key, places: &[Digest]) -> String {
        for place in places {
            let Ok(last) = fs::read_to_string(self.directory.join("seen").join(place.hex())) else { continue };
            let Ok(last) = format!("sha256:{last}").parse::<Digest>() else { continue };
            let Some(record) = fs::read(self.step(&last)).ok().and_then(|b| oci::json::<Record>(&b).ok()) else {
                continue;
            };
            return difference(&record, key);
        }
        "not built before".to_owned()
    }
}

/// Layers and blobs that the cache needs, as (diff ID, digest). Records that nobody asked for in a long time go.
pub(crate) fn cached_layers(store: &Store) -> Result<Vec<(Digest, Digest)>> {
    let directory = store.path("cache/steps");
    let Some(list) = if_there(fs::read_dir(&directory).with(|| format!("read {}", directory.display())))? else {
        return Ok(Vec::new());
    };
    let mut layers = Vec::new();
    for entry in list {
        let path = entry?.path();
        let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        let record = fs::read(&path).ok().and_then(|bytes| oci::json::<Record>(&bytes).ok());
        match record {
            Some(record) if age.is_none_or(|age| age < KEPT) => {
                layers.extend(record.layer.map(|layer| (layer.diff_id, layer.descriptor.digest)));
            }
            _ => if_there(fs::remove_file(&path).with(|| format!("remove {}", path.display()))).map(drop)?,
        }
    }
    Ok(layers)
}

/// Forgets all that was built before, and what `--mount=type=cache` kept. What becomes free is collected by the caller.
pub(crate) fn clear_cache(store: &Store) -> Result<()> {
    remove_all(&store.path("cache"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(random_hex(12)?);
    let write = || -> Result<()> {
        fs::write(&temporary, bytes)?;
        Ok(fs::rename(&temporary, path)?)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).with(|| format!("write {}", path.display()))
}

fn difference(then: &Record, now: &Key) -> String {
    let value = |parts: &[(String, String)], name: &str| {
        parts.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone())
    };
    if then.parts.is_empty() {
        return "what it depends on changed".to_owned(); // an image's own cache does not say what that was
    }
    let mut changes = Vec::new();
    for (name, digest) in &now.parts {
        match value(&then.parts, name) {
            Some(have) if have == *digest => {}
            _ if name == "files" => changes.push(files(&then.files, &now.files)),
            Some(_) => changes.push(format!("{name} changed")),
            None => changes.push(format!("{name} is new")),
        }
    }
    for (name, _) in &then.parts {
        if value(&now.parts, name).is_none() {
            changes.push(format!("{name} is gone"));
        }
    }
    match changes.len() {
        0 => "its layer is not in the store any more".to_owned(),
        1..=3 => changes.join(", "),
        _ => format!("{} and {} more", changes[..2].join(", "), changes.len() - 2),
    }
}

fn files(then: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> String {
    let mut changes = Vec::new();
    for (path, digest) in now {
        match then.get(path) {
            Some(have) if have == digest => {}
            Some(_) => changes.push(format!("/{path} changed")),
            None => changes.push(format!("/{path} is new")),
        }
    }
    changes.extend(then.keys().filter(|path| !now.contains_key(*path)).map(|path| format!("/{path} is gone")));
    match changes.len() {
        0 => "files changed".to_owned(),
        1 => changes.remove(0),
        n => format!("{} and {} more files", changes[0], n - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[(&str, &str)], files: &[(&str, &str)]) -> Key {
        let mut key = Key::default();
        for (name, value) in parts {
            key.add(*name, value);
        }
        key.files = files.iter().map(|(path, digest)| ((*path).to_owned(), (*digest).to_owned())).collect();
        key
    }

    #[test]
    fn a_miss_says_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::of(&Store::at(dir.path()).unwrap()).unwrap();
        let places = [Digest::of(b"text")];
        let first = key(&[("layers", "a"), ("variable X", "1"), ("files", "s1")], &[("a", "1"), ("b", "1")]);
        assert_eq!(cache.why(&first, &places), "not built before");
        cache.keep(&first.digest(), &Record::new(&first, None, "2026-01-01T00:00:00Z".into()), &places).unwrap();
        assert!(cache.find(&first.digest()).is_some());
        for (other, why) in [
            (key(&[("layers", "b"), ("variable X", "1"), ("files", "s1")], &[]), "layers changed"),
            (key(&[("layers", "a"), ("files", "s1")], &[]), "variable X is gone"),
            (key(&[("layers", "a"), ("variable X", "1"), ("files", "s2")], &[("a", "2"), ("b", "1")]), "/a changed"),
            (
                key(&[("layers", "a"), ("variable X", "1"), ("files", "s2")], &[("a", "1"), ("c", "1")]),
                "/c is new and 1 more files",
            ),
            (first.clone(), "its layer is not in the store any more"),
        ] {
            assert_eq!(cache.why(&other, &places), why);
        }
        assert!(cache.find(&key(&[("layers", "b")], &[]).digest()).is_none());
    }
}
