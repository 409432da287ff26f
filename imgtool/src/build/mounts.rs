//! The `--mount`s of a RUN: what they mean, what of them the step's result depends on, and the places that they need.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, fstat};

use super::builder::Work;
use super::cache::Key;
use super::contexts::Context;
use super::files::{Filter, Sums, list};
use super::ignore::{Ignore, clean};
use super::parse::{Instruction, Mount, MountKind, Run};
use super::plan::Origin;
use super::root::Root;
use super::source::{Fault, Locate as _, Result, Span};
use super::workspace::Mounted;
use crate::error::{Error, Step};

/// A mount that was resolved: its files are there.
pub(crate) struct Resolved {
    pub(crate) mount: Mount,
    pub(crate) at: Span,
    /// Absolute, in the container.
    pub(crate) target: String,
    /// The state that a bind or cache begins with.
    pub(crate) origin: Option<Source>,
}

impl Resolved {
    /// What of a mount the step's result depends on. Of secrets, agents and caches: that they are there, not what is in them.
    pub(crate) fn key(&self, key: &mut Key) -> crate::error::Result<()> {
        let Resolved { mount, target, origin, .. } = self;
        let name = format!("mount {target}");
        if mount.kind == MountKind::Bind
            && let Some(source) = origin
        {
            let path = mount.source.as_deref().unwrap_or("/");
            let context = matches!(source, Source::Context(..));
            let ignore = source.ignore();
            let mut sums = Sums::default();
            for one in source.root().find(path).with(|| format!("--mount source={path}"))? {
                let tree = list(one, &Filter { ignore, ..Filter::default() })?;
                tree.sum(!context, &mut sums)?;
            }
            let files = sums.finish();
            key.files.append(&mut sums.files);
            key.add(name, &format!("{:?} {} {files}", mount.kind, mount.read_only));
            return Ok(());
        }
        let described = Mount { required: false, ..mount.clone() };
        key.add(name, &format!("{described:?}"));
        Ok(())
    }
}

pub(crate) enum Source {
    Context(Root, Ignore),
    /// Mounted root file system of a stage or an image.
    View {
        root: Root,
        chain: String,
        _mounted: std::sync::Arc<Mounted>,
    },
}

impl Source {
    pub(crate) fn root(&self) -> &Root {
        match self {
            Self::Context(root, _) | Self::View { root, .. } => root,
        }
    }

    /// What of it does not count.
    pub(crate) fn ignore(&self) -> Option<&Ignore> {
        match self {
            Self::Context(_, ignore) => Some(ignore).filter(|ignore| !ignore.is_empty()),
            Self::View { .. } => None,
        }
    }

    fn of(context: &Context) -> crate::error::Result<Self> {
        let Context { root, ignore, .. } = context.again()?;
        Ok(Self::Context(root, ignore))
    }
}

impl Work<'_> {
    /// The mounts with their variables put in, and where their files come from.
    pub(crate) fn mounts(&self, command: &Instruction, run: &Run) -> Result<Vec<Resolved>> {
        let builder = self.builder;
        let mut all = Vec::new();
        for word in &run.mounts {
            let at = command.at(word);
            let expand = |text: &str| self.value(text);
            let mut mount = Mount::parse(&word.text, &expand).locate(at)?;
            let target = match (&mount.target, mount.kind) {
                (Some(target), _) => self.state.absolute(target),
                (None, MountKind::Secret) => {
                    let id = mount.id.as_ref().or(mount.source.as_ref()).cloned().unwrap_or_default();
                    format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or(&id))
                }
                (None, _) => format!("/run/buildkit/ssh_agent.{}", all.len()),
            };
            if target == "/" {
                return Err(Fault::at(at, format!("--mount={}: the target cannot be /", word.text)));
            }
            if mount.kind == MountKind::Secret {
                mount.id = mount.secret_id();
                mount.source = None;
            }
            let origin = match (mount.kind, &mount.from) {
                (MountKind::Bind, None) => Some(Source::of(&builder.context)?),
                (MountKind::Bind | MountKind::Cache, Some(from)) => {
                    let origin = builder.plan.origin_before(from, self.number, &[]).locate(at)?;
                    let named = match &origin {
                        Origin::Image(name) => builder.named_context(name).locate(at)?,
                        _ => None,
                    };
                    match named {
                        Some(context) => Some(Source::of(&context).locate(at)?),
                        None if from == "scratch" => None,
                        None => {
                            let state = builder.origin(&origin, &self.platform, at)?;
                            let state = state.ok_or_else(|| Error::other("no stage"))?;
                            let view = builder.view(&state)?;
                            let root = Root::open(&view.target)?;
                            Some(Source::View { root, chain: state.chain(), _mounted: view })
                        }
                    }
                }
                _ => None,
            };
            all.push(Resolved { mount, at, target, origin });
        }
        Ok(all)
    }

    /// Where something will be mounted, and whether that is a file.
    pub(crate) fn targets(&self, mounts: &[Resolved]) -> Vec<(String, bool)> {
        let mut all: Vec<(String, bool)> = ["/proc", "/dev", "/sys"].map(|path| (path.to_owned(), false)).into();
        all.extend(["/etc/hosts", "/etc/resolv.conf"].map(|path| (path.to_owned(), true)));
        for resolved in mounts {
            let id = resolved.mount.id.as_deref().unwrap_or("default");
            if !self.builder.secrets.has(resolved.mount.kind, id) {
                continue; // nothing will be there
            }
            let is_file = match resolved.mount.kind {
                MountKind::Secret if resolved.mount.env.is_some() && resolved.mount.target.is_none() => continue,
                MountKind::Secret | MountKind::Ssh => true,
                MountKind::Bind => resolved.origin.as_ref().is_some_and(|source| {
                    let path = resolved.mount.source.as_deref().unwrap_or("/");
                    let fd = source.root().enter(path, OFlags::PATH);
                    fd.and_then(fstat).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) != FileType::Directory)
                }),
                _ => false,
            };
            all.push((resolved.target.clone(), is_file));
        }
        all
    }

    /// A layer with the mount points that the image lacks, if it lacks any; its directories look as the image's.
    pub(crate) fn stubs(&self, targets: &[(String, bool)]) -> Result<Option<PathBuf>> {
        let builder = self.builder;
        let view = builder.workspace.mount(&self.state.layers, None, None)?;
        let root = Root::open(&view.target)?;
        let missing: Vec<&(String, bool)> = targets
            .iter()
            .filter(|(path, _)| {
                // Below /dev there is another file system.
                !path.starts_with("/dev/") && root.enter(path, OFlags::PATH).is_err()
            })
            .collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let stubs = builder.workspace.directory()?;
        fs::set_permissions(&stubs, fs::Permissions::from_mode(0o755)).map_err(Error::from)?;
        let own = Root::open(&stubs)?;
        let mut shown: Vec<(String, OwnedFd)> = Vec::new();
        for (path, is_file) in missing {
            // Links are resolved in the image: what is made must be where the runtime will look.
            let mut real = String::new();
            let mut exists = true;
            let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            let last = if *is_file { parts.pop() } else { None };
            for part in parts {
                let next = format!("{real}/{part}");
                real = match root.enter(&next, OFlags::PATH | OFlags::DIRECTORY) {
                    Ok(fd) if exists => format!("/{}", root.real(&fd)?),
                    _ => {
                        exists = false;
                        next
                    }
                };
            }
            own.make(&real, &mut |_, _| Ok(()))?;
            let mut prefix = String::new();
            for part in clean(&real).split('/').filter(|part| !part.is_empty()) {
                prefix = if prefix.is_empty() { part.to_owned() } else { format!("{prefix}/{part}") };
                if let Ok(fd) = root.enter(&prefix, OFlags::RDONLY | OFlags::DIRECTORY) {
                    shown.retain(|(have, _)| *have != prefix);
                    shown.push((prefix.clone(), fd));
                }
            }
            if let Some(name) = last {
                let dir = own.enter(&real, OFlags::RDONLY | OFlags::DIRECTORY).map_err(Error::from)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o644)).map_err(Error::from)?;
            }
        }
        for (path, from) in shown {
            let to = own.enter(&path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(Error::from)?;
            crate::layer::copy_directory(&from, &to)?;
        }
        Ok(Some(stubs))
    }
}
