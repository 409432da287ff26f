//! The image store: an OCI image layout, with unpacked layers beside it.
//!
//! ```text
//! STORE/
//!   oci-layout  index.json  blobs/ALGORITHM/HEX    the OCI image layout, readable by other tools
//!   layers/ALGORITHM/HEX/{diff/,layer.json}        unpacked layers, by diff ID (or chain ID, see `layers`)
//!   uses/KEY.json                                  one record a bundle: the image and the layers it stands on
//!   volumes/NAME/                                named volumes
//!   bundles/NAME/                                  bundles that were not given a directory
//!   ingest/ALGORITHM-HEX.partial                   downloads under way; a later pull goes on where one stopped
//!   tmp/                                           what is being made; nothing in it outlives its maker's lock
//!   locks/                                         lock files: `index`, `collect`, `volumes`, and one a layer
//! ```
//! Everything is made under a temporary name and appears by one rename. Whoever adds to the store holds `locks/collect`
//! shared, so that [`Store::collect`], which holds it alone, never takes away what is about to be named.

mod blob;
mod check;
mod collect;
mod image;
mod index;
mod layers;
mod together;
mod uses;
mod volumes;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub(crate) use blob::{Acquired, VerifiedReader, check_size};
pub(crate) use check::Fault;
pub(crate) use collect::{Collected, Removed};
pub(crate) use image::{Image, NAME, SOURCE, annotations, put_image, put_manifest};
pub(crate) use index::INDEX_MAX;
pub(crate) use layers::{Draft, Layer, boot_id};
pub(crate) use together::{Together, is_blank_file};
pub(crate) use uses::Use;
pub(crate) use volumes::Volume;

use crate::error::{Error, Kind, Result, Step};
use crate::new_file::NewFile;
use crate::oci;
use crate::rights::{Rights, outer_uid};

/// An oci-layout is read up to this size.
const VERSION_MAX: u64 = 1 << 20;

/// A store on disk.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
    rights: Rights,
}

/// Keeps the store's content from being collected while it lives.
pub(crate) struct Hold {
    _lock: File,
}

impl Store {
    /// Where images are kept unless `--root` says otherwise: `/var/lib/tare/images`, or below `$XDG_DATA_HOME` for users.
    pub(crate) fn default_root() -> Result<PathBuf> {
        if outer_uid() == 0 {
            return Ok(PathBuf::from("/var/lib/tare/images"));
        }
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .map(|data| data.join("tare/images"))
            .ok_or_else(|| Error::other("neither XDG_DATA_HOME nor HOME is set: name the store with --root"))
    }

    /// The store at `root`, which need not exist yet: it then reads as empty.
    pub(crate) fn at(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).with(|| format!("store {}", root.display()))?;
        Ok(Self { root, rights: Rights::ROOT })
    }

    /// The same store for a verb that makes, reads or removes unpacked layers: of an ordinary user's, that takes a user
    /// namespace. To be called before there is a second thread.
    pub(crate) fn with_rights(&self) -> Result<Self> {
        Ok(Self { root: self.root.clone(), rights: Rights::take()? })
    }

    /// Another store, used with the same rights.
    pub(crate) fn other(&self, root: &Path) -> Result<Self> {
        Ok(Self { rights: self.rights.clone(), ..Self::at(root)? })
    }

    pub(crate) fn rights(&self) -> &Rights {
        &self.rights
    }

    /// Makes what is missing of the store. An index.json of another tool is kept.
    pub(crate) fn create(&self) -> Result<()> {
        self.make().with(|| format!("store {}", self.root.display()))
    }

    fn make(&self) -> Result<()> {
        for dir in ["", "blobs/sha256", "layers", "uses", "ingest", "tmp", "locks"] {
            // Images hold set-user-ID programs: other users of the machine must not reach them (CVE-2021-41091).
            let path = self.root.join(dir);
            DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            // It may have been there before us, and the store itself comes first.
            check_ours(&fs::metadata(&path)?).map_err(|e| if dir.is_empty() { e } else { e.at(dir) })?;
        }
        if !self.root.join("oci-layout").exists() {
            // What is synced in them from now on must not lie in directories that a power cut takes.
            sync_parent(&self.path("blobs/sha256"))?;
            sync_parent(&self.root)?;
            self.write_file(Path::new("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        if !self.root.join("index.json").exists() {
            self.update_index(|_| Ok(()))?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file of the store is.
    pub(crate) fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// Holds off [`Store::collect`]. Waits while one is under way: it takes milliseconds.
    pub(crate) fn hold(&self) -> Result<Hold> {
        let lock = self.lock_file("collect")?;
        lock.lock_shared().at("lock the store")?;
        Ok(Hold { _lock: lock })
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.path("locks").join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).with(|| format!("open {}", path.display()))
    }

    /// Begins a file that is to have a name in the store.
    pub(crate) fn new_file(&self) -> Result<NewFile> {
        NewFile::of(&self.path("tmp"))
    }

    /// Writes a small file so that after a crash there is the old one or the new one.
    pub(crate) fn write_file(&self, below: &Path, content: &[u8]) -> Result<()> {
        let target = self.path(below);
        let write = || -> Result<()> {
            let mut new = self.new_file()?;
            new.file().write_all(content)?;
            new.finish(&target)?;
            sync_parent(&target)
        };
        write().with(|| format!("write {}", target.display()))
    }

    /// The layout version must be one that we know.
    pub(crate) fn check_version(&self) -> Result<()> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Layout {
            image_layout_version: String,
        }
        let path = self.path("oci-layout");
        let read = crate::regular::read(&path, VERSION_MAX).with(|| format!("read {}", path.display()));
        let Some(bytes) = if_there(read)? else {
            return Ok(());
        };
        let layout: Layout = oci::json(&bytes).with(|| path.display().to_string())?;
        if layout.image_layout_version.starts_with("1.") {
            Ok(())
        } else {
            let version = layout.image_layout_version;
            Err(Error::malformed(format!("{}: layout version {version:?} is not known", path.display())))
        }
    }
}

/// Refuses a directory that another user could change while its content is acted on: layers become the files of containers, and a
/// bundle's hooks are run.
pub(crate) fn check_ours(meta: &fs::Metadata) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own && meta.uid() != 0 {
        return Err(Error::other(format!("belongs to another user ({}), not to {own}: act as that one", meta.uid())));
    }
    // With the sticky bit others can add to it, and change nothing that is there.
    if meta.mode() & 0o1002 == 0o002 {
        return Err(Error::other(format!("every user can change it (mode {:o}): chmod o-w", meta.mode() & 0o7777)));
    }
    Ok(())
}

/// Makes a rename or a new name in a directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).with(|| format!("sync {}", parent.display()))
}

/// `len` random hex digits.
pub(crate) fn random_hex(len: usize) -> Result<String> {
    let mut bytes = vec![0u8; len.div_ceil(2)];
    let mut have = 0;
    while have < bytes.len() {
        have += rustix::rand::getrandom(&mut bytes[have..], rustix::rand::GetRandomFlags::empty()).at("getrandom")?;
    }
    let mut hex: String =
        bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|n| char::from_digit(n.into(), 16)).collect();
    hex.truncate(len);
    Ok(hex)
}

/// Turns "there is no such file" into `None`.
pub(crate) fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == Kind::Missing => Ok(None),
        Err(e) => Err(e),
    }
}
