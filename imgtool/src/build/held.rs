//! The mounts of a RUN made ready: directories, files and sockets that its container shows, and that are gone after it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchown, fstat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use serde_json::{Value, json};

use super::builder::Work;
use super::files::{Filter, list};
use super::ignore::clean;
use super::mounts::{Resolved, Source};
use super::parse::{Mount, MountKind, Sharing};
use super::place::{Look, Placer};
use super::root::Root;
use crate::digest::Digest;
use crate::error::{Error, Step};

/// What a container has of its mounts, and must outlive it.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) entries: Vec<Value>,
    pub(crate) env: Vec<String>,
    binds: Vec<PathBuf>,
    locks: Vec<File>,
}

impl Drop for Held {
    fn drop(&mut self) {
        for bind in self.binds.iter().rev() {
            let _ = rustix::mount::unmount(bind, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Work<'_> {
    /// Makes a mount's files ready, and its entry for config.json.
    pub(crate) fn hold(
        &self,
        resolved: &Resolved,
        number: usize,
        bundle: &Path,
        held: &mut Held,
    ) -> crate::error::Result<()> {
        let Resolved { mount, target, origin, .. } = resolved;
        match mount.kind {
            MountKind::Tmpfs => {
                let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), "mode=1777".to_owned()];
                options.extend(mount.size.map(|size| format!("size={size}")));
                held.entries
                    .push(json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}));
            }
            MountKind::Secret => self.hold_secret(mount, target, number, bundle, held)?,
            MountKind::Ssh => self.hold_agent(mount, target, number, bundle, held)?,
            MountKind::Bind => {
                let Some(source) = origin else { return Ok(()) };
                let place = self.bind_source(mount, source, number, held)?;
                held.entries.push(bind(&place, target, mount.read_only));
            }
            MountKind::Cache => {
                let place = self.cache_directory(mount, target, origin.as_ref(), held)?;
                held.entries.push(bind(&place, target, mount.read_only));
            }
        }
        Ok(())
    }

    fn hold_secret(
        &self,
        mount: &Mount,
        target: &str,
        number: usize,
        bundle: &Path,
        held: &mut Held,
    ) -> crate::error::Result<()> {
        let id = mount.id.as_deref().unwrap_or_default();
        let Some(content) = self.builder.secrets.read(id)? else {
            if mount.required {
                return Err(Error::missing(format!(
                    "secret {id}: not given (--secret id={id},src=FILE), but required"
                )));
            }
            return Ok(());
        };
        if let Some(name) = &mount.env {
            let text = String::from_utf8(content.clone())
                .map_err(|_| Error::malformed(format!("secret {id}: not text, so no variable")))?;
            held.env.retain(|entry| !entry.starts_with(&format!("{name}=")));
            held.env.push(format!("{name}={text}"));
            if mount.target.is_none() {
                return Ok(());
            }
        }
        // In memory: `bundle` is on a tmpfs that only this build sees.
        let path = bundle.join(format!("secret-{number}"));
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o400).open(&path)?;
        file.write_all(&content)?;
        fchown(&file, mount.uid.map(Uid::from_raw), mount.gid.map(Gid::from_raw))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mount.mode.unwrap_or(0o400)))?;
        held.entries.push(bind(&path, target, true));
        Ok(())
    }

    fn hold_agent(
        &self,
        mount: &Mount,
        target: &str,
        number: usize,
        bundle: &Path,
        held: &mut Held,
    ) -> crate::error::Result<()> {
        let id = mount.id.as_deref().unwrap_or("default");
        let Some(agent) = self.builder.secrets.agent(id, bundle)? else {
            if mount.required {
                return Err(Error::missing(format!("ssh {id}: not given (--ssh {id}), but required")));
            }
            return Ok(());
        };
        let socket = bundle.join(format!("ssh-{number}"));
        super::agent::relay(&socket, &agent)?;
        let fd = rustix::fs::openat(CWD, &socket, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let (uid, gid) = (mount.uid.map(Uid::from_raw), mount.gid.map(Gid::from_raw));
        rustix::fs::chownat(&fd, "", uid, gid, rustix::fs::AtFlags::EMPTY_PATH)?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(mount.mode.unwrap_or(0o600)))?;
        held.entries.push(bind(&socket, target, false));
        if !held.env.iter().any(|entry| entry.starts_with("SSH_AUTH_SOCK=")) {
            held.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
        Ok(())
    }

    /// What a bind shows, at a place that nobody else can change: what was opened beneath the root is mounted there by its
    /// descriptor (CVE-2024-1753, CVE-2024-11218, CVE-2024-23651).
    fn bind_source(
        &self,
        mount: &Mount,
        source: &Source,
        number: usize,
        held: &mut Held,
    ) -> crate::error::Result<PathBuf> {
        let workspace = &self.builder.workspace;
        let path = mount.source.as_deref().unwrap_or("/");
        let step = || format!("--mount source={path}");
        let own = workspace.directory()?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
        if let Some(ignore) = source.ignore() {
            // Not all of the context counts: what does is copied.
            let place = own.join(format!("context-{number}"));
            fs::create_dir(&place)?;
            let one = source.root().find(path).with(step)?.pop().ok_or_else(|| Error::missing(path.to_owned()))?;
            let is_directory = one.is_directory();
            let tree = list(one, &Filter { ignore: Some(ignore), ..Filter::default() })?;
            let root = Root::open(&place)?;
            let placer = Placer { root: &root, look: &Look::default() };
            if is_directory {
                placer.contents(&tree, root.fd(), true)?;
                return Ok(place);
            }
            placer.file(&tree, root.fd(), "file")?;
            return Ok(place.join("file"));
        }
        let fd = source.root().enter(path, OFlags::PATH).with(step)?;
        let (place, is_directory) = pin(&fd, &own, held).with(step)?;
        if mount.read_only {
            return Ok(place);
        }
        // What the step writes there is seen by nobody else, and forgotten.
        if !is_directory {
            // An overlay is of directories: a file is copied.
            let one = source.root().find(path).with(step)?.pop().ok_or_else(|| Error::missing(path.to_owned()))?;
            let tree = list(one, &Filter::default()).with(step)?;
            let root = Root::open(&own)?;
            let look = Look { keep_owners: true, ..Look::default() };
            Placer { root: &root, look: &look }.file(&tree, root.fd(), "written").with(step)?;
            return Ok(own.join("written"));
        }
        let (upper, work, target) = (own.join("upper"), own.join("work"), own.join("written"));
        for path in [&upper, &work, &target] {
            fs::create_dir(path)?;
        }
        crate::bundle::mount_copy(&place, &upper, &work, &target, workspace.form())?;
        held.binds.push(target.clone());
        Ok(target)
    }

    /// The directory of a cache, locked as its sharing says.
    fn cache_directory(
        &self,
        mount: &Mount,
        target: &str,
        origin: Option<&Source>,
        held: &mut Held,
    ) -> crate::error::Result<PathBuf> {
        let mut id = mount.id.clone().unwrap_or_else(|| target.to_owned());
        if let Some(space) = self.builder.args.get("BUILDKIT_CACHE_MOUNT_NS") {
            id = format!("{space}/{id}");
        }
        // What a cache begins with is part of what it is.
        let from = match origin {
            Some(Source::View { chain, .. }) => {
                format!("\0{chain}\0{}", clean(mount.source.as_deref().unwrap_or_default()))
            }
            _ => String::new(),
        };
        let base = self.builder.cache.mounts().join(Digest::of(format!("{id}{from}").as_bytes()).hex());
        fs::create_dir_all(&base)?;
        for turn in 0..1_000 {
            let lock = File::create(base.join(format!("{turn}.lock")))?;
            match mount.sharing {
                Sharing::Shared => lock.lock_shared()?,
                Sharing::Locked => lock.lock()?,
                // The first that nobody uses.
                Sharing::Private => match lock.try_lock() {
                    Ok(()) => {}
                    Err(fs::TryLockError::WouldBlock) => continue,
                    Err(fs::TryLockError::Error(e)) => return Err(e.into()),
                },
            }
            held.locks.push(lock);
            let place = base.join(turn.to_string());
            if !place.exists() {
                let temporary = base.join(format!(".{}", crate::layout::random_hex(12)?));
                fs::create_dir(&temporary)?;
                fs::set_permissions(&temporary, fs::Permissions::from_mode(mount.mode.unwrap_or(0o755)))?;
                rustix::fs::chown(&temporary, mount.uid.map(Uid::from_raw), mount.gid.map(Gid::from_raw))?;
                if let Some(source) = origin {
                    let path = mount.source.as_deref().unwrap_or("/");
                    for one in source.root().find(path).with(|| format!("--mount source={path}"))? {
                        let tree = list(one, &Filter::default())?;
                        let root = Root::open(&temporary)?;
                        let look = Look { keep_owners: true, ..Look::default() };
                        Placer { root: &root, look: &look }.contents(&tree, root.fd(), false)?;
                    }
                }
                // Another build may have been faster.
                if fs::rename(&temporary, &place).is_err() {
                    crate::layer::remove_all(&temporary)?;
                }
            }
            // A path within the cache, where the cache has no image that it is of.
            return match (&mount.source, origin) {
                (Some(path), None) if !clean(path).is_empty() => {
                    // Another step may change the cache meanwhile: by its path it could be anything by then.
                    let fd = Root::open(&place)?.make(path, &mut |_, _| Ok(()))?;
                    let own = self.builder.workspace.directory()?;
                    Ok(pin(&fd, &own, held)?.0)
                }
                _ => Ok(place),
            };
        }
        Err(Error::other(format!("cache {id}: a thousand of it are in use")))
    }
}

/// Mounts what was opened at a place below `own`, which nobody else can change. Says whether it is a directory.
fn pin(fd: &OwnedFd, own: &Path, held: &mut Held) -> crate::error::Result<(PathBuf, bool)> {
    let is_directory = FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory;
    let place = own.join("bind");
    if is_directory {
        fs::create_dir(&place)?;
    } else {
        File::create_new(&place)?;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(fd, "", flags)?;
    move_mount(&tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    held.binds.push(place.clone());
    Ok((place, is_directory))
}

pub(crate) fn bind(source: &Path, target: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", "nodev", access]})
}
