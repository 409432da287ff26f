//! Bundles: an image's layers mounted as a root file system, with the config.json that runs it.
//!
//! ```text
//! DIR/
//!   config.json       OCI runtime-spec; written last, so a bundle with it is complete
//!   rootfs/           overlayfs: the image's layers below, `overlay/upper` above
//!   overlay/{upper,work}
//!   etc/{hostname,hosts,resolv.conf}    bound into the container
//!   volumes/N/        one for each of the image's volumes, with what the image has there
//!   namespaces/KIND   those of other containers that this one joins
//!   shm/              /dev/shm, where others may join it
//!   mapped/           mounts of the layers while a root file system for a user namespace is mounted
//!   network.json      what the hooks in config.json do to connect a container, where they do
//!   bundle.json       what `unbundle` must know: the store and the image
//! ```

mod caps;
mod containers;
mod health;
mod init;
mod link;
mod made;
mod maker;
mod namespaces;
mod network;
mod options;
mod overlay;
mod publish;
mod remove;
mod rootfs;
mod rootless;
mod seccomp;
mod security;
mod spec;
mod step;
#[cfg(test)]
mod tests;
mod user;
mod userns;
mod volume;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use health::HealthArgs;
pub(crate) use init::{check as check_init, find as find_init};
pub(crate) use link::{down as network_down, down_after_death, published, up as network_up};
pub(crate) use made::Bundle;
pub(crate) use namespaces::{Ipc, Origin};
pub(crate) use network::{HostEntry, Network};
pub(crate) use options::{Options, parse_cpus, parse_memory, parse_size, read_env_file};
pub(crate) use publish::{Exposed, Port, Publish};
pub(crate) use remove::{check_idle, check_unused, remove, user_of};
pub(crate) use security::{Device, Rlimit, SecurityOpt};
pub(crate) use step::{
    StepSpec, connect_step, mount_copy, mount_stack, resolve_user, step_network, step_spec, unmount_stack,
};
pub(crate) use userns::{UserNs, given as given_ids, parse_range};
pub(crate) use volume::{Volume, is_name as is_volume_name, parse_mount, parse_tmpfs};

use crate::cdi;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::layout::{Image, Layer, Store, Together, check_ours, random_hex};
use crate::oci;
use crate::progress::Progress;
use crate::regular;
use crate::rights::Maps;
use crate::unpack::visible;
use maker::Maker;
use volume::Source;

const RECORD: &str = "bundle.json";
/// What a bundle says of itself is read up to this size.
const RECORD_MAX: u64 = 1 << 20;

/// bundle.json.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// The store whose layers the root file system stands on.
    store: PathBuf,
    image: String,
    digest: Digest,
    /// The root file system is a directory like any other.
    #[serde(default)]
    copied: bool,
    /// Of the container's user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ids: Option<Maps>,
    /// Bytes of the /dev/shm that others may join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shm: Option<u64>,
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
    let mut capabilities = caps::capabilities(&options.cap_add, &options.cap_drop)?;
    // All that there is to give: root may lack some itself, in a virtual machine or another container.
    if options.cap_add.iter().any(|name| name.eq_ignore_ascii_case("all")) {
        capabilities = caps::held(&capabilities)?;
    }
    let mut absent = Vec::new();
    for volume in &options.volumes {
        match &volume.source {
            Source::Path(source) => {
                fs::metadata(source).with(|| format!("--mount {}", source.display()))?;
            }
            Source::MadePath(source) => match fs::metadata(source) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => absent.push(source),
                found => {
                    found.with(|| format!("--volume {}", source.display()))?;
                }
            },
            _ => {}
        }
    }
    spec::check(options)?;
    publish::exposed(&image.config.config, &options.expose)?;
    namespaces::check(options, store.rights().own_namespace().is_none())?;
    if store.rights().own_namespace().is_some() && matches!(options.network, Network::Bridge | Network::Cni(_)) {
        return Err(Error::other("--network: CNI plugins need root; --network pasta does not"));
    }
    if options.copy && options.userns != UserNs::Host {
        return Err(Error::other("--userns: a copy (--copy) has owners that no mount can map"));
    }
    if let Some(name) = &options.hostname {
        check_hostname(name)?;
    }
    let named = named_devices(options)?;
    for source in absent {
        // With the caller's umask; it is the user's from now on, and stays.
        fs::create_dir_all(source).with(|| format!("--volume {}", source.display()))?;
    }
    let id = random_hex(12)?;
    let (directory, made) = claim(store, image, directory, &id)?;
    let together = Together::default();
    let maker = Maker { store, image, layers, options, directory: &directory, progress, together, named };
    match maker.fill(&id, capabilities) {
        Ok(()) => Ok(directory),
        Err(e) => {
            // The first error is the one to tell; the undoing does what it can.
            let _ = remove::undo(store, &directory, made);
            Err(e)
        }
    }
}

/// The devices that are asked for by name.
fn named_devices(options: &Options) -> Result<Vec<cdi::Device>> {
    let names: Vec<&String> = options
        .devices
        .iter()
        .filter_map(|device| match device {
            Device::Named(name) => Some(name),
            Device::Node { .. } => None,
        })
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let known = cdi::Devices::read(&options.cdi_dirs)?;
    names.iter().map(|name| known.get(name).cloned()).collect::<Result<_>>().at("--device")
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
            check_ours(&fs::metadata(&directory).with(step)?).with(step)?;
            // The first thing that is made here: who was killed over it left nothing else.
            let first = format!(".{RECORD}");
            for entry in fs::read_dir(&directory).with(step)? {
                if entry.with(step)?.file_name() != first.as_str() {
                    return Err(Error::other("the directory is not empty")).with(step);
                }
            }
            Ok((directory, false))
        }
        Err(e) => Err(e).with(step),
    }
}

/// The directories that the root file system of a bundle stands on, the topmost first.
fn stack(directory: &Path, layers: &[Layer]) -> Vec<PathBuf> {
    let mut seen = std::collections::HashSet::new();
    // An image may have a layer twice; overlayfs refuses that (ELOOP). The upper one shows all that the lower one has.
    let all = visible(layers).iter().rev().map(Layer::diff).filter(|path| seen.insert(path.clone()));
    let all: Vec<PathBuf> = all.collect();
    if all.is_empty() { vec![directory.join("overlay/empty")] } else { all }
}

/// The record of the bundle at `directory`, which must be ours.
fn read_record(directory: &Path) -> Result<Record> {
    let path = directory.join(RECORD);
    match fs::metadata(directory) {
        Ok(meta) => check_ours(&meta)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    let bytes = regular::read(&path, RECORD_MAX).map_err(|e| match e.kind() {
        Kind::Missing => Error::missing("not a bundle that imgtool made (it has no bundle.json)"),
        _ => e.at(format!("read {}", path.display())),
    })?;
    oci::json(&bytes).with(|| path.display().to_string())
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
