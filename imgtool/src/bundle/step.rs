//! What a build needs of bundles: a root file system over layers, users of it, and the config.json of a step.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::link::{self, PLAN};
use super::maker::{dress, network_hooks};
use super::network::Plan;
use super::options::Options;
use super::rootfs::RootFs;
use super::rootless::{Rootless, check_identity};
use super::security::{Devices, SecurityOpt};
use super::spec::{self, Context};
use super::{Network, caps, network, overlay, seccomp, user};
use crate::cdi;
use crate::error::{Result, Step};
use crate::layer::{OverlayForm, open_root};
use crate::layout::{Layer, Store};
use crate::oci::{self, Execution, ImageConfig};
use crate::platform::Platform;
use crate::rights::user_namespace;
use crate::unpack::visible;

/// A process of a build.
pub(crate) struct StepSpec<'a> {
    pub(crate) rootfs: &'a Path,
    pub(crate) args: &'a [String],
    /// `NAME=VALUE`, all of them.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: &'a str,
    pub(crate) user: &'a str,
    pub(crate) network: Network,
    /// All capabilities and devices.
    pub(crate) insecure: bool,
    pub(crate) hostname: &'a str,
    /// Entries of `mounts` besides the usual ones.
    pub(crate) mounts: Vec<Value>,
    pub(crate) devices: &'a [cdi::Device],
    /// In the words of `docker run`: memory, CPUs, /dev/shm, ulimits, hosts, DNS.
    pub(crate) options: Options,
    /// Set by [`connect_step`].
    pub(crate) hooks: Option<Value>,
}

/// config.json of a step. What is asked of the user and group databases is read in the step's own root.
pub(crate) fn step_spec(step: &StepSpec<'_>) -> Result<Value> {
    let root = RootFs::open(step.rootfs)?;
    let mut identity = user::resolve(&root, step.user)?;
    let rootless = match user_namespace()? {
        Some(own) => {
            // Whose ids are not there is the one that is: who builds was told so.
            check_identity(&own, &mut identity)?;
            Some(Rootless::within(&own))
        }
        None => None,
    };
    let mut options = step.options.clone();
    options.network = step.network.clone();
    options.privileged = step.insecure;
    options.command = step.args.to_vec();
    options.workdir = Some(step.cwd.to_owned());
    if step.insecure {
        options.cap_add = vec!["ALL".to_owned()];
        options.security.push(SecurityOpt::NoSeccomp);
    }
    let mut capabilities = caps::capabilities(&options.cap_add, &options.cap_drop)?;
    if step.insecure {
        capabilities = caps::held(&capabilities)?;
    }
    let host = Platform::host();
    let config = ImageConfig {
        architecture: host.architecture.clone(),
        os: host.os.clone(),
        config: Execution::default(),
        ..ImageConfig::default()
    };
    let context = Context {
        hostname: step.hostname.to_owned(),
        identity,
        inherited: BTreeMap::new(),
        binds: Vec::new(),
        rootfs: step.rootfs.to_owned(),
        annotations: BTreeMap::new(),
        capabilities,
        architecture: host.architecture,
        kernel: seccomp::kernel_version(),
        devices: Devices::of(&[], step.insecure)?,
        hooks: step.hooks.clone(),
        joined: Vec::new(),
        shm: None,
        rootless,
    };
    let is_rootless = context.rootless.is_some();
    let mut spec = spec::spec(&config, &options, &context)?;
    // An image's own environment and nothing else: what is set here would be found in what the step makes.
    spec["process"]["env"] = json!(step.env);
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|have| !step.mounts.iter().any(|mount| mount["destination"] == have["destination"]));
        let mut more = step.mounts.clone();
        more.sort_by_key(|mount| mount["destination"].as_str().unwrap_or_default().matches('/').count());
        mounts.append(&mut more);
    }
    cdi::apply(step.devices, &mut spec, is_rootless)?;
    Ok(spec)
}

/// What steps are connected by, unless the user says so: the first of these that is there.
pub(crate) fn step_network() -> Option<Network> {
    link::usable()
}

/// Writes what names and connects a step into the empty directory `directory`, and sets it in `step`: /etc/hosts,
/// /etc/resolv.conf, and hooks. What the hooks did is in this directory too; it must stay until the container is deleted.
pub(crate) fn connect_step(store: &Store, step: &mut StepSpec<'_>, directory: &Path) -> Result<()> {
    let options = Options { network: step.network.clone(), ..step.options.clone() };
    let hosts = network::hosts(&options, step.hostname);
    let etc = directory.join("etc");
    fs::create_dir(&etc).with(|| format!("mkdir {}", etc.display()))?;
    let resolv = network::resolv_conf(&options).unwrap_or_default();
    for (name, text) in [("hosts", &hosts), ("resolv.conf", &resolv)] {
        let path = etc.join(name);
        fs::write(&path, text).with(|| format!("write {}", path.display()))?;
        step.mounts.push(json!({
            "destination": format!("/etc/{name}"), "type": "bind", "source": path,
            "options": ["rbind", "rprivate", "nodev", "rw"],
        }));
    }
    if let Some(plan) = Plan::of(&options, &[], step.hostname, &hosts)? {
        fs::write(directory.join(PLAN), oci::to_json(&plan)?).at("network.json")?;
        step.hooks = Some(network_hooks(store, directory)?);
    }
    Ok(())
}

/// `USER[:GROUP]` of the root file system that is mounted there, in numbers.
pub(crate) fn resolve_user(rootfs: &Path, text: &str) -> Result<(u32, u32)> {
    let identity = user::resolve(&RootFs::open(rootfs)?, text)?;
    Ok((identity.uid, identity.gid))
}

/// Mounts `layers` (the lowest first) at `target`; what is written goes to `upper`. `top` is a layer that shows in front of
/// all others, `empty` a directory with nothing in it.
pub(crate) fn mount_stack(
    layers: &[Layer],
    top: Option<&Path>,
    upper: &Path,
    work: &Path,
    empty: &Path,
    target: &Path,
    form: OverlayForm,
) -> Result<OwnedFd> {
    let shown = visible(layers);
    dress(upper, shown)?;
    let mut lower: Vec<PathBuf> = top.map(Path::to_owned).into_iter().collect();
    lower.extend(shown.iter().rev().map(Layer::diff));
    if lower.is_empty() {
        lower.push(empty.to_owned()); // overlayfs wants one
    }
    let lower: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
    overlay::mount_overlay(&lower, upper, work, target, form)?;
    open_root(target).with(|| target.display().to_string())
}

/// Mounts a directory so that it can be written to without being changed.
pub(crate) fn mount_copy(lower: &Path, upper: &Path, work: &Path, target: &Path, form: OverlayForm) -> Result<()> {
    let (from, to) = (open_root(lower)?, open_root(upper)?);
    crate::layer::copy_directory(&from, &to)?;
    overlay::mount_overlay(&[lower], upper, work, target, form)
}

/// Undoes [`mount_stack`].
pub(crate) fn unmount_stack(target: &Path) -> Result<()> {
    overlay::unmount_rootfs(target)
}
