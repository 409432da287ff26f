//! COPY and ADD.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, fstat, readlinkat};

use super::builder::Work;
use super::cache::Key;
use super::chmod::Chmod;
use super::contexts::is_git;
use super::files::{Filter, Sums, list};
use super::glob::is_pattern;
use super::ignore::{Ignore, clean};
use super::parse::{Copy, Instruction};
use super::pieces::{Piece, What, parents};
use super::place::{Look, Placer};
use super::plan::{Origin, origins};
use super::root::Root;
use super::source::{Fault, Locate as _, Result, Span};
use super::workspace::Mounted;
use crate::bundle::resolve_user;
use crate::digest::Digest;
use crate::error::{Error, Kind, Step};

/// What a COPY was told, variables put in.
struct Told {
    sources: Vec<(String, Span)>,
    target: String,
    chown: Option<String>,
    chmod: Option<Chmod>,
    chmod_text: Option<String>,
    excludes: Ignore,
}

/// `--chown` in numbers; names are looked up in the target. A user without a group has the group of the same number.
pub(crate) fn owner(rootfs: &Path, text: &str) -> crate::error::Result<(u32, u32)> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    match (user.parse::<u32>(), group.filter(|group| !group.is_empty())) {
        (Ok(uid), None) if uid <= i32::MAX.cast_unsigned() => Ok((uid, uid)),
        _ => resolve_user(rootfs, text),
    }
}

impl Work<'_> {
    pub(crate) fn copy(&mut self, command: &Instruction, copy: &Copy) -> Result<()> {
        let told = self.told_of(command, copy)?;
        let keyword = if copy.add { "ADD" } else { "COPY" };
        let mut text = keyword.to_owned();
        if copy.parents {
            text.push_str(" --parents");
        }
        for (flag, value) in [("chown", &told.chown), ("chmod", &told.chmod_text)] {
            if let Some(value) = value {
                text.extend([" --", flag, "=", value]);
            }
        }
        told.sources.iter().for_each(|(source, _)| text.extend([" ", source]));
        copy.inline.iter().for_each(|doc| text.extend([" <<", &doc.name]));
        let target_word = copy.target.as_ref().map(|word| word.text.clone()).unwrap_or_default();
        text.extend([" ", &told.target]);
        let shown = match &copy.from {
            Some(from) => text.replacen(keyword, &format!("{keyword} --from={}", from.text), 1),
            None => text.clone(),
        };
        self.await_stages(command);
        let step = self.begin(&shown, command.trigger);
        let result = self.copy_step(command, copy, &told, &target_word, &shown, step);
        let made = match result {
            Ok(Some(made)) => made,
            Ok(None) => return Err(Error::other("COPY gave nothing").into()),
            Err(fault) => return self.told(step, Err(fault)),
        };
        text.push_str(" # buildkit");
        let time = self.time.clone();
        self.state.commit(text, time.as_deref(), made);
        Ok(())
    }

    /// Puts the variables in, and refuses what cannot be.
    fn told_of(&self, command: &Instruction, copy: &Copy) -> Result<Told> {
        let optional = |word: &Option<super::parse::Word>| -> Result<Option<String>> {
            match word {
                None => Ok(None),
                Some(word) => Ok(Some(self.word(command, word)?).filter(|text| !text.is_empty())),
            }
        };
        let mut sources = Vec::new();
        for word in &copy.sources {
            let source = self.word(command, word)?;
            if !copy.add && (source.starts_with("http://") || source.starts_with("https://") || is_git(&source)) {
                return Err(Fault::at(command.at(word), format!("COPY takes no URL ({source}): use ADD")));
            }
            sources.push((source, command.at(word)));
        }
        let target_word = copy.target.as_ref().ok_or_else(|| Error::other("no target"))?;
        let target = self.word(command, target_word)?;
        let chmod_text = optional(&copy.chmod)?;
        let chmod = match (&chmod_text, &copy.chmod) {
            (Some(text), Some(word)) => Some(text.parse::<Chmod>().locate(command.at(word))?),
            _ => None,
        };
        let mut excludes = Vec::new();
        for word in &copy.excludes {
            excludes.push(self.word(command, word)?);
        }
        let at = copy.excludes.first().map_or_else(|| command.span(), |word| command.at(word));
        let excludes = Ignore::of(&excludes).locate(at)?;
        if let Some(word) = &copy.checksum {
            let at = command.at(word);
            if sources.len() != 1 || !copy.inline.is_empty() {
                return Err(Fault::at(at, "--checksum goes with one source only"));
            }
            if !is_url(&sources[0].0) && !is_git(&sources[0].0) {
                return Err(Fault::at(at, "--checksum goes with a URL or a git repository only"));
            }
        }
        Ok(Told { sources, target, chown: optional(&copy.chown)?, chmod, chmod_text, excludes })
    }

    fn copy_step(
        &mut self,
        command: &Instruction,
        copy: &Copy,
        told: &Told,
        written: &str,
        shown: &str,
        step: super::display::StepId,
    ) -> Result<Option<bool>> {
        let builder = self.builder;
        // Where the files come from. What is mounted stays until the copy is done.
        let found = origins(command, |name| builder.plan.origin_before(name, self.number, &[]))?;
        let (origin, at) = found.into_iter().next().unwrap_or((Origin::Context, command.span()));
        let named = match &origin {
            Origin::Image(name) => builder.named_context(name).locate(at)?,
            _ => None,
        };
        let state = match named {
            Some(_) => None,
            None => builder.origin(&origin, &self.platform, at)?,
        };
        let view: Option<Arc<Mounted>> = state.as_ref().map(|state| builder.view(state)).transpose()?;
        let view_root = view.as_ref().map(|view| Root::open(&view.target)).transpose()?;
        let context = named.as_deref().unwrap_or(&builder.context);
        let root = view_root.as_ref().unwrap_or(&context.root);
        let from_context = state.is_none();
        let ignore = from_context.then_some(&context.ignore).filter(|i| !i.is_empty());

        let mut pieces = Vec::new();
        let mut sums = Sums::default();
        for (source, at) in &told.sources {
            let count = pieces.len();
            if copy.add && (is_git(source) || is_url(source)) {
                pieces.push(self.fetched(command, copy, source).locate(*at)?);
            } else if copy.parents {
                pieces.push(parents(root, source, ignore, &told.excludes).locate(*at)?);
            } else {
                self.local(copy, root, source, ignore, &told.excludes, &mut pieces).locate(*at)?;
            }
            if pieces[count..].iter().all(|piece| piece.tree.entries.is_empty()) && !is_pattern(source) {
                // A directory that is empty is copied; a file that is left out cannot be.
                let text = format!("{source}: is left out by .dockerignore or --exclude");
                if pieces[count..].iter().any(|piece| !piece.tree.source.is_directory()) {
                    return Err(Fault::at(*at, text));
                }
            }
        }
        for piece in &pieces {
            sums.begin(&piece.name);
            piece.tree.sum(!from_context || piece.what == What::Unpacked, &mut sums).locate(command.span())?;
        }
        for doc in &copy.inline {
            sums.begin(&doc.name);
            let text = self.inline(command, doc)?;
            sums.add("", &doc.name, &Digest::of(text.as_bytes()));
            pieces.push(self.inline_piece(&doc.name, &text)?);
        }

        let mut key = Key::default();
        if !copy.link {
            key.add("layers", &self.state.chain());
        }
        key.add("target", &format!("{}\0{}", self.state.workdir(), told.target));
        let options = (&told.chown, &told.chmod_text, copy.link, copy.parents, copy.add, copy.unpack);
        key.add("options", &format!("{options:?}"));
        if told.chown.is_some() && copy.link {
            key.add("layers", &self.state.chain()); // names of users are looked up there
        }
        let kinds: Vec<What> = pieces.iter().map(|piece| piece.what).collect();
        key.add("files", &format!("{} {kinds:?}", sums.finish()));
        key.files = std::mem::take(&mut sums.files);
        let keyed = self.keyed(key, &format!("{shown} {written}"));
        if let Some(made) = self.cached(step, &keyed)? {
            return Ok(Some(made));
        }
        let below = if copy.link { Vec::new() } else { self.state.layers.clone() };
        let all = self.state.layers.clone();
        let made = self.layer(&keyed, &below, None, |work, target| {
            let owner = match &told.chown {
                None => None,
                Some(text) if copy.link => {
                    let view = work.builder.workspace.mount(&all, None, None)?;
                    Some(owner(&view.target, text).at("--chown")?)
                }
                Some(text) => Some(owner(target, text).at("--chown")?),
            };
            let look =
                Look { owner, keep_owners: !from_context, chmod: told.chmod.clone(), made_at: work.builder.epoch };
            let named = told.sources.iter().filter(|(source, _)| !is_pattern(source)).count();
            let literal = named + copy.inline.len();
            work.put(&Root::open(target)?, &told.target, &pieces, literal, &look).locate(command.span())
        })?;
        self.builder.display.done(step);
        Ok(Some(made))
    }

    /// Writes the pieces into the mounted root.
    fn put(
        &self,
        root: &Root,
        target: &str,
        pieces: &[Piece],
        literal: usize,
        look: &Look,
    ) -> crate::error::Result<()> {
        let path = self.state.absolute(target);
        let into = target.ends_with('/') || matches!(target, "" | "." | "..") || target.ends_with("/.");
        // What a pattern matched goes into a directory, be it one file today and two tomorrow.
        let into = into || (pieces.len() > 1 && literal < 2);
        if pieces.len() > 1 && !into && root.enter(&path, OFlags::PATH | OFlags::DIRECTORY).is_err() {
            let text = format!("more than one source: the target must be a directory and end with a / ({target}/)");
            return Err(Error::malformed(text));
        }
        for piece in pieces {
            let placer = Placer { root, look };
            if piece.tree.source.is_directory() {
                if piece.what == What::Parents {
                    let dir = placer.directory(&path)?;
                    placer.contents(&piece.tree, &dir, false)?;
                    continue;
                }
                if piece.what == What::Unpacked {
                    // What an archive says of its files counts before --chown and --chmod, as Docker has it.
                    let dir = placer.directory(&path)?;
                    let own = Look { owner: None, keep_owners: true, chmod: None, made_at: look.made_at };
                    Placer { root, look: &own }.contents(&piece.tree, &dir, false)?;
                    continue;
                }
                let existed = root.enter(&path, OFlags::PATH | OFlags::DIRECTORY).is_ok();
                let dir = placer.directory(&path)?;
                placer.contents(&piece.tree, &dir, !existed)?;
                continue;
            }
            let (dir, name) = file_target(&placer, &path, into || path == "/", &piece.name)?;
            placer.file(&piece.tree, &dir, &name).with(|| format!("/{}", clean(&format!("{path}/{name}"))))?;
        }
        Ok(())
    }

    /// The files that a path or pattern of the context or a stage means.
    fn local(
        &self,
        copy: &Copy,
        root: &Root,
        source: &str,
        ignore: Option<&Ignore>,
        excludes: &Ignore,
        pieces: &mut Vec<Piece>,
    ) -> crate::error::Result<()> {
        let filter = Filter { ignore, exclude: Some(excludes).filter(|i| !i.is_empty()), include: None };
        let found = root.find(source).map_err(|e| match e.kind() {
            Kind::Missing => Error::missing(format!("{e}: what COPY and ADD take must be in the context or the stage")),
            _ => e,
        })?;
        for one in found {
            let hidden = ignore.is_some_and(|i| i.is_ignored(&one.path) && !i.may_hold(&one.path));
            if hidden && is_pattern(source) {
                continue;
            }
            let name = one.path.rsplit('/').next().unwrap_or_default().to_owned();
            let tree = list(one, &filter)?;
            if copy.add
                && copy.unpack.unwrap_or(true)
                && let Some(unpacked) = self.unpacked(&tree, excludes)?
            {
                pieces.push(unpacked);
                continue;
            }
            pieces.push(Piece { tree, name, what: What::Plain });
        }
        Ok(())
    }
}

fn is_url(text: &str) -> bool {
    (text.starts_with("http://") || text.starts_with("https://")) && !is_git(text)
}

/// Where a file goes: a directory, which is made if it must be, and the name there. A link at the target is followed within
/// the root, to what it names or would name.
fn file_target(placer: &Placer<'_>, path: &str, into: bool, name: &str) -> crate::error::Result<(OwnedFd, String)> {
    if into {
        return Ok((placer.directory(path)?, name.to_owned()));
    }
    let mut path = clean(path);
    for _ in 0..40 {
        match placer.root.enter(&path, OFlags::PATH) {
            Ok(fd) if FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Directory => {
                return Ok((placer.directory(&path)?, name.to_owned()));
            }
            Ok(fd) => {
                let real = placer.root.real(&fd)?;
                let (parent, own) = super::files::split(&real);
                return Ok((placer.directory(parent)?, own.to_owned()));
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::NOTDIR) => return Err(Error::other(format!("/{path}: a file is in the way"))),
            Err(e) => return Err(e).with(|| format!("/{path}")),
        }
        let (parent, own) = super::files::split(&path);
        let dir = placer.directory(parent)?;
        let Ok(link) = readlinkat(&dir, own, Vec::new()) else {
            return Ok((dir, own.to_owned()));
        };
        let link = link.into_string().map_err(|_| Error::malformed("a link that is not UTF-8"))?;
        let base = if link.starts_with('/') { String::new() } else { placer.root.real(&dir)? };
        path = clean(&format!("{base}/{link}"));
    }
    Err(Error::other(format!("/{path}: too many links")))
}
