//! OCI and Docker archives into the store.
//!
//! The archive may be a pipe and have its index at the end, so it is read once, and every file in it is spooled into the
//! store's `tmp/` and hashed. What the index then names becomes a blob by a rename; the rest is thrown away. No name of
//! the archive is ever used as a path.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{input_name, open_input};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result, Step};
use crate::layer::{EntryKind, Inflated, Limits, Tarball};
use crate::layout::{NAME, SOURCE, Store, annotations, put_manifest};
use crate::oci::{self, CONFIG_MAX, Descriptor, Document, ImageConfig, Index, MANIFEST_MAX};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::regular;

/// Most files that an archive may have: images have a few for each layer.
const FILES_MAX: usize = 10_000;
/// How deep links between the files of an archive may go.
const LINKS_MAX: usize = 8;

/// A file of the archive.
struct Spooled {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

/// The archive's files by their names; gone at the end, except those that became blobs.
#[derive(Default)]
struct Archive {
    files: HashMap<String, Spooled>,
    links: HashMap<String, String>,
}

impl Drop for Archive {
    fn drop(&mut self) {
        for file in self.files.values() {
            let _ = fs::remove_file(&file.path);
        }
    }
}

/// Docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Loads all images of an archive; gives the names, or the digests of those without. The caller holds the store.
pub(crate) fn load(
    store: &Store,
    input: &Path,
    platform: &Platform,
    limits: Limits,
    name: Option<&Reference>,
    progress: &Progress,
) -> Result<Vec<String>> {
    load_from(store, input, platform, limits, name, progress).with(|| input_name(input))
}

/// The images of an archive, as blobs of the store that have no name there yet. The caller holds the store.
pub(crate) fn read_images(
    store: &Store,
    input: &Path,
    platform: &Platform,
    limits: Limits,
    progress: &Progress,
) -> Result<Vec<Descriptor>> {
    let is_layout = input.as_os_str() != "-" && fs::metadata(input).is_ok_and(|meta| meta.is_dir());
    let archive = if is_layout {
        Archive::read_layout(store, input, limits, progress)?
    } else {
        Archive::read(store, input, limits, progress)?
    };
    if archive.find("index.json").is_some() && archive.find("oci-layout").is_some() {
        oci_images(store, &archive, platform)
    } else if archive.find("manifest.json").is_some() {
        docker_images(store, &archive)
    } else {
        Err(Error::malformed("neither an OCI archive (index.json) nor a Docker archive (manifest.json)"))
    }
}

fn load_from(
    store: &Store,
    input: &Path,
    platform: &Platform,
    limits: Limits,
    name: Option<&Reference>,
    progress: &Progress,
) -> Result<Vec<String>> {
    let mut entries = read_images(store, input, platform, limits, progress)?;
    if let Some(name) = name {
        // One image may have several names.
        entries.dedup_by(|one, other| one.digest == other.digest);
        let [entry] = entries.as_mut_slice() else {
            return Err(Error::other(format!("--name: the archive has {} images, not one", entries.len())));
        };
        entry.annotations = Some(annotations(&name.to_string(), None));
    }
    let mut loaded = Vec::new();
    for entry in entries {
        loaded.push(entry.annotation(NAME).map_or_else(|| entry.digest.to_string(), str::to_owned));
        store.set_entry(entry)?;
    }
    Ok(loaded)
}

impl Archive {
    fn read(store: &Store, input: &Path, limits: Limits, progress: &Progress) -> Result<Self> {
        let raw = open_input(input)?;
        let meta = fs::metadata(input).ok().filter(fs::Metadata::is_file);
        let task = progress.task("load", meta.as_ref().map_or(0, fs::Metadata::len), 0);
        // What comes through a pipe has a size that is known when it is too late.
        let most = limits.for_blob(meta.map(|meta| meta.len())).bytes;
        let mut spooled = 0;
        let mut tar = Tarball::new(BufReader::with_capacity(256 << 10, Inflated::new(raw)?));
        let mut archive = Self::default();
        while let Some(entry) = tar.next()? {
            let Some(name) = plain_name(&entry.path) else {
                continue;
            };
            if archive.files.len() + archive.links.len() >= FILES_MAX {
                return Err(Error::malformed(format!("more than {FILES_MAX} files")));
            }
            match entry.kind {
                EntryKind::File => {
                    let mut put = archive.spool(store, &name)?;
                    loop {
                        let chunk = tar.chunk()?;
                        if chunk.is_empty() {
                            break;
                        }
                        put.take(chunk)?;
                        spooled += chunk.len() as u64;
                        if spooled > most {
                            return Err(Error::malformed(format!(
                                "unpacks to more than {most} bytes (--max-size sets the limit)"
                            )));
                        }
                        task.advance(chunk.len() as u64);
                    }
                    put.finish();
                }
                // docker save links layers that several images share.
                EntryKind::Symlink | EntryKind::Hardlink => {
                    let target = if entry.kind == EntryKind::Hardlink {
                        plain_name(&entry.link)
                    } else {
                        let parent = name.rfind('/').map_or("", |slash| &name[..slash]);
                        plain_name(&[parent.as_bytes(), b"/", &entry.link].concat())
                    };
                    archive.links.extend(target.map(|target| (name, target)));
                }
                _ => {}
            }
        }
        task.finish("read");
        Ok(archive)
    }

    /// The files of an OCI layout, and nothing else that may be in the directory. What is no regular file is not opened.
    fn read_layout(store: &Store, directory: &Path, limits: Limits, progress: &Progress) -> Result<Self> {
        let mut archive = Self::default();
        let task = progress.task("load", 0, 0);
        let mut names = vec!["oci-layout".to_owned(), "index.json".to_owned()];
        for algorithm in Algorithm::ALL {
            let below = format!("blobs/{}", algorithm.name());
            let list = match fs::read_dir(directory.join(&below)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                list => list.with(|| below.clone())?,
            };
            for entry in list {
                let entry = entry.with(|| below.clone())?;
                if !entry.file_type().with(|| below.clone())?.is_dir() {
                    names.extend(entry.file_name().to_str().map(|name| format!("{below}/{name}")));
                }
            }
            if names.len() > FILES_MAX {
                return Err(Error::malformed(format!("more than {FILES_MAX} files")));
            }
        }
        let most = limits.for_blob(None).bytes;
        let mut spooled = 0;
        let mut buffer = vec![0; 256 << 10];
        let root = fs::File::open(directory)?;
        for name in names {
            // No link: one leads to what may be no file of anybody's, such as the kernel's log.
            let mut file = regular::open_at(&root, name.as_bytes()).with(|| name.clone())?;
            let mut put = archive.spool(store, &name)?;
            loop {
                match file.read(&mut buffer).with(|| name.clone())? {
                    0 => break,
                    len => {
                        put.take(&buffer[..len])?;
                        spooled += len as u64;
                        if spooled > most {
                            return Err(Error::malformed(format!(
                                "more than {most} bytes (--max-size sets the limit)"
                            )));
                        }
                        task.advance(len as u64);
                    }
                }
            }
            put.finish();
        }
        task.finish("read");
        Ok(archive)
    }

    /// Begins a file of the archive, in place of one of this name that came before.
    fn spool(&mut self, store: &Store, name: &str) -> Result<Put<'_>> {
        let (path, file) = store.spool()?;
        // Known from here on, so that it is removed whatever happens.
        let placeholder = Spooled { path, digest: Digest::of(b""), size: 0 };
        if let Some(old) = self.files.insert(name.to_owned(), placeholder) {
            let _ = fs::remove_file(&old.path);
        }
        let spooled = self.files.get_mut(name).ok_or_else(|| Error::other("lost"))?;
        Ok(Put { file, hasher: Hasher::new(Algorithm::Sha256), spooled })
    }

    fn find(&self, name: &str) -> Option<&Spooled> {
        let mut name = plain_name(name.as_bytes())?;
        for _ in 0..LINKS_MAX {
            if let Some(file) = self.files.get(&name) {
                return Some(file);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }

    fn get(&self, name: &str) -> Result<&Spooled> {
        self.find(name).ok_or_else(|| Error::malformed(format!("the archive has no {name}")))
    }

    fn text(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let file = self.get(name)?;
        if file.size > most {
            return Err(Error::malformed(format!("{name} has {} bytes (at most {most} are read)", file.size)));
        }
        fs::read(&file.path).with(|| name.to_owned())
    }

    /// The blob of a descriptor, proved.
    fn blob(&self, descriptor: &Descriptor) -> Result<&Spooled> {
        let Descriptor { digest, size, .. } = descriptor;
        let file = self.get(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()))?;
        let got = match digest.algorithm() {
            Algorithm::Sha256 => file.digest.clone(),
            Algorithm::Sha512 => hash_file(&file.path, Algorithm::Sha512)?,
        };
        if got != *digest {
            return Err(Error::damaged(format!("blob {digest}: digest mismatch: got {got}")));
        }
        if file.size != *size {
            return Err(Error::damaged(format!("blob {digest}: size mismatch: got {} of {size} bytes", file.size)));
        }
        Ok(file)
    }
}

/// A file of the archive under way.
struct Put<'a> {
    file: fs::File,
    hasher: Hasher,
    spooled: &'a mut Spooled,
}

impl Put<'_> {
    fn take(&mut self, chunk: &[u8]) -> Result<()> {
        self.hasher.update(chunk);
        self.file.write_all(chunk).at("write")?;
        self.spooled.size += chunk.len() as u64;
        Ok(())
    }

    fn finish(self) {
        self.spooled.digest = self.hasher.finish();
    }
}

fn hash_file(path: &Path, algorithm: Algorithm) -> Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            len => hasher.update(&buffer[..len]),
        }
    }
}

/// A name within the archive without `.` and `..`; `None` for what leaves it or is no text.
fn plain_name(name: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// The images of an OCI layout. Of an index with several platforms the one that was asked for is taken.
fn oci_images(store: &Store, archive: &Archive, platform: &Platform) -> Result<Vec<Descriptor>> {
    let index: Index = oci::json(&archive.text("index.json", MANIFEST_MAX)?).at("index.json")?;
    let mut entries = Vec::new();
    for top in &index.manifests {
        let step = || format!("manifest {}", top.digest);
        let document = |descriptor: &Descriptor| -> Result<(Document, Vec<u8>)> {
            archive.blob(descriptor)?;
            let digest = &descriptor.digest;
            let bytes = archive.text(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()), MANIFEST_MAX)?;
            Ok((Document::parse(&bytes, &descriptor.media_type)?, bytes))
        };
        let (mut found, mut bytes) = document(top).with(step)?;
        let mut descriptor = top.clone();
        if let Document::Index(inner) = &found {
            descriptor = inner.choose(platform).with(step)?.clone();
            (found, bytes) = document(&descriptor).with(step)?;
        }
        let Document::Manifest(manifest) = found else {
            return Err(Error::malformed("an index inside an index")).with(step);
        };
        let config = {
            archive.blob(&manifest.config).with(step)?;
            let digest = &manifest.config.digest;
            archive.text(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()), CONFIG_MAX)?
        };
        let parsed =
            ImageConfig::parse(&config, manifest.layers.len()).with(|| format!("config {}", manifest.config.digest))?;
        for layer in &manifest.layers {
            let file = archive.blob(layer).with(step)?;
            adopt(store, layer, &file.path)?;
        }
        store.put_blob_as(manifest.config.clone(), &config)?;
        let media_type = manifest.media_type.clone().unwrap_or_default();
        let plain =
            store.put_blob_as(Descriptor::new(&media_type, descriptor.digest.clone(), descriptor.size), &bytes)?;
        entries.push(named(plain, &parsed, name_of(top), Some(&top.digest)));
    }
    Ok(entries)
}

/// The name in an OCI archive's index: containerd's annotation has it whole, where the other has only a tag.
fn name_of(entry: &Descriptor) -> Option<String> {
    let full = entry.annotation("io.containerd.image.name").or_else(|| entry.annotation(NAME))?;
    full.parse::<Reference>().ok().map(|reference| reference.to_string())
}

fn named(mut entry: Descriptor, config: &ImageConfig, name: Option<String>, source: Option<&Digest>) -> Descriptor {
    entry.platform = Some(config.platform());
    entry.annotations = match name {
        Some(name) => Some(annotations(&name, source)),
        None => source.map(|source| [(SOURCE.to_owned(), source.to_string())].into()),
    };
    entry
}

fn adopt(store: &Store, descriptor: &Descriptor, path: &Path) -> Result<()> {
    if store.has_blob(descriptor) || !path.exists() {
        return Ok(()); // there, or taken for another image of this archive
    }
    fs::File::open(path).and_then(|file| file.sync_data()).with(|| format!("blob {}", descriptor.digest))?;
    store.adopt_spooled(&descriptor.digest, path)
}

/// The images of a Docker archive: its config is kept to the byte, so the image's ID stays; the manifest is made here.
fn docker_images(store: &Store, archive: &Archive) -> Result<Vec<Descriptor>> {
    let images: Vec<DockerImage> = oci::json(&archive.text("manifest.json", MANIFEST_MAX)?).at("manifest.json")?;
    let mut entries = Vec::new();
    for image in images {
        let bytes = archive.text(&image.config, CONFIG_MAX)?;
        let layers = image.layers.unwrap_or_default();
        let config = ImageConfig::parse(&bytes, layers.len()).with(|| image.config.clone())?;
        let mut descriptors = Vec::new();
        for (name, diff_id) in layers.iter().zip(&config.rootfs.diff_ids) {
            let file = archive.get(name)?;
            let media_type = layer_type(store, file, diff_id).with(|| name.clone())?;
            let descriptor = Descriptor::new(media_type, file.digest.clone(), file.size);
            adopt(store, &descriptor, &file.path)?;
            descriptors.push(descriptor);
        }
        let config_descriptor = store.put_blob(oci::OCI_CONFIG, &bytes)?;
        let manifest = put_manifest(store, config_descriptor, descriptors)?;
        let tags = image.repo_tags.unwrap_or_default();
        for tag in &tags {
            let reference: Reference = tag.parse()?;
            entries.push(named(manifest.clone(), &config, Some(reference.to_string()), None));
        }
        if tags.is_empty() {
            entries.push(named(manifest, &config, None, None));
        }
    }
    if entries.is_empty() {
        return Err(Error::malformed("manifest.json: no images"));
    }
    Ok(entries)
}

/// A layer of a Docker archive, which is proved by its diff ID alone: read it through.
fn layer_type(store: &Store, file: &Spooled, diff_id: &Digest) -> Result<&'static str> {
    // A layer that two images of the archive share was moved into the store for the first.
    let descriptor = Descriptor::new("", file.digest.clone(), file.size);
    let path = if file.path.exists() { file.path.clone() } else { store.blob_path(&descriptor.digest) };
    let mut inflated = Inflated::new(fs::File::open(&path)?)?;
    let media_type = match &inflated {
        Inflated::Plain(_) => oci::OCI_LAYER,
        Inflated::Gzip(_) => oci::OCI_LAYER_GZIP,
        Inflated::Zstd(_) => oci::OCI_LAYER_ZSTD,
    };
    let got = if media_type == oci::OCI_LAYER && diff_id.algorithm() == Algorithm::Sha256 {
        file.digest.clone()
    } else {
        let mut sink = Hashing(Hasher::new(diff_id.algorithm()));
        io::copy(&mut inflated, &mut sink)?;
        sink.0.finish()
    };
    if got == *diff_id {
        Ok(media_type)
    } else {
        Err(Error::damaged(format!("the uncompressed layer is {got}, the image config says {diff_id}")))
    }
}

struct Hashing(Hasher);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
