//! Tare's OCI runtime: runc's command line over `libcontainer`.
#![forbid(unsafe_code)]

mod bundle;
mod cli;
mod log;
mod signal;
mod systemd;
mod terminal;
mod verb;
mod wait;

use clap::{CommandFactory, Parser};
use cli::{Cli, Verb};
use libcontainer::{At, Result, inside::descriptors, outside::own_binary};
use std::io::Write as _;

/// The program; returns its exit status.
#[must_use]
pub fn main() -> u8 {
    const FAILURE: u8 = 1;
    if let Err(error) = descriptors::open_standard_streams() {
        complain(&format!("open the standard streams: {error}"));
        return FAILURE;
    }
    libcontainer::ignore_broken_pipes();
    // What enters containers starts anew from a protected copy of this program, before it has done anything.
    if std::env::args_os().any(|arg| own_binary::ENTERING.iter().any(|verb| arg == *verb))
        && let Err(error) = own_binary::protect()
    {
        complain(&format!("protect the runtime's own binary: {error}"));
        return FAILURE;
    }
    let Ok(cli) = Cli::try_parse() else {
        return cli::help::answer(&std::env::args_os().collect::<Vec<_>>());
    };
    // Before the log, or anything else, is opened.
    let claimed = descriptors::claim(cli.verb.preserved_fds()).at("--preserve-fds, or LISTEN_FDS");
    if let Err(error) = log::set_up(&cli.global) {
        complain(&error.to_string());
        return FAILURE;
    }
    // runc's `exec` leaves the small codes to the process.
    let failure = if matches!(cli.verb, Verb::Exec(_)) { 255 } else { FAILURE };
    match claimed.and_then(|()| run(cli)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            // The log may be a file that the caller reads; people read standard error. runc writes both as well.
            if log::to_file() {
                complain(&error.to_string());
            }
            failure
        }
    }
}

/// On standard error, where a person may read it: whether one does is not the failure to tell of.
fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "runtime: {}", log::one_line(text)));
}

fn run(cli: Cli) -> Result<u8> {
    let global = &cli.global;
    match cli.verb {
        Verb::Create(args) => verb::create::run(global, &args),
        Verb::Start(args) => verb::start::run(global, &args),
        Verb::Run(args) => verb::run::run(global, &args),
        Verb::Exec(args) => verb::exec::run(global, &args),
        Verb::State(args) => verb::state::run(global, &args),
        Verb::Kill(args) => verb::kill::run(global, &args),
        Verb::Delete(args) => verb::delete::run(global, &args),
        Verb::List(args) => verb::list::run(global, &args),
        Verb::Ps(args) => verb::ps::run(global, &args),
        Verb::Pause(args) => verb::pause::run(global, &args),
        Verb::Resume(args) => verb::resume::run(global, &args),
        Verb::Checkpoint(args) => verb::checkpoint::run(global, &args),
        Verb::Restore(args) => verb::restore::run(global, &args),
        Verb::Events(args) => verb::events::run(global, &args),
        Verb::Update(args) => verb::update::run(global, &args),
        Verb::Spec(args) => verb::spec::run(&args),
        Verb::Features => verb::features::run(),
    }
}

/// The definition of its command line, for man pages and completion.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}
