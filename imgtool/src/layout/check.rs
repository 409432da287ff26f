//! Finds damage in a store, and takes damaged things away so that they are made or fetched anew.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use super::together::is_blank;
use super::{NAME, Store, if_there};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result, Step};
use crate::layer::remove_all;
use crate::oci::{CONFIG_MAX, Descriptor, Document, ImageConfig};

/// Something that is not as it should be.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A blob's content is not what its name says.
    Blob { digest: Digest, why: String },
    /// An unpacked layer without its files.
    Layer { path: PathBuf, why: String },
    /// A record that cannot be read.
    Record { path: PathBuf, why: String },
    /// An image lacks a part; pulling or loading it again brings that.
    Lost { image: String, why: String },
}

impl Fault {
    /// What kind of thing it is of, which one, and what is the matter.
    pub(crate) fn parts(&self) -> (&'static str, String, &str) {
        match self {
            Self::Blob { digest, why } => ("blob", digest.to_string(), why),
            Self::Layer { path, why } => ("layer", path.display().to_string(), why),
            Self::Record { path, why } => ("record", path.display().to_string(), why),
            Self::Lost { image, why } => ("image", image.clone(), why),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, what, why) = self.parts();
        write!(f, "{kind} {what}: {why}")
    }
}

impl Store {
    /// Reads every blob and every record. The caller holds the store.
    pub(crate) fn check(&self) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        for algorithm in Algorithm::ALL {
            self.check_blobs(algorithm, &mut faults)?;
            self.check_layers(algorithm, &mut faults)?;
        }
        let directory = self.path("uses");
        for entry in fs::read_dir(&directory).with(|| format!("read {}", directory.display()))? {
            let path = entry?.path();
            let bytes = fs::read(&path)?;
            if is_blank(&bytes) {
                continue; // goes with the next look at them
            }
            if let Err(e) = crate::oci::json::<super::Use>(&bytes) {
                faults.push(Fault::Record { path, why: e.to_string() });
            }
        }
        match self.index() {
            Ok(index) => {
                for entry in &index.manifests {
                    let image = entry.annotation(NAME).map_or_else(|| entry.digest.to_string(), str::to_owned);
                    if let Err(e) = self.check_image(entry, 0) {
                        faults.push(Fault::Lost { image, why: e.to_string() });
                    }
                }
            }
            Err(e) => faults.push(Fault::Record { path: self.path("index.json"), why: e.to_string() }),
        }
        Ok(faults)
    }

    fn check_blobs(&self, algorithm: Algorithm, faults: &mut Vec<Fault>) -> Result<()> {
        let directory = self.path("blobs").join(algorithm.name());
        for entry in if_there(fs::read_dir(&directory).map_err(Error::from))?.into_iter().flatten() {
            let entry = entry?;
            let name = format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy());
            let Ok(digest) = name.parse::<Digest>() else { continue };
            let blob = Descriptor::new("", digest.clone(), entry.metadata()?.len());
            let mut reader = match self.open_blob(&blob) {
                Ok(reader) => reader,
                Err(e) => {
                    faults.push(Fault::Blob { digest, why: e.to_string() });
                    continue;
                }
            };
            let mut buffer = vec![0; 256 << 10];
            let read = loop {
                match reader.read(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(e) => break Err(Error::from(e)),
                }
            };
            if let Err(e) = read {
                faults.push(Fault::Blob { digest, why: e.to_string() });
            }
        }
        Ok(())
    }

    fn check_layers(&self, algorithm: Algorithm, faults: &mut Vec<Fault>) -> Result<()> {
        let directory = self.path("layers").join(algorithm.name());
        for entry in if_there(fs::read_dir(&directory).map_err(Error::from))?.into_iter().flatten() {
            let path = entry?.path();
            // What a power cut leaves of a layer, with a record that cannot be read or is of another boot, counts for
            // nothing: whoever wants the layer unpacks it anew from its blob.
            if self.layer_in(&path)?.is_some() && !path.join("diff").is_dir() {
                faults.push(Fault::Layer { path, why: "its files are gone".to_owned() });
            }
        }
        Ok(())
    }

    /// Whether all that an entry names is there; of an index, what is there must be whole.
    fn check_image(&self, entry: &Descriptor, depth: usize) -> Result<()> {
        match self.document(entry)? {
            Document::Index(index) => {
                let here: Vec<&Descriptor> = index.manifests.iter().filter(|m| self.has_blob(m)).collect();
                if here.is_empty() || depth > 2 {
                    return Err(Error::damaged("none of its manifests is here"));
                }
                here.into_iter().try_for_each(|manifest| self.check_image(manifest, depth + 1))
            }
            Document::Manifest(manifest) => {
                let bytes = self.read_blob(&manifest.config, CONFIG_MAX).at("config")?;
                ImageConfig::parse(&bytes, manifest.layers.len()).at("config")?;
                match manifest.layers.iter().find(|layer| !self.has_blob(layer)) {
                    Some(layer) => Err(Error::damaged(format!("layer {} is missing", layer.digest))),
                    None => Ok(()),
                }
            }
        }
    }

    /// Takes away what is damaged.
    pub(crate) fn mend(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Blob { digest, .. } => remove_all(&self.blob_path(digest)),
            Fault::Layer { path, .. } => remove_all(path),
            Fault::Record { path, .. } => {
                // Kept beside, for who wants to look what was in it.
                let mut aside = path.clone().into_os_string();
                aside.push(".damaged");
                let aside =
                    if path.starts_with(self.path("uses")) { self.path("tmp/use.damaged") } else { aside.into() };
                fs::rename(path, &aside).with(|| format!("rename {}", path.display()))?;
                self.create()
            }
            Fault::Lost { .. } => Ok(()),
        }
    }
}
