//! What COPY and ADD can take besides files as they are: archives, URLs, repositories, heredocs, and patterns with their parents.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::FileType;

use super::archives;
use super::builder::Work;
use super::contexts::is_git;
use super::files::{Filter, Parents, Tree, list};
use super::glob::{Dialect, Glob, is_pattern};
use super::ignore::{Ignore, clean};
use super::parse::{Copy, Instruction};
use super::root::Root;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};

/// One source, ready to be copied.
pub(crate) struct Piece {
    pub(crate) tree: Tree,
    /// The name that it gets in a directory.
    pub(crate) name: String,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A file, or what is in a directory.
    Plain,
    /// What is in a directory that was unpacked: owners are the archive's.
    Unpacked,
    /// Below the target as it was below the context (--parents).
    Parents,
}

impl Work<'_> {
    /// A local archive, unpacked; `None` for any other file.
    pub(crate) fn unpacked(&self, tree: &Tree, excludes: &Ignore) -> Result<Option<Piece>> {
        let [entry] = tree.entries.as_slice() else { return Ok(None) };
        if entry.kind() != FileType::RegularFile || tree.source.is_directory() {
            return Ok(None);
        }
        let mut head = Vec::new();
        tree.open(&mut Parents::of(&tree.source.dir), entry)?.take(archives::HEAD as u64).read_to_end(&mut head)?;
        let Some(kind) = archives::kind(&head) else { return Ok(None) };
        let directory = self.builder.workspace.directory()?;
        let file = tree.open(&mut Parents::of(&tree.source.dir), entry)?;
        match archives::unpack(file, &directory, self.builder.workspace.powers()) {
            // A compressed file that is no archive is copied as it is.
            Err(e) if kind != archives::Archive::Tar && e.kind() == Kind::Malformed => {
                crate::layer::remove_all(&directory)?;
                return Ok(None);
            }
            result => result.with(|| format!("unpack {}", tree.source.path))?,
        }
        Self::whole(&directory, excludes, What::Unpacked).map(Some)
    }

    /// All of a directory that was made here.
    fn whole(directory: &Path, excludes: &Ignore, what: What) -> Result<Piece> {
        let root = Root::open(directory)?;
        let one = root.find("")?.pop().ok_or_else(|| Error::other("no directory"))?;
        let filter = Filter { exclude: Some(excludes).filter(|i| !i.is_empty()), ..Filter::default() };
        Ok(Piece { tree: list(one, &filter)?, name: String::new(), what })
    }

    /// ADD of a URL or a git repository.
    pub(crate) fn fetched(&self, command: &Instruction, copy: &Copy, source: &str) -> Result<Piece> {
        let checksum = match &copy.checksum {
            None => None,
            Some(word) => Some(self.word(command, word).map_err(|fault| fault.error)?),
        };
        let workspace = &self.builder.workspace;
        if is_git(source) {
            let wanted = super::fetch::Checkout {
                keep_git_dir: copy.keep_git_dir.unwrap_or(false),
                is_foreign: true,
                checksum: checksum.as_deref().map(|text| text.trim_start_matches("sha1:")),
            };
            let directory = super::fetch::git(source, workspace, &self.builder.secrets, &wanted)?;
            return Self::whole(&directory, &Ignore::default(), What::Plain);
        }
        let digest = checksum.map(|text| text.parse::<Digest>()).transpose().at("--checksum")?;
        let (file, modified) = super::fetch::url(source, workspace, &self.builder.secrets, digest.as_ref())?;
        // As docker has it: a file of the network is for root alone, and as old as the server says.
        let fd = std::fs::File::open(&file)?;
        rustix::fs::fchmod(&fd, rustix::fs::Mode::from_raw_mode(0o600))?;
        let seconds = modified.unwrap_or(0);
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        rustix::fs::futimens(&fd, &rustix::fs::Timestamps { last_access: time, last_modification: time })?;
        let path = source.split(['?', '#']).next().unwrap_or(source);
        let path = path.splitn(4, '/').nth(3).unwrap_or_default();
        let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("__unnamed__").to_owned();
        let root = Root::open(file.parent().unwrap_or(&workspace.directory))?;
        let one = root.find("file")?.pop().ok_or_else(|| Error::other("no file"))?;
        let tree = list(one, &Filter::default())?;
        if copy.unpack == Some(true)
            && let Some(piece) = self.unpacked(&tree, &Ignore::default())?
        {
            return Ok(piece);
        }
        Ok(Piece { tree, name, what: What::Plain })
    }

    /// A heredoc as a file.
    pub(crate) fn inline_piece(&self, name: &str, text: &str) -> Result<Piece> {
        let directory = self.builder.workspace.directory()?;
        let file = directory.join("file");
        std::fs::write(&file, text)?;
        let fd = std::fs::File::open(&file)?;
        rustix::fs::fchmod(&fd, rustix::fs::Mode::from_raw_mode(0o644))?;
        if let Some(seconds) = self.builder.epoch {
            let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
            rustix::fs::futimens(fd.as_fd(), &rustix::fs::Timestamps { last_access: time, last_modification: time })?;
        }
        let one = Root::open(&directory)?.find("file")?.pop().ok_or_else(|| Error::other("no file"))?;
        Ok(Piece { tree: list(one, &Filter::default())?, name: name.to_owned(), what: What::Plain })
    }
}

/// `COPY --parents [PIVOT/./]PATTERN`: what the pattern matches, below the pivot, with the directories that it is in.
pub(crate) fn parents(root: &Root, source: &str, ignore: Option<&Ignore>, excludes: &Ignore) -> Result<Piece> {
    let (pivot, pattern) = source.split_once("/./").unwrap_or(("", source));
    let pattern = clean(pattern);
    if !is_pattern(&pattern) {
        root.find(&format!("{pivot}/{pattern}"))?;
    }
    let glob = Glob::new(&pattern, Dialect::Path)?;
    let one = root.find(pivot)?.pop().ok_or_else(|| Error::missing(format!("{pivot}: no such directory")))?;
    let include = if pattern.is_empty() { None } else { Some(&glob) };
    let filter = Filter { ignore, exclude: Some(excludes).filter(|i| !i.is_empty()), include };
    Ok(Piece { tree: list(one, &filter)?, name: pattern.clone(), what: What::Parents })
}
