//! One `imgtool build`, from the Dockerfile to the image's names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{self, BuildArgs};
use super::builder::{Builder, Stages, Views, build};
use super::cache::Cache;
use super::call::{Method, Said};
use super::contexts::{Asked, Context, Contexts};
use super::display::Display;
use super::entitled::Allowed;
use super::exchange::Imported;
use super::finish::{self, Made};
use super::images::Images;
use super::lint::{self, Known, Settings, Subject};
use super::parse::{Dockerfile, Kind, parse};
use super::plan::{Plan, Wanted};
use super::secrets::Secrets;
use super::source::{Fault, Locate as _, Result, Source};
use super::workspace::Workspace;
use super::{env::Env, metadata, outline, process};
use crate::bundle::{Network, Options};
use crate::cli::{BuildArgs as Cli, PullPolicy};
use crate::error::Error;
use crate::layout::Store;
use crate::platform::Platform;

/// Builds, in the process that the guard started. Gives what is to be said.
pub(crate) fn run(store: &Store, args: &Cli, directory: &Path) -> crate::error::Result<Said> {
    process::born()?;
    let display = Arc::new(Display::new(args.progress.form()));
    let workspace = Arc::new(Workspace::enter(directory, store.rights().powers())?);
    let mut source = Source::default();
    let result = whole(store, args, &display, &workspace, &mut source);
    let span = result.as_ref().err().and_then(|fault| fault.span);
    display.close(span.map(|span| source.excerpt(span)).as_deref());
    result.map_err(|Fault { span, error }| match span {
        None => error,
        Some(span) => error.at(source.place(span)),
    })
}

fn whole(
    store: &Store,
    args: &Cli,
    display: &Arc<Display>,
    workspace: &Arc<Workspace>,
    source: &mut Source,
) -> Result<Said> {
    let _hold = store.hold()?;
    let (call, record) = (args.call(), args.metadata_file.as_deref());
    if call.method == Method::Describe {
        return Ok(call.describe(record)?);
    }
    let given = build_args(args)?;
    let secrets = Secrets::of(&args.secret, &args.ssh)?;
    let told = if args.metadata_file.is_some() { metadata::detail()? } else { None };
    let asked = Asked {
        context: &args.context,
        file: args.file.as_deref(),
        keep_git_dir: args::switch(&given, "BUILDKIT_CONTEXT_KEEP_GIT_DIR")?,
        secrets: &secrets,
    };
    let (context, found) = Context::main(&asked, workspace)?;
    *source = Source::new(&found.name, &found.text);
    let text =
        String::from_utf8(found.text).map_err(|_| Error::malformed(format!("{}: not UTF-8 text", source.name)))?;
    let file = parse(&text)?;
    if call.method == Method::Targets {
        return Ok(call.targets(&file, source, record)?);
    }
    let contexts: Contexts = args.build_context.iter().cloned().collect();
    let platforms = if args.platform.is_empty() { vec![Platform::host()] } else { args.platform.clone() };
    let host = Platform::host();
    let names: Vec<String> = contexts.keys().cloned().collect();
    let plan_for = |platform: &Platform| {
        let wanted = Wanted { target: args.target.as_deref(), args: &given, build: &host, platform, contexts: &names };
        Plan::of(&file, &wanted)
    };
    let first = platforms.first().cloned().unwrap_or_else(Platform::host);
    let plan = plan_for(&first)?;
    let known = |name: &str, platform: Option<&Platform>| known(store, name, platform.unwrap_or(&first));
    let settings = settings(&file, &given)?;
    if call.method == Method::Outline {
        let subject = outline::Subject { file: &file, plan: &plan, args: &given, known: &known };
        return Ok(call.outline(&subject, source, record)?);
    }
    // A check without a target is of all that could be one.
    let all = call.method == Method::Check && args.target.is_none();
    let subject = Subject { file: &file, plan: &plan, args: &given, ignore: &context.ignore, all, known: &known };
    let found = lint::check(&subject, &settings);
    if call.method == Method::Check {
        return Ok(call.check(&found, source, record)?);
    }
    for warning in &found {
        display.warning(&warning.render(source));
    }
    if settings.error && !found.is_empty() {
        return Err(Error::other(format!("{} warnings, and check=error=true", found.len())).into());
    }
    unused(&file, &given, display);
    if let Some(note) = store.rights().note() {
        display.note(note);
    }
    let asking = Asking { store, args, display, workspace, given: &given, secrets: &secrets, contexts: &contexts };
    let made = asking.make(context, &platforms, plan_for)?;
    let built = finish::images(store, args, &text, &made)?;
    finish::deliver(store, args, display, workspace, &built)?;
    finish::caches(store, args, &made)?;
    finish::files(args, &text, &built, &made, told)?;
    Ok(built.top.digest.to_string().into())
}

/// What a build is asked for, whatever its platform.
struct Asking<'a> {
    store: &'a Store,
    args: &'a Cli,
    display: &'a Arc<Display>,
    workspace: &'a Arc<Workspace>,
    given: &'a BuildArgs,
    secrets: &'a Secrets,
    contexts: &'a Contexts,
}

impl Asking<'_> {
    /// Builds for all platforms, one after the other.
    fn make(
        &self,
        context: Context,
        platforms: &[Platform],
        plan_for: impl Fn(&Platform) -> Result<Plan>,
    ) -> Result<Vec<Made>> {
        let Self { store, args, display, workspace, .. } = *self;
        let cache = Cache::of(store)?;
        let access = args.registry.access();
        let mut context = Some(context);
        let mut made: Vec<Made> = Vec::new();
        for platform in platforms {
            let context = match context.take() {
                Some(context) => context,
                None => made
                    .last()
                    .map(|(builder, _)| builder.context.again())
                    .transpose()?
                    .ok_or_else(|| Error::other("no context"))?,
            };
            let builder = Arc::new(Builder {
                store: store.clone(),
                plan: plan_for(platform)?,
                context,
                contexts: self.contexts.clone(),
                args: self.given.clone(),
                platform: platform.clone(),
                several: platforms.len() > 1,
                cache: cache.clone(),
                no_cache: args.no_cache,
                no_cache_stages: args.no_cache_filter.clone(),
                display: Arc::clone(display),
                workspace: Arc::clone(workspace),
                images: Images {
                    access: access.clone(),
                    always: args.pull == PullPolicy::Always,
                    never: args.pull == PullPolicy::Never,
                    known: std::sync::Mutex::default(),
                },
                runtime: runtime(args.runtime.as_deref())?,
                secrets: self.secrets.clone(),
                options: options(args),
                allowed: Allowed::of(&args.allow, args.network == "host", &args.cdi_spec_dir),
                compression: args.compression,
                level: args.compression_level,
                epoch: std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()),
                imported: Imported::of(&args.cache_from, &access, platform, display),
                cache_from: args.cache_from.iter().map(ToString::to_string).collect(),
                stages: Stages::default(),
                views: Views::default(),
                opened: std::sync::Mutex::default(),
                materials: std::sync::Mutex::default(),
                used: std::sync::Mutex::default(),
            });
            let state = build(&builder)?;
            made.push((builder, state));
        }
        Ok(made)
    }
}

/// The config of an image, as far as the store has it.
fn known(store: &Store, name: &str, wanted: &Platform) -> Option<Known> {
    let image = store.find(name, wanted).ok()?;
    let config = &image.config.config;
    let have = image.config.platform();
    Some(Known {
        other_platform: wanted.score(&have).is_none().then(|| (wanted.clone(), have)),
        env: Env::of(config.env.iter().flatten()),
        has_shell: config.shell.as_ref().is_some_and(|shell| !shell.is_empty()),
        workdir_set: false,
    })
}

/// What `# check=` or the argument in its place asks for.
fn settings(file: &Dockerfile, given: &BuildArgs) -> Result<Settings> {
    let directive = file.directive("check");
    let text = given.get("BUILDKIT_DOCKERFILE_CHECK").map(String::as_str);
    let text = text.or(directive.map(|directive| directive.value.as_str())).unwrap_or_default();
    match directive {
        Some(directive) => Settings::parse(text).locate(directive.span),
        None => Ok(Settings::parse(text)?),
    }
}

/// Arguments of the command line that no ARG names.
fn unused(file: &Dockerfile, given: &BuildArgs, display: &Display) {
    let in_stages = file.stages.iter().flat_map(|stage| &stage.commands).filter_map(|command| match &command.kind {
        Kind::Arg(list) => Some(list),
        _ => None,
    });
    let declared: Vec<&str> =
        file.args.iter().map(|(arg, _)| arg).chain(in_stages.flatten()).map(|arg| arg.key.as_str()).collect();
    let left: Vec<&str> =
        given.keys().map(String::as_str).filter(|key| !declared.contains(key) && !args::is_predefined(key)).collect();
    if !left.is_empty() {
        display.note(&format!("[Warning] One or more build-args [{}] were not consumed", left.join(" ")));
    }
}

fn build_args(args: &Cli) -> Result<BuildArgs> {
    let mut given = BuildArgs::new();
    for text in &args.build_arg {
        match text.split_once('=') {
            Some(("", _)) => return Err(Error::malformed(format!("--build-arg {text}: want NAME=VALUE")).into()),
            Some((key, value)) => drop(given.insert(key.to_owned(), value.to_owned())),
            // Without a value: this process's, if it has one.
            None => {
                if let Ok(value) = std::env::var(text) {
                    given.insert(text.clone(), value);
                }
            }
        }
    }
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        given.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
    }
    Ok(given)
}

/// Options of all RUN steps.
fn options(args: &Cli) -> Options {
    let network = match args.network.as_str() {
        "host" => Network::Host,
        "none" => Network::None,
        // Without anything to connect by there is loopback alone.
        _ => crate::bundle::step_network().unwrap_or(Network::None),
    };
    Options {
        network,
        dns: args.dns.clone(),
        hosts: args.add_host.clone(),
        memory: args.memory,
        nano_cpus: args.cpus,
        shm: args.shm_size,
        rlimits: args.ulimit.clone(),
        ..Options::default()
    }
}

/// The runtime: `--runtime`, `$TARE_RUNTIME`, `runtime` beside this program, or on PATH.
pub(crate) fn runtime(chosen: Option<&Path>) -> crate::error::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_program = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let on_path = |name: &Path| {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| is_program(path))
    };
    let variable = std::env::var_os("TARE_RUNTIME").filter(|name| !name.is_empty()).map(PathBuf::from);
    if let Some(name) = chosen.map(Path::to_owned).or(variable) {
        if name.components().count() > 1 {
            return Ok(std::path::absolute(&name)?);
        }
        return on_path(&name).ok_or_else(|| Error::missing(format!("runtime {}: not found on PATH", name.display())));
    }
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("runtime"));
    beside.filter(is_program).or_else(|| on_path(Path::new("runtime"))).ok_or_else(|| {
        Error::missing(
            "no OCI runtime found: install one as `runtime` beside imgtool or on PATH, or name it by --runtime",
        )
    })
}
