//! Where a built image goes: `--output`, `--push`, `--tag`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::attest::Statement;
use super::parse::csv;
use super::workspace::Workspace;
use crate::archive::{Format, save};
use crate::error::{Error, Result, Step};
use crate::layer::{TreeForm, open_root, write_tree};
use crate::layout::{Image, Layer, Store};
use crate::new_file::{NewFile, write_to};
use crate::oci::Descriptor;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::Access;
use crate::transfer::{LayoutDir, Remote, StoreImage, Transfer};

/// One `--output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The store, by the names of `--tag` and this one.
    Store(Option<String>),
    /// A registry.
    Registry(Option<String>),
    /// An archive, or for OCI a layout (`tar=false`).
    Archive {
        format: Format,
        dest: PathBuf,
        name: Option<String>,
    },
    Layout {
        dest: PathBuf,
        name: Option<String>,
    },
    /// The files, in a directory.
    Local(PathBuf),
    /// The files, in a tar.
    Tar(PathBuf),
}

impl std::str::FromStr for Output {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::malformed(format!(
                "{text}: {why}: want DIR, -, or type=store|registry|oci|docker|local|tar with dest=PATH and name=REF"
            ))
        };
        if !text.contains('=') {
            return Ok(match text {
                "" => return Err(bad("empty")),
                "-" => Self::Tar("-".into()),
                directory => Self::Local(directory.into()),
            });
        }
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        for field in csv(text)? {
            let (key, value) = field.split_once('=').ok_or_else(|| bad("a field without ="))?;
            fields.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        let mut take = |key: &str| fields.remove(key);
        let kind = take("type").ok_or_else(|| bad("no type"))?;
        let name = take("name").or_else(|| take("ref"));
        if let Some(name) = &name {
            name.parse::<Reference>()?;
        }
        let dest = take("dest").map(PathBuf::from);
        let wanted = || dest.clone().ok_or_else(|| bad("no dest"));
        let flag = |value: Option<String>| match value.as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(bad("want true or false")),
        };
        let push = flag(take("push"))?.unwrap_or(false);
        let tar = flag(take("tar"))?.unwrap_or(true);
        let output = match kind.as_str() {
            "store" | "image" if !push => Self::Store(name),
            "image" | "registry" => Self::Registry(name),
            "oci" if !tar => Self::Layout { dest: wanted()?, name },
            "oci" | "oci-archive" => Self::Archive { format: Format::OciArchive, dest: wanted()?, name },
            "docker" | "docker-archive" if dest.is_none() => Self::Store(name),
            "docker" | "docker-archive" => Self::Archive { format: Format::DockerArchive, dest: wanted()?, name },
            "local" => Self::Local(wanted()?),
            "tar" => Self::Tar(dest.clone().unwrap_or_else(|| "-".into())),
            _ => return Err(bad("unknown type")),
        };
        match fields.keys().next() {
            Some(key) => Err(bad(&format!("unknown key {key:?}"))),
            None => Ok(output),
        }
    }
}

/// What was built: its top document and, for each platform, its image and layers.
pub(crate) struct Built {
    pub(crate) top: Descriptor,
    pub(crate) images: Vec<(Image, Vec<Layer>)>,
    /// Of each image, or of none.
    pub(crate) statements: Vec<Vec<Statement>>,
}

/// Who sends.
pub(crate) struct Sender<'a> {
    pub(crate) store: &'a Store,
    pub(crate) workspace: &'a Workspace,
    pub(crate) access: &'a Access,
    pub(crate) progress: &'a Progress,
    /// Of `--tag`.
    pub(crate) names: &'a [Reference],
}

impl Output {
    /// The name that it gives the image besides those of `--tag`.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Store(name) | Self::Registry(name) | Self::Archive { name, .. } | Self::Layout { name, .. } => {
                name.as_deref()
            }
            Self::Local(_) | Self::Tar(_) => None,
        }
    }
}

impl Sender<'_> {
    /// Brings what was built to one place.
    pub(crate) fn send(&self, output: &Output, built: &Built) -> Result<()> {
        let own = |name: &Option<String>| -> Result<Vec<Reference>> {
            let mut names = self.names.to_vec();
            if let Some(name) = name {
                names.push(name.parse()?);
            }
            Ok(names)
        };
        match output {
            Output::Store(name) => self.tag(built, &own(name)?),
            Output::Registry(name) => {
                let names = own(name)?;
                if names.is_empty() {
                    return Err(Error::malformed("where to push? give --tag NAME or name=REF"));
                }
                for name in &names {
                    let source = StoreImage::new(self.store, &built.top, None);
                    let target = Remote::target(name, self.access, None, None);
                    self.transfer(&source, &target).with(|| name.to_string())?;
                }
                Ok(())
            }
            Output::Layout { dest, name } => {
                let name = own(name)?.first().map(ToString::to_string);
                let source = StoreImage::new(self.store, &built.top, None);
                self.transfer(&source, &LayoutDir::create(dest, name)?).with(|| dest.display().to_string())
            }
            Output::Archive { format, dest, name } => {
                let (image, _) = single(built, "an archive")?;
                let mut images: Vec<Image> = Vec::new();
                for name in own(name)? {
                    let mut named = image.clone();
                    named.entry.annotations = Some(crate::layout::annotations(&name.to_string(), None));
                    images.push(named);
                }
                if images.is_empty() {
                    images.push(image.clone());
                }
                write_to(dest, "give dest=FILE", |out| save(self.store, &images, *format, out, self.progress))
            }
            Output::Tar(dest) => {
                let (_, layers) = single(built, "a tar")?;
                let mounted = self.workspace.mount(layers, None, None)?;
                put_statements(&mounted.target, built.statements.first())?;
                let root = open_root(&mounted.target)?;
                write_to(dest, "give dest=FILE", |out| write_tree(&root, TreeForm::Plain, true, out))
            }
            Output::Local(dest) => {
                for (number, (image, layers)) in built.images.iter().enumerate() {
                    // Of several platforms each has a directory of its own.
                    let dest = match built.images.len() {
                        1 => dest.clone(),
                        _ => dest.join(image.config.platform().to_string().replace('/', "_")),
                    };
                    let step = || dest.display().to_string();
                    // Another build may have put files of its image there.
                    if built.images.len() > 1 && fs::symlink_metadata(&dest).is_ok_and(|found| found.is_symlink()) {
                        return Err(Error::other("is a link")).with(step);
                    }
                    fs::create_dir_all(&dest).with(step)?;
                    let mounted = self.workspace.mount(layers, None, None)?;
                    place_all(&mounted.target, &dest).with(step)?;
                    put_statements(&dest, built.statements.get(number))?;
                }
                Ok(())
            }
        }
    }

    fn transfer(&self, source: &StoreImage, target: &dyn crate::transfer::Target) -> Result<()> {
        let progress = self.progress;
        Transfer { source, target, progress, platform: None, referrers: false, parallel: 3 }.run().map(drop)
    }

    fn tag(&self, built: &Built, names: &[Reference]) -> Result<()> {
        let platform = built.images.first().map(|(image, _)| image.config.platform());
        let platform = platform.ok_or_else(|| Error::other("nothing was built"))?;
        let index = self.store.index()?;
        let is_there = |name: Option<&str>| {
            let same = |entry: &&Descriptor| entry.annotation(crate::layout::NAME) == name;
            index.manifests.iter().filter(same).any(|entry| entry.digest == built.top.digest)
        };
        if names.is_empty() {
            // Without a name it is kept like one that lost its name.
            if !index.manifests.iter().any(|entry| entry.digest == built.top.digest) {
                let mut entry = built.top.clone();
                entry.platform = Some(platform);
                self.store.set_entry(entry)?;
            }
            return Ok(());
        }
        for name in names {
            let name = name.to_string();
            if !is_there(Some(&name)) {
                self.store.tag(&built.top, platform.clone(), &name, None)?;
            }
        }
        Ok(())
    }
}

fn single<'a>(built: &'a Built, what: &str) -> Result<&'a (Image, Vec<Layer>)> {
    match built.images.as_slice() {
        [one] => Ok(one),
        _ => Err(Error::other(format!("{what} has one platform: use type=oci,tar=false or type=registry"))),
    }
}

/// Writes what is said of an image beside its files, in place of what it may have there: a link of its leads nowhere.
fn put_statements(directory: &Path, statements: Option<&Vec<Statement>>) -> Result<()> {
    for statement in statements.into_iter().flatten() {
        let path = directory.join(statement.file_name());
        let write = || -> Result<()> {
            let mut new = NewFile::beside(&path)?;
            new.file().write_all(&statement.to_json()?)?;
            new.finish(&path)
        };
        write().with(|| path.display().to_string())?;
    }
    Ok(())
}

/// Copies a root file system over what is in a directory of the user's.
fn place_all(from: &Path, to: &Path) -> Result<()> {
    use super::files::{Filter, list};
    use super::place::{Look, Placer};
    use super::root::Root;
    let source = Root::open(from)?.find("")?.pop().ok_or_else(|| Error::other("no root"))?;
    let tree = list(source, &Filter::default())?;
    let root = Root::open(to)?;
    let look = Look { keep_owners: true, ..Look::default() };
    Placer { root: &root, look: &look }.contents(&tree, root.fd(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_as_docker_writes_them() {
        for (text, want) in [
            ("out", Output::Local("out".into())),
            ("-", Output::Tar("-".into())),
            ("type=local,dest=/x", Output::Local("/x".into())),
            ("type=tar,dest=x.tar", Output::Tar("x.tar".into())),
            ("type=image,name=a,push=true", Output::Registry(Some("a".into()))),
            ("type=store", Output::Store(None)),
            ("type=docker", Output::Store(None)),
            ("type=oci,dest=x,tar=false", Output::Layout { dest: "x".into(), name: None }),
            (
                "type=docker,dest=x,name=a:1",
                Output::Archive { format: Format::DockerArchive, dest: "x".into(), name: Some("a:1".into()) },
            ),
        ] {
            assert_eq!(text.parse::<Output>().unwrap(), want, "{text}");
        }
        for bad in ["", "type=x", "type=oci", "type=local", "dest=x", "type=tar,x=y", "type=image,push=maybe"] {
            assert!(bad.parse::<Output>().is_err(), "{bad}");
        }
    }
}
