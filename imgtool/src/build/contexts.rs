//! Build contexts: the directory that COPY takes from, and others by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::fetch;
use super::ignore::{IGNORE_MAX, Ignore};
use super::root::Root;
use super::secrets::Secrets;
use super::workspace::Workspace;
use crate::error::{Error, Kind, Result, Step};
use crate::layer::{self, Job, Limits, LowerStack, Powers};

/// A Dockerfile is read up to this size.
const DOCKERFILE_MAX: u64 = 16 << 20;

/// A directory to copy from, and what of it does not count.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) root: Root,
    pub(crate) ignore: Ignore,
    pub(crate) path: PathBuf,
}

/// What stands for a name: `--build-context NAME=...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Directory(PathBuf),
    /// A git repository.
    Git(String),
    /// The URL of a tar.
    Tar(String),
    /// `docker-image://REF`.
    Image(String),
    /// `oci-layout://DIR[:NAME]`.
    Layout(String),
}

impl std::str::FromStr for Named {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(image) = text.strip_prefix("docker-image://") {
            return Ok(Self::Image(image.to_owned()));
        }
        if let Some(layout) = text.strip_prefix("oci-layout://") {
            return Ok(Self::Layout(layout.to_owned()));
        }
        if is_git(text) {
            return Ok(Self::Git(text.to_owned()));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Tar(text.to_owned()));
        }
        if text.contains("://") {
            return Err(Error::malformed(format!(
                "{text}: want a directory, a git repository, the URL of a tar, docker-image://REF or oci-layout://DIR[:NAME]"
            )));
        }
        Ok(Self::Directory(text.into()))
    }
}

/// The Dockerfile's name, where it stands, and its text.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) text: Vec<u8>,
    /// Of a Dockerfile that is not in the context: the ignore file beside it.
    beside: Option<PathBuf>,
}

/// What the command line says of the context.
pub(crate) struct Asked<'a> {
    pub(crate) context: &'a str,
    pub(crate) file: Option<&'a str>,
    /// Leave `.git` in what is checked out.
    pub(crate) keep_git_dir: bool,
    /// How servers let one in.
    pub(crate) secrets: &'a Secrets,
}

impl Context {
    /// An existing directory.
    pub(crate) fn directory(path: &Path, ignore: Ignore) -> Result<Self> {
        let root = Root::open(path).at("context")?;
        Ok(Self { root, ignore, path: path.to_owned() })
    }

    /// The same once more, for another platform.
    pub(crate) fn again(&self) -> Result<Self> {
        let fd = self.root.enter("", rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY)?;
        Ok(Self { root: Root::of(fd), ignore: self.ignore.clone(), path: self.path.clone() })
    }

    /// What another context has to copy from; `None` if it is an image. A directory's own `.dockerignore` counts in it.
    pub(crate) fn named(named: &Named, workspace: &Workspace, secrets: &Secrets) -> Result<Option<Self>> {
        let path = match named {
            Named::Directory(path) => path.clone(),
            Named::Git(text) => fetch::git(text, workspace, secrets, &fetch::Checkout::default())?,
            Named::Tar(url) => match fetched(url, workspace, secrets)? {
                (path, None) => path,
                (_, Some(_)) => return Err(Error::malformed(format!("{url}: not a tar"))),
            },
            Named::Image(_) | Named::Layout(_) => return Ok(None),
        };
        let mut context = Self::directory(&path, Ignore::default())?;
        if matches!(named, Named::Directory(_)) {
            context.ignore = context.own_ignore_file(&[".dockerignore"])?;
        }
        Ok(Some(context))
    }

    /// The main context and the Dockerfile. `-` is a Dockerfile or a tar of a context on standard input.
    pub(crate) fn main(asked: &Asked<'_>, workspace: &Workspace) -> Result<(Self, Found)> {
        let (path, stdin) = match asked.context {
            "-" => {
                if asked.file == Some("-") {
                    return Err(Error::malformed("context and Dockerfile cannot both be standard input"));
                }
                let path = workspace.directory()?;
                (path.clone(), standard_input(&path, workspace.powers())?)
            }
            git if is_git(git) => {
                let wanted = fetch::Checkout { keep_git_dir: asked.keep_git_dir, ..fetch::Checkout::default() };
                (fetch::git(git, workspace, asked.secrets, &wanted)?, None)
            }
            url if url.starts_with("http://") || url.starts_with("https://") => fetched(url, workspace, asked.secrets)?,
            directory => (PathBuf::from(directory), None),
        };
        let mut context = Self::directory(&path, Ignore::default())?;
        let found = match stdin {
            Some(text) => Found { name: "Dockerfile".to_owned(), text, beside: None },
            None => context.dockerfile(asked.file)?,
        };
        context.ignore = context.ignore_file(&found)?;
        Ok((context, found))
    }

    fn dockerfile(&self, file: Option<&str>) -> Result<Found> {
        let inside = |name: &str| -> Result<Option<Vec<u8>>> { self.root.read(name, DOCKERFILE_MAX) };
        match file {
            Some("-") => {
                let mut text = Vec::new();
                std::io::stdin().take(DOCKERFILE_MAX + 1).read_to_end(&mut text).at("standard input")?;
                small(&text).at("standard input")?;
                Ok(Found { name: "Dockerfile".to_owned(), text, beside: None })
            }
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                Err(Error::malformed(format!("--file {url}: give a file")))
            }
            Some(name) => {
                // As docker does: first where the user is, then in the context.
                match std::fs::File::open(name) {
                    Ok(file) => {
                        let mut text = Vec::new();
                        file.take(DOCKERFILE_MAX + 1).read_to_end(&mut text).with(|| format!("read {name}"))?;
                        small(&text).with(|| name.to_owned())?;
                        Ok(Found { name: name.to_owned(), text, beside: Some(PathBuf::from(name)) })
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => match inside(name)? {
                        Some(text) => Ok(Found { name: name.to_owned(), text, beside: Some(self.path.join(name)) }),
                        None => Err(Error::missing(format!("{name}: no such file, here or in the context"))),
                    },
                    Err(e) => Err(e).with(|| format!("read {name}")),
                }
            }
            None => {
                for name in ["Dockerfile", "Containerfile"] {
                    if let Some(text) = inside(name)? {
                        return Ok(Found { name: name.to_owned(), text, beside: Some(self.path.join(name)) });
                    }
                }
                let text = format!("no Dockerfile in {}: name one with --file", self.path.display());
                Err(Error::missing(text))
            }
        }
    }

    /// `NAME.dockerignore` beside the Dockerfile counts before `.dockerignore` of the context.
    fn ignore_file(&self, found: &Found) -> Result<Ignore> {
        if let Some(beside) = &found.beside {
            let mut name = beside.file_name().unwrap_or_default().to_owned();
            name.push(".dockerignore");
            let path = beside.with_file_name(&name);
            let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = name.to_string_lossy().into_owned();
            if let Ok(root) = Root::open(directory)
                && let Some(text) = root.read(&name, IGNORE_MAX)?
            {
                return Ignore::parse(&String::from_utf8_lossy(&text), &path.display().to_string());
            }
        }
        self.own_ignore_file(&[".containerignore", ".dockerignore"])
    }

    fn own_ignore_file(&self, names: &[&str]) -> Result<Ignore> {
        for name in names {
            match self.root.read(name, IGNORE_MAX) {
                Ok(Some(text)) => return Ignore::parse(&String::from_utf8_lossy(&text), name),
                Ok(None) => {}
                Err(e) if e.kind() == Kind::Missing => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Ignore::default())
    }
}

/// A Dockerfile that is cut off somewhere would be another one.
fn small(text: &[u8]) -> Result<()> {
    if text.len() as u64 > DOCKERFILE_MAX {
        return Err(Error::malformed(format!("a Dockerfile larger than {DOCKERFILE_MAX} bytes")));
    }
    Ok(())
}

/// A tar of the network, unpacked; or the text of a Dockerfile.
fn fetched(url: &str, workspace: &Workspace, secrets: &Secrets) -> Result<(PathBuf, Option<Vec<u8>>)> {
    let path = workspace.directory()?;
    let (file, _) = fetch::url(url, workspace, secrets, None)?;
    let text = from_stream(File::open(&file)?, &path, workspace.powers()).with(|| url.to_owned())?;
    Ok((path, text))
}

fn standard_input(directory: &Path, powers: Powers) -> Result<Option<Vec<u8>>> {
    from_stream(std::io::stdin(), directory, powers).at("standard input")
}

/// A tar, plain or compressed, is unpacked into `directory`; anything else is the text of a Dockerfile.
fn from_stream(input: impl Read + Send, directory: &Path, powers: Powers) -> Result<Option<Vec<u8>>> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let start = std::io::BufRead::fill_buf(&mut input)?;
    if super::archives::kind(start).is_none() {
        let mut text = Vec::new();
        input.take(DOCKERFILE_MAX + 1).read_to_end(&mut text)?;
        small(&text)?;
        return Ok(Some(text));
    }
    super::archives::unpack(input, directory, powers)?;
    Ok(None)
}

/// Whether the text names a git repository, as docker tells it.
pub(crate) fn is_git(text: &str) -> bool {
    let base = text.split(['#', '?']).next().unwrap_or(text);
    base.starts_with("git://")
        || base.starts_with("ssh://")
        || base.starts_with("git@")
        || base.starts_with("github.com/")
        || ((base.starts_with("http://") || base.starts_with("https://")) && base.strip_suffix(".git").is_some())
}

/// The named contexts of the command line.
pub(crate) type Contexts = BTreeMap<String, Named>;

/// Unpacks a layer-like tar into a plain directory; hostile archives are the unpacker's business.
pub(crate) fn unpack_into(input: impl Read + Send, directory: &Path, powers: Powers) -> Result<()> {
    let nothing = LowerStack::default();
    let job = Job {
        diff_id: None,
        root: layer::open_root(directory)?,
        powers,
        limits: Limits::default(),
        compressed: None,
        lower: Some(&nothing),
    };
    layer::unpack(input, job, None).map(drop)
}
