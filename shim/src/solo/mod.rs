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
use clap::error::{ContextKind, ContextValue};

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

/// Does what the command line says and turns an error into a line and an exit code.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(std::iter::once(OsString::from("shim")).chain(arguments)) {
        Ok(cli) => cli,
        Err(mut error) => {
            if let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand)
                && IMAGES.contains(&verb.as_str())
            {
                let hint = vec!["images, bundles, their ports and volumes are imgtool's: imgtool --help".into()];
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(hint));
            }
            // Help and version are not failures.
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
