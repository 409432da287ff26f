//! `imgtool copy`

use std::path::{Path, PathBuf};

use super::print;
use crate::archive::{Format, read_images, save};
use crate::cli::CopyArgs;
use crate::digest::Digest;
use crate::error::{Error, Result, Step};
use crate::layer::Limits;
use crate::layout::{NAME, Store};
use crate::new_file::NewFile;
use crate::oci::Descriptor;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::transfer::{LayoutDir, Remote, Scratch, Source, StoreImage, Target, Transfer};

/// One end, as the command line has it.
enum Place {
    Registry(Reference),
    Layout(PathBuf, Option<String>),
    Archive(Format, PathBuf, Option<String>),
    Store(String),
}

impl std::str::FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(rest.parse()?));
        }
        let parts = |rest: &str| match LayoutDir::parse(rest) {
            (path, _) if path.as_os_str().is_empty() => Err(Error::malformed(format!("{text:?}: want a path"))),
            parts => Ok(parts),
        };
        // The name of an archive's image may have slashes: what follows the first colon.
        let archive = |format, rest: &str| match rest.split_once(':') {
            Some(("", _)) | None if rest.is_empty() => Err(Error::malformed(format!("{text:?}: want a file"))),
            Some((file, name)) if !name.is_empty() => Ok(Self::Archive(format, file.into(), Some(name.to_owned()))),
            _ => Ok(Self::Archive(format, rest.trim_end_matches(':').into(), None)),
        };
        match text.split_once(':') {
            Some(("oci", rest)) => parts(rest).map(|(directory, name)| Self::Layout(directory, name)),
            Some(("oci-archive", rest)) => archive(Format::OciArchive, rest),
            Some(("docker-archive", rest)) => archive(Format::DockerArchive, rest),
            Some(("store", rest)) => Ok(Self::Store(rest.to_owned())),
            _ => Ok(Self::Registry(text.parse()?)),
        }
    }
}

/// Copies an image and prints its digest.
pub(crate) fn run(store: &Store, args: &CopyArgs) -> Result<()> {
    let (from, to) = (args.source.parse::<Place>()?, args.target.parse::<Place>()?);
    if args.all && (matches!(from, Place::Archive(..)) || matches!(to, Place::Archive(..))) {
        return Err(Error::other("--all: an archive has one platform; use an OCI layout (oci:DIR)"));
    }
    let progress = args.progress.make();
    let digest = match &from {
        Place::Archive(_, file, name) => {
            let store = &store.with_rights()?;
            store.create()?;
            let digest = {
                // What the archive has goes through the store; without a name it is gone after the copy.
                let _hold = store.hold()?;
                let platform = args.platform.clone().unwrap_or_else(Platform::host);
                let limits = args.max_size.map_or_else(Limits::default, Limits::of_size);
                let images = read_images(store, file, &platform, limits, &progress).at(file.display())?;
                let top = choose(&images, name.as_deref()).at(file.display())?;
                send(args, &StoreImage::new(store, top, None), &to, &progress)?
            };
            store.collect()?;
            digest
        }
        Place::Registry(reference) => {
            let remote = Remote::source(reference, &args.registry.access());
            send(args, &remote, &to, &progress).at(reference)?
        }
        Place::Layout(directory, name) => {
            let layout = Store::at(directory)?;
            let step = || format!("layout {}", directory.display());
            let index = layout.index().with(step)?;
            if index.manifests.is_empty() {
                return Err(Error::missing("there is no image in it")).with(step);
            }
            let top = choose(&index.manifests, name.as_deref()).with(step)?;
            send(args, &StoreImage::new(&layout, top, None), &to, &progress)?
        }
        Place::Store(name) => {
            let image = store.find(name, &Platform::host())?;
            let top = if args.all { &image.entry } else { &image.descriptor };
            send(args, &StoreImage::new(store, top, image.reference()), &to, &progress)?
        }
    };
    print(digest)
}

/// The image of this name, or the only one.
fn choose<'a>(images: &'a [Descriptor], name: Option<&str>) -> Result<&'a Descriptor> {
    let Some(name) = name else {
        // What says something of another image is not asked for by nobody.
        let named: Vec<&Descriptor> = images.iter().filter(|image| image.annotation(NAME).is_some()).collect();
        return match (images, named.as_slice()) {
            ([only], _) => Ok(only),
            (_, [only]) => Ok(only),
            _ => Err(Error::other(format!("there are {} images in it: say which, as PLACE:NAME", images.len()))),
        };
    };
    let full = name.parse::<Reference>().map(|reference| reference.to_string()).unwrap_or_default();
    let is_it = |image: &&Descriptor| {
        let have = image.annotation(NAME).unwrap_or_default();
        have == name || have == full || have.rsplit(':').next() == Some(name)
    };
    images.iter().find(is_it).ok_or_else(|| Error::missing(format!("there is no image {name} in it")))
}

fn send(args: &CopyArgs, source: &dyn Source, to: &Place, progress: &Progress) -> Result<Digest> {
    let transfer = |target: &dyn Target| -> Result<Digest> {
        let platform = if args.all { None } else { Some(args.platform.clone().unwrap_or_else(Platform::host)) };
        let transfer =
            Transfer { source, target, progress, platform, referrers: args.referrers, parallel: args.parallel.into() };
        transfer.run()
    };
    match to {
        Place::Registry(reference) => {
            let access = args.registry.access();
            transfer(&Remote::target(reference, &access, source.repository(), args.chunk_size))
        }
        Place::Layout(directory, name) => transfer(&LayoutDir::create(directory, name.clone())?),
        Place::Archive(format, file, name) => archive(*format, file, name.as_deref(), progress, &transfer),
        Place::Store(_) => Err(Error::other("into the store an image comes by pull and load")),
    }
}

/// An archive is a layout first, beside the file that it becomes.
fn archive(
    format: Format,
    file: &Path,
    name: Option<&str>,
    progress: &Progress,
    transfer: &dyn Fn(&dyn Target) -> Result<Digest>,
) -> Result<Digest> {
    if file.exists() {
        return Err(Error::other(format!("{}: exists already", file.display())));
    }
    let name = match name {
        Some(name) => Some(name.parse::<Reference>()?.to_string()),
        None => None,
    };
    let made = || -> Result<Digest> {
        let scratch = Scratch::beside(file)?;
        let directory = scratch.path();
        let digest = transfer(&LayoutDir::create(directory, name.or_else(|| Some("image".to_owned())))?)?;
        let layout = Store::at(directory)?;
        let images =
            layout.images(&Platform::host())?.into_iter().map(|(_, image)| image).collect::<Result<Vec<_>>>()?;
        let mut out = NewFile::beside(file)?;
        save(&layout, &images, format, std::io::BufWriter::new(out.file()), progress)?;
        out.finish(file)?;
        Ok(digest)
    };
    made().with(|| file.display().to_string())
}
