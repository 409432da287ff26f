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
use super::exchange::{self, Imported, Place as CachePlace};
use super::images::Images;
use super::lint::{self, Known, Settings, Subject};
use super::output::{Built, Output, Sender};
use super::parse::{Dockerfile, Kind, parse};
use super::plan::{Plan, Wanted};
use super::secrets::Secrets;
use super::source::{Fault, Locate as _, Result, Source};
use super::state::State;
use super::workspace::Workspace;
use super::{attest, env::Env, metadata, outline, process};
use crate::bundle::{Network, Options};
use crate::cli::{BuildArgs as Cli, PullPolicy};
use crate::error::{Error, Step};
use crate::layout::{Image, Store};
use crate::oci::{self, Descriptor, Index, Manifest};
use crate::platform::Platform;

/// Builds, in the process that the guard started. Gives what is to be said.
pub(crate) fn run(store: &Store, args: &Cli, directory: &Path) -> crate::error::Result<Said> {
    process::born()?;
    let display = Arc::new(Display::new(args.progress.form()));
    let workspace = Arc::new(Workspace::enter(directory, store.rights().powers())?);
    let mut source = Source::default();
    let result = whole(store, args, &display, &workspace, &mut source);
    let result = result.map_err(|Fault { span, error }| match span {
        None => error,
        Some(span) => {
            display.excerpt(&source.excerpt(span));
            error.at(source.place(span))
        }
    });
    display.close();
    result
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
        display.excerpt(&warning.render(source));
    }
    if settings.error && !found.is_empty() {
        return Err(Error::other(format!("{} warnings, and check=error=true", found.len())).into());
    }
    unused(&file, &given, display);
    if let Some(note) = store.rights().note() {
        display.note(note);
    }
    let cache = Cache::of(store)?;
    let access = args.registry.access();
    let mut context = Some(context);
    let mut made: Vec<(Arc<Builder>, Arc<State>)> = Vec::new();
    for platform in &platforms {
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
            contexts: contexts.clone(),
            args: given.clone(),
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
            secrets: secrets.clone(),
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
    let built = finish(store, args, &text, &made)?;
    deliver(store, args, display, workspace, &access, &built)?;
    for place in &args.cache_to {
        for (builder, _) in &made {
            let used = builder.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let stages = builder.plan.lineage();
            exchange::export(store, place, &used, &stages, &access).at("--cache-to")?;
        }
    }
    if let Some(path) = &args.iidfile {
        metadata::write_text(path, &built.top.digest.to_string()).at("--iidfile")?;
    }
    if let Some(path) = &args.metadata_file {
        let mut names = args.tag.clone();
        for name in args.output.iter().filter_map(Output::name) {
            names.push(name.parse()?);
        }
        names.dedup();
        let provenance = told.map_or_else(Vec::new, |detail| {
            let of = |builder: &Arc<Builder>| facts(args, &text, builder, detail, metadata::provenance);
            made.iter().map(|(builder, _)| (builder.platform.clone(), of(builder))).collect()
        });
        metadata::write(path, &metadata::of(&built, &names, provenance)).at("--metadata-file")?;
    }
    Ok(built.top.digest.to_string().into())
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

/// Writes the images of all platforms, and the index of several.
fn finish(store: &Store, cli: &Cli, dockerfile: &str, made: &[(Arc<Builder>, Arc<State>)]) -> Result<Built> {
    let asked = made.first().map(|(builder, _)| args::switch(&builder.args, "BUILDKIT_INLINE_CACHE")).transpose()?;
    let inline = asked == Some(true) || cli.cache_to.iter().any(CachePlace::is_inline);
    let mut images = Vec::new();
    for (builder, state) in made {
        let mut config = state.config.clone();
        for label in &cli.label {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            config.config.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        }
        if let Some(epoch) = builder.epoch {
            let time = crate::time::rfc3339(u64::try_from(epoch).unwrap_or(0));
            config.created = Some(time.clone());
        }
        if config.created.is_none() {
            // Nothing was done but to name things: as old as what it stands on, or made now.
            let newest = config.history.iter().rev().find_map(|step| step.created.clone());
            config.created = Some(newest.unwrap_or_else(crate::time::now));
        }
        let config_blob = if inline { exchange::with_cache(&config, builder, state)? } else { oci::to_json(&config)? };
        let config_blob = store.put_blob(oci::OCI_CONFIG, &config_blob)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::OCI_MANIFEST.to_owned()),
            config: config_blob,
            layers: state.blobs.clone(),
            subject: None,
            annotations: annotations(cli),
        };
        let mut descriptor = store.put_blob(oci::OCI_MANIFEST, &oci::to_json(&manifest)?)?;
        descriptor.platform = Some(config.platform());
        let image = Image { entry: descriptor.clone(), descriptor, manifest, config };
        images.push((image, state.layers.clone()));
    }
    let (sbom, detail) = cli.attestations();
    if sbom.is_some() || detail.is_some() {
        let mut attested = Vec::new();
        for ((image, layers), (builder, _)) in images.iter().zip(made) {
            let mut statements = Vec::new();
            if let Some(form) = sbom {
                let mounted = builder.workspace.mount(layers, None, None)?;
                statements.push(attest::sbom(&mounted.target, image, form).at("--sbom")?);
            }
            if let Some(detail) = detail {
                statements.push(facts(cli, dockerfile, builder, detail, attest::provenance));
            }
            attested.push((image.descriptor.clone(), statements));
        }
        let top = attest::attach(store, &attested)?;
        return Ok(Built { top, images });
    }
    let top = match images.as_slice() {
        [(image, _)] => Descriptor { platform: None, ..image.descriptor.clone() },
        several => {
            let mut index = Index::empty();
            index.manifests = several.iter().map(|(image, _)| image.descriptor.clone()).collect();
            if let Some(all) = annotations(cli) {
                index.rest.insert("annotations".to_owned(), serde_json::json!(all));
            }
            store.put_blob(oci::OCI_INDEX, &oci::to_json(&index)?)?
        }
    };
    Ok(Built { top, images })
}

/// What `tell` makes of the facts of a build.
fn facts<T>(
    args: &Cli,
    dockerfile: &str,
    builder: &Builder,
    detail: attest::Detail,
    tell: impl FnOnce(&attest::Facts<'_>) -> T,
) -> T {
    let materials = builder.materials.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tell(&attest::Facts {
        dockerfile,
        target: args.target.as_deref(),
        args: &builder.args,
        secrets: builder.secrets.ids(),
        platform: Platform::host(),
        materials: &materials,
        detail,
    })
}

fn annotations(args: &Cli) -> Option<std::collections::BTreeMap<String, String>> {
    if args.annotation.is_empty() {
        return None;
    }
    let pair = |text: &String| {
        // `manifest:` and the like say where it goes: here there is one place.
        let text = text
            .split_once(':')
            .filter(|(kind, _)| matches!(*kind, "manifest" | "index"))
            .map_or(text.as_str(), |(_, rest)| rest);
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    Some(args.annotation.iter().map(pair).collect())
}

fn deliver(
    store: &Store,
    args: &Cli,
    display: &Display,
    workspace: &Workspace,
    access: &crate::registry::Access,
    built: &Built,
) -> Result<()> {
    let mut outputs = args.output.clone();
    if args.push {
        outputs.push(Output::Registry(None));
    }
    if args.load || outputs.is_empty() {
        outputs.push(Output::Store(None));
    }
    let progress = display.transfers();
    let sender = Sender { store, workspace, access, progress: &progress, names: &args.tag };
    for output in &outputs {
        sender.send(output, built).at("--output")?;
    }
    Ok(())
}
