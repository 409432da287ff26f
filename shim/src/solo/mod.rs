//! The shim alone: containers from a shell, without containerd.

mod derive;
mod directory;
mod frames;
pub(crate) mod health;
mod launch;
pub(crate) mod monitor;
mod offspring;
pub(crate) mod policy;
pub(crate) mod probe;
mod process;
mod record;
mod relay;
pub(crate) mod sdnotify;
mod session;
mod signal;
mod tenancy;
pub(crate) mod terminal;
mod usage;
mod verb;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

pub(crate) use self::verb::exec::{HOLD, hold};

use self::directory::Layout;
use self::frames::start_failure_code;
use crate::cli::{Cli, Global, Verb};
use crate::error::{Error, Kind, Result};

/// The exit code of `run` when the shim itself is at fault, as Docker has it.
const RUN_FAILED: u8 = 125;
/// Verbs of `docker` that are about images.
const IMAGES: [&str; 18] = [
    "build", "commit", "diff", "export", "history", "image", "images", "import", "load", "login", "logout", "port",
    "pull", "push", "rmi", "save", "tag", "volume",
];

/// Flags of `docker run` that say what a bundle has.
const BUNDLES: [&str; 22] = [
    "-p",
    "-P",
    "-v",
    "-e",
    "-w",
    "-u",
    "-m",
    "-h",
    "--publish",
    "--volume",
    "--mount",
    "--env",
    "--env-file",
    "--user",
    "--workdir",
    "--entrypoint",
    "--memory",
    "--cpus",
    "--network",
    "--hostname",
    "--privileged",
    "--cap-add",
];

/// What who is used to `docker` may have meant.
fn hint(error: &clap::Error) -> Option<&'static str> {
    let said = |kind, known: &[&str]| match error.get(kind) {
        Some(ContextValue::String(word)) => known.contains(&word.split('=').next().unwrap_or_default()),
        _ => false,
    };
    if said(ContextKind::InvalidSubcommand, &IMAGES) {
        Some("images, bundles, their ports and volumes are imgtool's: imgtool --help")
    } else if said(ContextKind::InvalidArg, &BUNDLES) {
        Some("what a container has is said when its bundle is made: imgtool bundle --help")
    } else {
        None
    }
}

/// Does what the command line says and turns an error into a line and an exit code.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<_> = std::iter::once(OsString::from("shim")).chain(arguments).collect();
    let bare = words.len() == 1;
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(mut error) => {
            // clap would have words passed on that only imgtool knows.
            error.remove(ContextKind::Suggested);
            if let Some(hint) = hint(&error) {
                error.remove(ContextKind::SuggestedSubcommand);
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
            }
            // Who gives no words is shown what there is, as by docker. That is no failure, nor are help and version.
            if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && bare {
                let _: io::Result<()> = write!(io::stdout(), "{}", error.render());
                return ExitCode::SUCCESS;
            }
            let _: io::Result<()> = error.print();
            return if error.use_stderr() { ExitCode::from(RUN_FAILED) } else { ExitCode::SUCCESS };
        }
    };
    let (runs, execs) = (matches!(cli.verb, Verb::Run(_)), matches!(cli.verb, Verb::Exec(_)));
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            warn(error.text());
            match error.kind {
                kind if runs => ExitCode::from(start_failure_code(kind)),
                kind @ (Kind::NoCommand | Kind::NotExecutable) if execs => ExitCode::from(start_failure_code(kind)),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8> {
    let layout = layout(&cli.global)?;
    Ok(match cli.verb {
        Verb::Run(run) => verb::run::run(&layout, &cli.global, &run)?,
        Verb::Ps(ps) => verb::ps::ps(&layout, &ps)?,
        Verb::Logs(logs) => verb::logs::logs(&layout, &logs)?,
        Verb::Attach(attach) => verb::attach::attach(&layout, &attach)?,
        Verb::Exec(exec) => verb::exec::exec(&layout, &exec)?,
        Verb::Stop(stop) => each(&stop.names, |name| verb::stop::stop(&layout, name, stop.time)),
        Verb::Restart(restart) => each(&restart.names, |name| verb::restart::restart(&layout, name, restart.time)),
        Verb::Pause(pause) => each(&pause.names, |name| verb::pause::pause(&layout, name)),
        Verb::Unpause(unpause) => each(&unpause.names, |name| verb::pause::unpause(&layout, name)),
        Verb::Inspect(inspect) => verb::inspect::inspect(&layout, &inspect.names)?,
        Verb::Top(top) => verb::top::top(&layout, &top)?,
        Verb::Stats(stats) => verb::stats::stats(&layout, &stats)?,
        Verb::Update(update) => {
            let change = verb::update::Change::of(&update)?;
            each(&update.names, |name| verb::update::update(&layout, name, &change))
        }
        Verb::Events(events) => verb::events::events(&layout, &events)?,
        Verb::Rename(rename) => verb::rename::rename(&layout, &rename.name, &rename.new_name)?,
        Verb::Prune(prune) => verb::prune::prune(&layout, prune.force)?,
        Verb::Start(start) => verb::start::start(&layout, &start)?,
        Verb::Wait(wait) => each(&wait.names, |name| verb::wait::wait(&layout, name)),
        Verb::Rm(rm) => each(&rm.names, |name| verb::rm::rm(&layout, name, rm.force)),
        Verb::Kill(kill) => {
            let signal = signal::parse(&kill.signal)?;
            each(&kill.names, |name| verb::kill::kill(&layout, name, signal))
        }
    })
}

/// Does the same with each container, and goes on to the next when one fails.
fn each(names: &[String], action: impl Fn(&str) -> Result<()>) -> u8 {
    let mut code = 0;
    for name in names {
        if let Err(error) = action(name) {
            warn(error.text());
            code = 1;
        }
    }
    code
}

fn layout(global: &Global) -> Result<Layout> {
    let root = global.root.clone().map_or_else(default_root, Ok)?;
    let run_root = global.run_root.clone().map_or_else(default_run_root, Ok)?;
    let absolute = |path: PathBuf| std::path::absolute(path).map_err(Error::from);
    Ok(Layout { root: absolute(root)?, run_root: absolute(run_root)? })
}

fn default_root() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/tare/containers".into());
    }
    let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    let data = data.ok_or_else(|| Error::invalid("neither XDG_DATA_HOME nor HOME is set: pass --root"))?;
    Ok(data.join("tare/containers"))
}

fn default_run_root() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok("/run/tare/shim".into());
    }
    let run = variable("XDG_RUNTIME_DIR");
    Ok(run.ok_or_else(|| Error::invalid("XDG_RUNTIME_DIR is not set: set it, or pass --run-root"))?.join("tare/shim"))
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Prints a line about what went wrong.
fn warn(line: &str) {
    let _: io::Result<()> = writeln!(io::stderr(), "shim: {line}");
}

/// Prints a line. Whoever does not read it does not want it.
fn say(line: &str) {
    let _: io::Result<()> = writeln!(io::stdout(), "{line}");
}
