//! Bundles: an image's layers mounted as a root file system, with the config.json that runs it.
//!
//! ```text
//! DIR/
//!   config.json       OCI runtime-spec; written last, so a bundle with it is complete
//!   rootfs/           overlayfs: the image's layers below, `overlay/upper` above
//!   overlay/{upper,work}
//!   etc/{hostname,hosts,resolv.conf}    bound into the container
//!   volumes/N/        one for each of the image's volumes, with what the image has there
//!   bundle.json       what `unbundle` must know: the store and the image
//! ```

mod caps;
mod options;
mod overlay;
mod remove;
mod rootfs;
mod seccomp;
mod spec;
#[cfg(test)]
mod tests;
mod user;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, fchmod, fchown, futimens};
use serde::{Deserialize, Serialize};

pub(crate) use options::{Bind, Network, Options, parse_cpus, parse_size};
pub(crate) use remove::remove;

use crate::digest::Digest;
use crate::error::{Error, Result, Step};
use crate::layer::{copy_tree, open_root};
use crate::layout::{Image, Layer, Store, Use, random_hex};
use crate::oci;
use crate::progress::Progress;
use crate::unpack::visible;
use options::clean_absolute;
use rootfs::RootFs;
use spec::Context;

const RECORD: &str = "bundle.json";

/// bundle.json.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// The store whose layers the root file system stands on.
    store: PathBuf,
    image: String,
    digest: Digest,
}

/// Makes a bundle of `image` in `directory`, or in a new one of the store. Gives its absolute path. The caller holds the
/// store. What fails leaves nothing behind.
pub(crate) fn make(
    store: &Store,
    image: &Image,
    layers: &[Layer],
    directory: Option<&Path>,
    options: &Options,
    progress: &Progress,
) -> Result<PathBuf> {
    // All that can be refused without touching anything comes first.
    spec::arguments(&image.config.config, options)?;
    spec::working_directory(&image.config.config, options)?;
    let capabilities = caps::capabilities(&options.cap_add, &options.cap_drop)?;
    for bind in &options.volumes {
        fs::metadata(&bind.source).with(|| format!("--volume {}", bind.source.display()))?;
    }
    if let Some(name) = &options.hostname {
        check_hostname(name)?;
    }
    let id = random_hex(12)?;
    let (directory, made) = claim(store, image, directory, &id)?;
    let maker = Maker { store, image, layers, options, directory: &directory, progress };
    match maker.fill(&id, capabilities) {
        Ok(()) => Ok(directory),
        Err(e) => {
            // The first error is the one to tell; the undoing does what it can.
            let _ = remove::undo(store, &directory, made);
            Err(e)
        }
    }
}

/// A directory of our own: an absent or an empty one. Says whether it was made here.
fn claim(store: &Store, image: &Image, directory: Option<&Path>, id: &str) -> Result<(PathBuf, bool)> {
    let Some(directory) = directory else {
        let reference = image.reference();
        let name = reference.as_ref().map_or("image", |r| r.path().rsplit('/').next().unwrap_or("image"));
        let parent = store.path("bundles");
        DirBuilder::new().recursive(true).mode(0o700).create(&parent).with(|| format!("mkdir {}", parent.display()))?;
        let directory = parent.join(format!("{name}-{id}"));
        DirBuilder::new().mode(0o700).create(&directory).with(|| format!("mkdir {}", directory.display()))?;
        return Ok((directory, true));
    };
    let directory = std::path::absolute(directory).with(|| format!("bundle {}", directory.display()))?;
    let step = || format!("bundle {}", directory.display());
    match DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => Ok((directory, true)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            if fs::read_dir(&directory).with(step)?.next().is_some() {
                return Err(Error::other("the directory is not empty")).with(step);
            }
            Ok((directory, false))
        }
        Err(e) => Err(e).with(step),
    }
}

struct Maker<'a> {
    store: &'a Store,
    image: &'a Image,
    layers: &'a [Layer],
    options: &'a Options,
    directory: &'a Path,
    progress: &'a Progress,
}

impl Maker<'_> {
    fn fill(&self, id: &str, capabilities: Vec<String>) -> Result<()> {
        let name = self.image.display();
        let digest = self.image.descriptor.digest.clone();
        // From here on the layers are kept for us, and `unbundle` knows what to undo, whatever happens to this process.
        let record = Record { store: self.store.root().to_owned(), image: name.clone(), digest: digest.clone() };
        self.replace(RECORD, &oci::to_json(&record)?, 0o600)?;
        self.store.add_use(&Use {
            bundle: self.directory.to_owned(),
            image: name.clone(),
            digest: digest.clone(),
            layers: self.layers.iter().map(|layer| layer.key.clone()).collect(),
        })?;
        let rootfs = self.mount()?;
        let root = RootFs::open(&rootfs)?;
        let config = &self.image.config.config;
        let identity = user::resolve(&root, self.options.user.as_deref().unwrap_or(&config.user))?;
        root.make_directory(&spec::working_directory(config, self.options)?)?;
        let hostname = self.hostname(id);
        let mut binds = self.volumes(&root)?;
        binds.extend(self.files(&hostname)?);
        let ours = BTreeMap::from([
            ("org.tare.image.ref".to_owned(), name),
            ("org.tare.image.digest".to_owned(), digest.to_string()),
        ]);
        let (annotations, left_out) = spec::annotations(&self.image.config, &ours);
        for label in left_out {
            self.progress
                .say(&format!("label {label:?} of the image left out: runtimes act on annotations of that name"));
        }
        let platform = self.image.config.platform();
        let host = crate::platform::Platform::host();
        let context = Context {
            hostname,
            identity,
            inherited: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
            binds,
            rootfs,
            annotations,
            capabilities,
            architecture: if platform.architecture.is_empty() { host.architecture } else { platform.architecture },
            kernel: seccomp::kernel_version(),
        };
        let spec = spec::spec(&self.image.config, self.options, &context)?;
        let mut text = serde_json::to_vec_pretty(&spec).map_err(|e| Error::other(e.to_string())).at("config.json")?;
        text.push(b'\n');
        self.replace("config.json", &text, 0o644)
    }

    /// Writes a file that is whole as soon as it has its name.
    fn replace(&self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let temporary = self.write(&format!(".{name}"), content, mode)?;
        fs::rename(&temporary, self.directory.join(name)).at(name)
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<PathBuf> {
        let path = self.directory.join(name);
        let write = || -> std::io::Result<()> {
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        write().with(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn make_directory(&self, name: &str, mode: u32) -> Result<PathBuf> {
        let path = self.directory.join(name);
        let make = || -> std::io::Result<()> {
            DirBuilder::new().mode(mode).create(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)) // whatever the umask
        };
        make().with(|| format!("mkdir {}", path.display()))?;
        Ok(path)
    }

    fn mount(&self) -> Result<PathBuf> {
        let rootfs = self.make_directory("rootfs", 0o755)?;
        self.make_directory("overlay", 0o700)?;
        let upper = self.make_directory("overlay/upper", 0o755)?;
        let work = self.make_directory("overlay/work", 0o700)?;
        let shown = visible(self.layers);
        dress(&upper, shown)?;
        let mut lower: Vec<PathBuf> = shown.iter().rev().map(Layer::diff).collect();
        if lower.is_empty() {
            lower.push(self.make_directory("overlay/empty", 0o755)?); // an image without layers; overlayfs wants one
        }
        let lower: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
        overlay::mount_overlay(&lower, &upper, &work, &rootfs)?;
        Ok(rootfs)
    }

    fn hostname(&self, id: &str) -> String {
        match (&self.options.hostname, self.options.network) {
            (Some(name), _) => name.clone(),
            (None, Network::Host) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
            (None, Network::None) => id.to_owned(),
        }
    }

    /// A directory for each volume of the image, with what the image has at its place: what the container writes there
    /// stays out of its root file system. The place is looked up inside the image (CVE-2022-23648).
    fn volumes(&self, root: &RootFs) -> Result<Vec<Bind>> {
        let mut binds = Vec::new();
        let targets = self.image.config.config.volumes.iter().flatten().map(|(path, _)| path);
        for path in targets {
            let step = || format!("volume {path:?} of the image");
            let target = clean_absolute(path).ok_or_else(|| Error::malformed("want an absolute path")).with(step)?;
            if target == "/" {
                return Err(Error::malformed("the root directory")).with(step);
            }
            if self.options.volumes.iter().any(|bind| bind.target == target) {
                continue;
            }
            if binds.is_empty() {
                self.make_directory("volumes", 0o700)?;
            }
            let source = self.make_directory(&format!("volumes/{}", binds.len()), 0o755)?;
            if let Some(from) = root.directory(&target)? {
                copy_tree(&from, &open_root(&source)?).with(step)?;
            }
            binds.push(Bind { source, target, options: vec!["rbind".into(), "rw".into(), "rprivate".into()] });
        }
        Ok(binds)
    }

    /// The files that name the container and its neighbours.
    fn files(&self, hostname: &str) -> Result<Vec<Bind>> {
        self.make_directory("etc", 0o755)?;
        let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        if self.options.network == Network::Host {
            hosts = fs::read_to_string("/etc/hosts").unwrap_or(hosts);
        } else {
            hosts.extend(["127.0.0.1\t", hostname, "\n"]);
        }
        let mut files = vec![("hostname", format!("{hostname}\n")), ("hosts", hosts)];
        if self.options.network == Network::Host {
            files.push(("resolv.conf", fs::read_to_string("/etc/resolv.conf").unwrap_or_default()));
        }
        let mut binds = Vec::new();
        for (name, content) in files {
            let source = self.write(&format!("etc/{name}"), content.as_bytes(), 0o644)?;
            let options = vec!["rbind".into(), "rw".into(), "rprivate".into()];
            binds.push(Bind { source, target: format!("/etc/{name}"), options });
        }
        Ok(binds)
    }
}

/// The root directory of the whole is the upper layer's: it must look as the topmost layer that speaks of it says.
fn dress(upper: &Path, shown: &[Layer]) -> Result<()> {
    let to = open_root(upper)?;
    let times = |mtime| Timestamps { last_access: mtime, last_modification: mtime };
    let Some(layer) = shown.iter().rev().find(|layer| layer.record.has_root) else {
        let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
        return futimens(&to, &times(epoch)).at("root directory");
    };
    let from = open_root(&layer.diff())?;
    let stat = rustix::fs::fstat(&from)?;
    fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).at("root directory")?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777)).at("root directory")?;
    crate::layer::copy_xattrs(&from, &to).at("root directory")?;
    let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    futimens(&to, &times(mtime)).at("root directory")
}

fn check_hostname(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !name.starts_with(['-', '.']);
    if good {
        Ok(())
    } else {
        Err(Error::malformed(format!("--hostname {name:?}: want up to 64 letters, digits, - and .")))
    }
}
