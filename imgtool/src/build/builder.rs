//! Builds the stages of a plan. Each needed stage has a thread; one that needs another waits for it at the step that does,
//! so that stages which do not need each other are built side by side.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::args::BuildArgs;
use super::cache::{Cache, CachedLayer, Key, Record};
use super::contexts::{Context, Contexts};
use super::display::{Display, StepId};
use super::expand::Room;
use super::images::Images;
use super::parse::{self, Instruction, Kind};
use super::plan::{Base, Origin, Plan, origins};
use super::source::{Fault, Locate as _, Result, Span};
use super::state::State;
use super::workspace::Workspace;
use crate::archive::{LayerCompression, new_layer};
use crate::bundle::Options;
use crate::digest::Digest;
use crate::error::{Error, Step as _};
use crate::layer::Unpacked;
use crate::layout::{Layer, Store};
use crate::oci::Descriptor;
use crate::platform::Platform;
use crate::time;

/// What all steps of a build share.
pub(crate) struct Builder {
    pub(crate) store: Store,
    pub(crate) plan: Plan,
    pub(crate) context: Context,
    pub(crate) contexts: Contexts,
    pub(crate) args: BuildArgs,
    pub(crate) platform: Platform,
    /// Several platforms are built: their steps bear theirs.
    pub(crate) several: bool,
    pub(crate) cache: Cache,
    pub(crate) no_cache: bool,
    pub(crate) no_cache_stages: Vec<String>,
    pub(crate) display: Arc<Display>,
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) images: Images,
    pub(crate) runtime: PathBuf,
    pub(crate) secrets: super::secrets::Secrets,
    pub(crate) options: Options,
    pub(crate) allowed: super::entitled::Allowed,
    pub(crate) compression: LayerCompression,
    pub(crate) level: Option<i32>,
    /// Seconds of `SOURCE_DATE_EPOCH`.
    pub(crate) epoch: Option<i64>,
    pub(crate) imported: Option<super::exchange::Imported>,
    /// The places of `--cache-from`.
    pub(crate) cache_from: Vec<String>,
    pub(crate) stages: Stages,
    pub(crate) views: Views,
    /// Named contexts that something was taken from.
    pub(crate) opened: Mutex<HashMap<String, Arc<Context>>>,
    /// Images that went into it, by name and digest of their manifest.
    pub(crate) materials: Mutex<std::collections::BTreeMap<String, Digest>>,
    /// The steps that this build used or made, for `--cache-to`.
    pub(crate) used: Mutex<Vec<super::exchange::Used>>,
}

/// How far each stage is.
#[derive(Default)]
pub(crate) struct Stages {
    states: Mutex<HashMap<usize, Progress>>,
    changed: Condvar,
    /// The first failure: those of the stages that waited for this one only follow from it.
    cause: Mutex<Option<Fault>>,
}

#[derive(Clone)]
enum Progress {
    Running,
    Done(Arc<State>),
    Failed,
}

/// Root file systems of stages and images that something was copied from: mounted once.
#[derive(Default)]
pub(crate) struct Views(Mutex<HashMap<String, Arc<super::workspace::Mounted>>>);

/// The whole build: the target's state.
pub(crate) fn build(builder: &Arc<Builder>) -> Result<Arc<State>> {
    let (send, failures) = std::sync::mpsc::channel();
    for number in builder.plan.needed() {
        let (builder, send) = (Arc::clone(builder), send.clone());
        let work = move || {
            let result = builder.stage(number).map(drop);
            // The receiver is gone when another stage failed before.
            let _ = send.send(result);
        };
        std::thread::Builder::new().name(format!("stage-{number}")).spawn(work).map_err(Error::from)?;
    }
    drop(send);
    // With the process all other steps end.
    for result in failures {
        result.map_err(|fault| builder.stages.cause(fault))?;
    }
    builder.stage(builder.plan.target).map_err(|fault| builder.stages.cause(fault))
}

impl Stages {
    fn cause(&self, fault: Fault) -> Fault {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(fault)
    }
}

impl Builder {
    /// The finished stage: built here, unless another thread does.
    pub(crate) fn stage(&self, number: usize) -> Result<Arc<State>> {
        let lock = || self.stages.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states = lock();
        loop {
            match states.get(&number).cloned() {
                Some(Progress::Done(state)) => return Ok(state),
                Some(Progress::Failed) => return Err(Error::other("a stage that this one needs failed").into()),
                Some(Progress::Running) => {
                    states = self.stages.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        states.insert(number, Progress::Running);
        drop(states);
        let result = self.make_stage(number).map(Arc::new).map_err(|fault| {
            let mut cause = self.stages.cause.lock().unwrap_or_else(PoisonError::into_inner);
            cause.get_or_insert(fault);
            Fault::from(Error::other("a stage that this one needs failed"))
        });
        let progress = result.as_ref().map_or(Progress::Failed, |state| Progress::Done(Arc::clone(state)));
        lock().insert(number, progress);
        self.stages.changed.notify_all();
        result
    }

    fn make_stage(&self, number: usize) -> Result<State> {
        let planned = &self.plan.stages[number];
        let platform = planned.platform.clone().unwrap_or_else(|| self.platform.clone());
        let mut triggers = Vec::new();
        let state = match &planned.base {
            Base::Scratch => State::scratch(&platform),
            Base::Stage(base) => {
                for command in &self.plan.stages[*base].commands {
                    if let Kind::Onbuild(text) = &command.kind {
                        triggers.push(text.clone());
                    }
                }
                let mut state = (*self.stage(*base)?).clone();
                state.config.config.on_build = None;
                state
            }
            Base::Image(name) => {
                let mut state = self.image(name, &platform, planned.span)?;
                triggers.extend(state.config.config.on_build.take().unwrap_or_default());
                state
            }
        };
        let mut commands = Vec::new();
        for text in &triggers {
            commands.push(trigger(text, planned.span, self.plan.escape)?);
        }
        commands.extend(planned.commands.iter().cloned());
        let counted = |command: &&Instruction| matches!(command.kind, Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_));
        let mut work = Work {
            builder: self,
            number,
            total: commands.iter().filter(counted).count() + usize::from(matches!(planned.base, Base::Image(_))),
            done: usize::from(matches!(planned.base, Base::Image(_))),
            state: state.begin(),
            platform,
            cmd_set: false,
            room: Room::new(),
            time: None,
        };
        for command in &commands {
            work.instruction(command).locate(command.span())?;
        }
        // Metadata has the time of the layer that it stands on.
        if let Some(time) = &work.time {
            work.state.config.created = Some(time.clone());
        }
        Ok(work.state)
    }

    /// `[linux/arm64 stage 2/5] RUN ...`
    pub(crate) fn step_name(&self, text: &str, place: Option<(&str, usize, usize)>) -> String {
        let platform = if self.several { format!("{} ", self.platform) } else { String::new() };
        match place {
            None if platform.is_empty() => text.to_owned(),
            None => format!("[{}] {text}", platform.trim_end()),
            Some((title, at, total)) => {
                let title = if title.is_empty() { String::new() } else { format!("{title} ") };
                let width = total.to_string().len();
                format!("[{platform}{title}{at:>width$}/{total}] {text}")
            }
        }
    }

    /// The root file system of a stage or an image, to copy from.
    pub(crate) fn view(&self, state: &State) -> crate::error::Result<Arc<super::workspace::Mounted>> {
        let chain = state.chain();
        let mut views = self.views.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = views.get(&chain) {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(self.workspace.mount(&state.layers, None, None)?);
        views.insert(chain, Arc::clone(&view));
        Ok(view)
    }

    /// The named context of this name to copy from, opened or fetched once; `None` if there is none, or if it is an image.
    pub(crate) fn named_context(&self, name: &str) -> crate::error::Result<Option<Arc<Context>>> {
        let Some((key, named)) = self.contexts.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)) else {
            return Ok(None);
        };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = opened.get(key) {
            return Ok(Some(Arc::clone(context)));
        }
        let Some(context) = Context::named(named, &self.workspace, &self.secrets).with(|| format!("context {name}"))?
        else {
            return Ok(None);
        };
        let context = Arc::new(context);
        opened.insert(key.clone(), Arc::clone(&context));
        Ok(Some(context))
    }

    fn use_step(&self, stage: usize, key: &Digest, record: &Record) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.push((stage, key.clone(), record.clone()));
    }

    /// The state of what `--from` names.
    pub(crate) fn origin(&self, origin: &Origin, platform: &Platform, span: Span) -> Result<Option<Arc<State>>> {
        match origin {
            Origin::Context => Ok(None),
            Origin::Stage(number) => self.stage(*number).locate(span).map(Some),
            Origin::Image(name) => self.image(name, platform, span).map(Arc::new).map(Some),
        }
    }
}

/// The instruction of an ONBUILD of the base image. Its errors are told at the FROM that brought it.
fn trigger(text: &str, span: Span, escape: char) -> Result<Instruction> {
    let text = if escape == '\\' { text.to_owned() } else { format!("# escape={escape}\n{text}") };
    let parsed = parse::statements(&text).map_err(|fault| Fault { span: Some(span), error: fault.error })?;
    let [statement] = parsed.all.as_slice() else {
        return Err(Fault::at(span, format!("ONBUILD {text:?} of the base image: want one instruction")));
    };
    let mut made = parse::instruction(statement).map_err(|fault| Fault {
        span: Some(span),
        error: fault.error.at(format!("ONBUILD {text} of the base image")),
    })?;
    if matches!(made.kind, Kind::From(_) | Kind::Onbuild(_) | Kind::Maintainer(_)) {
        return Err(Fault::at(span, format!("ONBUILD {text:?} of the base image: this one cannot be a trigger")));
    }
    made.trigger = true;
    made.line = Arc::new(parse::Logical::standing_at(span, &made.line.text));
    Ok(made)
}

/// A stage under construction.
pub(crate) struct Work<'a> {
    pub(crate) builder: &'a Builder,
    pub(crate) number: usize,
    /// Steps that are told of, and how many of them are done.
    total: usize,
    done: usize,
    pub(crate) state: State,
    pub(crate) platform: Platform,
    pub(crate) cmd_set: bool,
    /// What the instruction may still become.
    pub(crate) room: Room,
    /// When the last layer was made.
    pub(crate) time: Option<String>,
}

/// A step whose key is known.
pub(crate) struct Keyed {
    pub(crate) key: Key,
    places: Vec<Digest>,
}

impl Work<'_> {
    /// Waits for the stages that a step takes files from: its time begins when they are there. What is wrong with one is told
    /// where it is used.
    pub(crate) fn await_stages(&self, command: &Instruction) {
        let find = |name: &str| self.builder.plan.origin_before(name, self.number, &[]);
        for (origin, _) in origins(command, find).into_iter().flatten() {
            if let Origin::Stage(number) = origin {
                let _ = self.builder.stage(number);
            }
        }
    }

    /// Tells that a step begins.
    pub(crate) fn begin(&mut self, text: &str, trigger: bool) -> StepId {
        self.done += 1;
        let text = if trigger { format!("ONBUILD {text}") } else { text.to_owned() };
        let title = self.builder.plan.title(self.number);
        self.builder.display.begin(&self.builder.step_name(&text, Some((&title, self.done, self.total))))
    }

    /// Completes a key with what every step depends on. `text` is the instruction as it was written.
    pub(crate) fn keyed(&self, mut key: Key, text: &str) -> Keyed {
        key.add("platform", &self.platform.to_string());
        if let Some(epoch) = self.builder.epoch {
            key.add("SOURCE_DATE_EPOCH", &epoch.to_string());
        }
        let by_text = Digest::of(format!("{}\0{text}", self.platform).as_bytes());
        let title = self.builder.plan.title(self.number);
        let context = self.builder.context.path.display();
        let by_place = Digest::of(format!("{context}\0{title}\0{}\0{}", self.platform, self.done).as_bytes());
        Keyed { key, places: vec![by_text, by_place] }
    }

    /// Takes a step's result from the cache if it is there, and tells so.
    pub(crate) fn cached(&mut self, step: StepId, keyed: &Keyed) -> crate::error::Result<Option<bool>> {
        let digest = keyed.key.digest();
        let builder = self.builder;
        let title = builder.plan.title(self.number);
        if builder.no_cache || builder.no_cache_stages.contains(&title) {
            builder.display.key(step, &digest.to_string(), Some("the cache is not used (--no-cache)"));
            return Ok(None);
        }
        let found = match builder.cache.find(&digest) {
            Some(record) => self.usable(record)?,
            None => None,
        };
        let found = match (found, &builder.imported) {
            (None, Some(imported)) => {
                let taken = imported.take(builder, &digest, &self.state);
                if let Some((record, _)) = &taken {
                    builder.cache.keep(&digest, record, &keyed.places)?;
                }
                taken
            }
            (found, _) => found,
        };
        let Some((record, layer)) = found else {
            let why = builder.cache.why(&keyed.key, &keyed.places);
            builder.display.key(step, &digest.to_string(), Some(&why));
            return Ok(None);
        };
        builder.cache.note(&digest, &keyed.places)?;
        builder.use_step(self.number, &digest, &record);
        builder.display.key(step, &digest.to_string(), None);
        builder.display.cached(step);
        self.time = Some(record.created.clone());
        let made = layer.is_some();
        if let Some((layer, descriptor)) = layer {
            self.state.push(layer, descriptor);
        }
        Ok(Some(made))
    }

    /// A record counts only if it was made here, or came from where this build wants it from; and if the store still has its layer, unpacked and as a blob.
    #[allow(clippy::type_complexity, reason = "a record and what it stands for")]
    fn usable(&self, record: Record) -> crate::error::Result<Option<(Record, Option<(Layer, Descriptor)>)>> {
        if record.origin.as_ref().is_some_and(|origin| !self.builder.cache_from.contains(origin)) {
            return Ok(None);
        }
        let Some(CachedLayer { diff_id, descriptor }) = &record.layer else { return Ok(Some((record, None))) };
        let below = self.state.chain_id();
        let store = &self.builder.store;
        if !store.has_blob(descriptor) {
            return Ok(None);
        }
        let Some(layer) = store.layer(diff_id, below.as_ref())? else { return Ok(None) };
        let descriptor = descriptor.clone();
        Ok(Some((record, Some((layer, descriptor)))))
    }

    /// Does a step that changes files: `act` gets the mounted root file system, and what it wrote becomes a layer. Says
    /// whether it wrote anything.
    pub(crate) fn layer(
        &mut self,
        keyed: &Keyed,
        layers: &[Layer],
        top: Option<&Path>,
        act: impl FnOnce(&Self, &Path) -> Result<()>,
    ) -> Result<bool> {
        let builder = self.builder;
        let name = builder.workspace.draft_name()?;
        let (draft, upper) = builder.store.begin_layer(&name)?;
        let upper_path = builder.store.path("tmp").join(format!("layer-{name}")).join("diff");
        let mounted = builder.workspace.mount(layers, top, Some(&upper_path))?;
        let before = root_look(&upper)?;
        act(self, &mounted.target)?;
        mounted.unmount()?;
        let root_changed = before != root_look(&upper)?;
        let created = time::now();
        let layer = if !root_changed && crate::layer::names(&upper)?.is_empty() {
            None
        } else {
            let made = new_layer(&builder.store, &upper, root_changed, builder.compression, builder.level)?;
            let unpacked = Unpacked {
                diff_id: Some(made.diff_id.clone()),
                tar_size: made.tar_size,
                entries: 0,
                bytes: made.tar_size,
                self_contained: true,
                has_root: root_changed,
                ..Unpacked::default()
            };
            let lock = builder.store.lock_layer(&made.diff_id)?;
            let layer = match builder.store.layer(&made.diff_id, None)? {
                Some(layer) => layer, // the same result as another step's
                None => builder.store.commit_layer(&draft, &lock, &unpacked)?,
            };
            Some((layer, made))
        };
        let record = layer
            .as_ref()
            .map(|(_, made)| CachedLayer { diff_id: made.diff_id.clone(), descriptor: made.descriptor.clone() });
        let digest = keyed.key.digest();
        let record = Record::new(&keyed.key, record, created.clone());
        builder.cache.keep(&digest, &record, &keyed.places)?;
        builder.use_step(self.number, &digest, &record);
        self.time = Some(created);
        let made = layer.is_some();
        if let Some((layer, new)) = layer {
            self.state.push(layer, new.descriptor);
        }
        Ok(made)
    }
}

/// What of the root directory is an entry of a layer.
fn root_look(upper: &std::os::fd::OwnedFd) -> crate::error::Result<(u32, u32, u32)> {
    let stat = rustix::fs::fstat(upper)?;
    Ok((stat.st_mode, stat.st_uid, stat.st_gid))
}
