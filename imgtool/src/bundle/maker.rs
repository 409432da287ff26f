//! Fills a bundle's directory, the record first and config.json last.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, fchmod, fchown, futimens};

use super::link::PLAN;
use super::namespaces::{self, Donor, Memory, Origin};
use super::network::{self, Network, Plan};
use super::options::{Options, clean_absolute};
use super::rootfs::RootFs;
use super::rootless::{self, Rootless};
use super::spec::{self, Context};
use super::userns::{self, UserNs};
use super::volume::{Bind, Source};
use super::{RECORD, Record, check_hostname, init, overlay, publish, seccomp, security, user};
use crate::error::{Error, Result, Step};
use crate::layer::{copy_tree, merge, open_root, remove_all};
use crate::layout::{Image, Layer, Store, Together, Use, random_hex};
use crate::oci;
use crate::progress::Progress;
use crate::rights::Maps;
use crate::unpack::visible;

pub(super) struct Maker<'a> {
    pub(super) store: &'a Store,
    pub(super) image: &'a Image,
    pub(super) layers: &'a [Layer],
    pub(super) options: &'a Options,
    pub(super) directory: &'a Path,
    /// Devices that were asked for by name.
    pub(super) named: Vec<crate::cdi::Device>,
    pub(super) progress: &'a Progress,
    pub(super) together: Together,
}

impl Maker<'_> {
    pub(super) fn fill(mut self, id: &str, capabilities: Vec<String>) -> Result<()> {
        let ids = matches!(self.options.userns, UserNs::Auto(_)).then(|| self.store.hold_ids()).transpose()?;
        let others = if ids.is_some() { self.store.uses()? } else { Vec::new() };
        let maps = userns::choose(&self.options.userns, &others)?;
        let (name, digest) = (self.image.display(), self.image.descriptor.digest.clone());
        // From here on the layers are kept for us, and `unbundle` knows what to undo, whatever happens to this process.
        let record = Record {
            store: self.store.root().to_owned(),
            image: name.clone(),
            digest: digest.clone(),
            copied: self.options.copy,
            ids: maps.clone(),
            shm: (self.options.ipc.memory == Memory::Shareable).then(|| self.options.shm_size()),
        };
        self.replace(RECORD, &oci::to_json(&record)?, 0o600)?;
        // Nobody takes a volume away before our record says that we have it.
        let volumes = self.store.hold_volumes()?;
        let used = Use {
            bundle: self.directory.to_owned(),
            image: name,
            digest,
            layers: self.layers.iter().map(|layer| layer.key.clone()).collect(),
            volumes: self.options.volumes.iter().filter_map(|volume| volume.name()).map(str::to_owned).collect(),
            ids: maps.clone(),
        };
        self.store.add_use(&used, &mut self.together)?;
        drop(ids);
        let maps = maps.as_ref();
        let (rootfs, mount) = if self.options.copy { (self.copy()?, None) } else { self.mount(maps)? };
        let mut root = RootFs::open(&rootfs)?;
        // With the image's owners, for what becomes a volume.
        let mut as_image = RootFs::open(&rootfs)?;
        if let Some(maps) = maps {
            root = root.owned_by(userns::root_of(maps));
            as_image = RootFs::of(userns::look(self.directory, &self.lower())?);
            // Runtimes that look for the root file system as the container's root come to it.
            rustix::fs::chown(self.directory, None, Some(Gid::from_raw(userns::root_of(maps).1)))?;
            fs::set_permissions(self.directory, fs::Permissions::from_mode(0o710))?;
        }
        let config = &self.image.config.config;
        let mut identity = user::resolve(&root, self.options.user.as_deref().unwrap_or(&config.user))?;
        user::add_groups(&root, &mut identity, &self.options.groups)?;
        let rootless = self.rootless(maps, mount, &mut identity)?;
        root.make_directory(&spec::working_directory(config, self.options)?)?;
        let (joined, donor) = namespaces::keep(self.directory, self.options)?;
        let hostname = self.hostname(id, &donor);
        let shm = match self.options.ipc.memory {
            Memory::Shareable => Some(namespaces::mount_shm(self.directory, self.options.shm_size())?),
            _ => donor.shm.clone(),
        };
        let mut binds = self.named_volumes(&as_image, maps)?;
        drop(volumes);
        binds.extend(self.volumes(&as_image, maps)?);
        // What a container that shares its network says of it.
        let of_donor = |name: &str| donors_file(donor.network.as_ref()?, name);
        let hosts = of_donor("hosts").unwrap_or_else(|| network::hosts(self.options, &hostname));
        let resolver = of_donor("resolv.conf").or_else(|| network::resolv_conf(self.options));
        binds.extend(self.files(&hostname, &hosts, resolver, maps)?);
        binds.extend(self.options.init.as_deref().map(init::bind));
        let exposed = publish::exposed(config, &self.options.expose)?;
        let plan = Plan::of(self.options, &exposed, &hostname, &hosts)?;
        if let Some(plan) = &plan {
            self.replace(PLAN, &oci::to_json(plan)?, 0o600)?;
        }
        let annotations = self.annotations(&exposed, plan.as_ref());
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
            devices: security::Devices::of(&self.options.devices, self.options.privileged)?,
            hooks: if plan.is_some() { Some(network_hooks(self.store, self.directory)?) } else { None },
            joined,
            shm,
            rootless,
        };
        let is_rootless = context.rootless.is_some();
        let mut spec = spec::spec(&self.image.config, self.options, &context)?;
        crate::cdi::apply(&self.named, &mut spec, is_rootless)?;
        let mut text = serde_json::to_vec_pretty(&spec).map_err(|e| Error::other(e.to_string())).at("config.json")?;
        text.push(b'\n');
        let config = self.write(".config.json", &text, 0o644)?;
        // After a power cut the bundle wants only to be mounted again.
        let above = self.directory.parent().unwrap_or(Path::new("/"));
        for directory in [&self.directory.join("etc"), self.directory, above] {
            self.together.add_directory(directory.to_owned());
        }
        let named = self.directory.join("config.json");
        self.together.sync(&config, &named)
    }

    /// What a user namespace changes: an ordinary user's own, or that of these maps. In the former the identity may not be there.
    fn rootless(
        &self,
        maps: Option<&Maps>,
        root: Option<serde_json::Value>,
        identity: &mut user::Identity,
    ) -> Result<Option<Rootless>> {
        let (cgroup2, queues) = (rootless::has_cgroup2(), rootless::has_queues());
        if let Some(own) = self.store.rights().own_namespace() {
            if let Some(asked) = rootless::check_identity(own, identity)? {
                self.progress.say(&format!(
                    "the process runs as you, not as {}:{}: you have no ranges of ids",
                    asked.uid, asked.gid
                ));
            }
            return Ok(Some(Rootless { maps: own.clone(), root, cgroup2, queues, roots: false }));
        }
        let Some(maps) = maps else { return Ok(None) };
        userns::check_identity(maps, identity)?;
        Ok(Some(Rootless { maps: maps.clone(), root: None, cgroup2, queues, roots: true }))
    }

    /// What the image, the user and we say of the container to others.
    fn annotations(&self, exposed: &[publish::Exposed], plan: Option<&Plan>) -> BTreeMap<String, String> {
        let mut ours = BTreeMap::from([
            ("org.tare.image.ref".to_owned(), self.image.display()),
            ("org.tare.image.digest".to_owned(), self.image.descriptor.digest.to_string()),
        ]);
        if !self.options.expose.is_empty() {
            let all: Vec<_> = exposed.iter().map(ToString::to_string).collect();
            ours.insert("org.opencontainers.image.exposedPorts".to_owned(), all.join(","));
        }
        if let Some(plan) = plan.filter(|plan| !plan.ports.is_empty()) {
            ours.insert("org.tare.ports".to_owned(), publish::as_docker_lists(&plan.ports));
        }
        let (mut annotations, left_out) = spec::annotations(&self.image.config, &ours);
        spec::add_annotations(&mut annotations, self.options, self.image.config.config.healthcheck.as_ref());
        for label in left_out {
            self.progress
                .say(&format!("label {label:?} of the image left out: runtimes act on annotations of that name"));
        }
        annotations
    }

    /// Writes a file that is whole as soon as it has its name, unless the power goes.
    fn replace(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let temporary = self.write(&format!(".{name}"), content, mode)?;
        fs::rename(&temporary, self.directory.join(name)).at(name)
    }

    fn write(&mut self, name: &str, content: &[u8], mode: u32) -> Result<PathBuf> {
        let path = self.directory.join(name);
        let write = || -> std::io::Result<fs::File> {
            let mut file = fs::File::create(&path)?;
            file.write_all(content)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            Ok(file)
        };
        let file = write().with(|| format!("write {}", path.display()))?;
        self.together.add(path.clone(), file);
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

    /// Mounts the root file system, as it will be found by whoever runs the bundle; or only for us, with the mount that a runtime
    /// is to make.
    fn mount(&self, maps: Option<&Maps>) -> Result<(PathBuf, Option<serde_json::Value>)> {
        let rootfs = self.make_directory("rootfs", 0o755)?;
        self.make_directory("overlay", 0o700)?;
        let upper = self.make_directory("overlay/upper", 0o755)?;
        let work = self.make_directory("overlay/work", 0o700)?;
        let shown = visible(self.layers);
        dress(&upper, shown)?;
        if shown.is_empty() {
            self.make_directory("overlay/empty", 0o755)?; // an image without layers; overlayfs wants one
        }
        let lower = self.lower();
        let lower: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
        if let Some(maps) = maps {
            userns::mount(self.directory, &lower, maps)?;
            return Ok((rootfs, None));
        }
        let rights = self.store.rights();
        overlay::mount_overlay(&lower, &upper, &work, &rootfs, rights.powers().overlay)?;
        if rights.own_namespace().is_none() {
            return Ok((rootfs, None));
        }
        let links = self.make_directory("overlay/lower", 0o755)?;
        let mount = overlay::as_mount(&lower, &links, &upper, &work)?;
        Ok((rootfs, Some(mount)))
    }

    /// The directories that are stacked, the topmost first.
    fn lower(&self) -> Vec<PathBuf> {
        super::stack(self.directory, self.layers)
    }

    fn copy(&self) -> Result<PathBuf> {
        let rootfs = self.make_directory("rootfs", 0o755)?;
        let layers = visible(self.layers).iter().map(|layer| open_root(&layer.diff())).collect::<Result<Vec<_>>>()?;
        merge(&layers, &open_root(&rootfs)?).at("copy the image")?;
        dress(&rootfs, visible(self.layers))?;
        Ok(rootfs)
    }

    fn hostname(&self, id: &str, donor: &Donor) -> String {
        let donors = || {
            let name = donors_file(donor.network.as_ref()?, "hostname")?.trim().to_owned();
            check_hostname(&name).is_ok().then_some(name)
        };
        match (&self.options.hostname, &self.options.network) {
            (Some(name), _) => name.clone(),
            (None, Network::Joined(_)) => donors().unwrap_or_else(|| id.to_owned()),
            (None, _) if self.options.uts == Origin::Host || self.options.network == Network::Host => {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }
            (None, _) => id.to_owned(),
        }
    }

    /// The user's volumes: named ones are the store's and stay, others are the bundle's and go with it. A new one begins with
    /// what the image has at its place.
    fn named_volumes(&self, root: &RootFs, maps: Option<&Maps>) -> Result<Vec<Bind>> {
        let mut binds = Vec::new();
        for (number, volume) in self.options.volumes.iter().enumerate() {
            let source = match &volume.source {
                Source::Named(name) => new_volume(root, &self.store.volume_path(name)?, &volume.target)?,
                Source::New => {
                    if !self.directory.join("volumes").exists() {
                        self.make_directory("volumes", 0o700)?;
                    }
                    new_volume(root, &self.directory.join(format!("volumes/u{number}")), &volume.target)?
                }
                Source::Path(_) | Source::MadePath(_) | Source::Tmpfs => continue,
            };
            let (target, options) = (volume.target.clone(), volume.options.clone());
            binds.push(Bind { source, target, options, ids: maps.cloned() });
        }
        Ok(binds)
    }

    /// A directory for each volume of the image, with what the image has at its place: what the container writes there
    /// stays out of its root file system. The place is looked up inside the image (CVE-2022-23648).
    fn volumes(&self, root: &RootFs, maps: Option<&Maps>) -> Result<Vec<Bind>> {
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
            let options = vec!["rbind".into(), "rw".into(), "rprivate".into()];
            binds.push(Bind { source, target, options, ids: maps.cloned() });
        }
        Ok(binds)
    }

    /// The files that name the container and its neighbours.
    fn files(
        &mut self,
        hostname: &str,
        hosts: &str,
        resolver: Option<String>,
        maps: Option<&Maps>,
    ) -> Result<Vec<Bind>> {
        self.make_directory("etc", 0o755)?;
        let mut files = vec![("hostname", format!("{hostname}\n")), ("hosts", hosts.to_owned())];
        files.extend(resolver.map(|text| ("resolv.conf", text)));
        let mut binds = Vec::new();
        for (name, content) in files {
            let source = self.write(&format!("etc/{name}"), content.as_bytes(), 0o644)?;
            userns::give(&source, maps)?;
            let options = vec!["rbind".into(), "rw".into(), "rprivate".into()];
            binds.push(Bind { source, target: format!("/etc/{name}"), options, ids: None });
        }
        Ok(binds)
    }
}

/// A file that another container has in its /etc, where it may have made anything of it.
fn donors_file(bundle: &Path, name: &str) -> Option<String> {
    const MOST: u64 = 1 << 20;
    String::from_utf8(crate::regular::read(&bundle.join("etc").join(name), MOST).ok()?).ok()
}

/// The hooks that connect the container of `directory`. They call this program by the path that it has now.
pub(super) fn network_hooks(store: &Store, directory: &Path) -> Result<serde_json::Value> {
    let program = std::env::current_exe().at("the path of imgtool")?;
    let hook = |verb: &str| {
        serde_json::json!([{
            // A hook has no HOME to find the store by.
            "path": program, "args": ["imgtool", "--root", store.root(), "network", verb, directory],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "timeout": 60,
        }])
    };
    Ok(serde_json::json!({"createRuntime": hook("up"), "poststop": hook("down")}))
}

/// Fills a volume where it is not there yet. It appears when it is filled.
fn new_volume(root: &RootFs, path: &Path, target: &str) -> Result<PathBuf> {
    let step = || format!("volume {}", path.display());
    if path.exists() {
        return Ok(path.to_owned());
    }
    let temporary = path.with_file_name(format!(".{}", random_hex(12)?));
    let fill = || -> Result<()> {
        DirBuilder::new().mode(0o755).create(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?; // whatever the umask
        if let Some(from) = root.directory(target)? {
            copy_tree(&from, &open_root(&temporary)?)?;
        }
        match fs::rename(&temporary, path) {
            // Another bundle was faster with the same name.
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => remove_all(&temporary),
            result => Ok(result?),
        }
    };
    fill().inspect_err(|_| drop(remove_all(&temporary))).with(step)?;
    Ok(path.to_owned())
}

/// The root directory of the whole is the upper layer's: it must look as the topmost layer that speaks of it says.
pub(super) fn dress(upper: &Path, shown: &[Layer]) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_container_made_of_its_files_is_taken_as_far_as_it_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("etc/hosts");
        fs::create_dir(dir.path().join("etc")).unwrap();
        assert_eq!(donors_file(dir.path(), "hosts"), None);
        fs::write(&hosts, "127.0.0.1 a\n").unwrap();
        assert_eq!(donors_file(dir.path(), "hosts").unwrap(), "127.0.0.1 a\n");
        fs::File::create(&hosts).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(donors_file(dir.path(), "hosts"), None);
        fs::remove_file(&hosts).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &hosts, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(donors_file(dir.path(), "hosts"), None);
    }
}
