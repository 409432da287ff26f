//! imgtool: container images without a daemon.
//!
//! A verb reads top to bottom in its file under `verb/`; `registry/` speaks the protocol, `layer/` unpacks, `layout/` is
//! the store, `bundle/` makes what a runtime runs (`cdi/` the devices in it), `archive/` reads and writes single files.

#![deny(unsafe_code)]

mod archive;
mod build;
mod bundle;
mod cdi;
mod cli;
mod digest;
mod error;
mod layer;
mod layout;
mod new_file;
mod oci;
mod platform;
mod progress;
mod pull;
mod reference;
mod registry;
mod regular;
mod rights;
mod sys;
mod time;
mod transfer;
mod trust;
mod unpack;
mod verb;

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory as _;

use cli::{Cli, Verb};

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::read(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(cli) => cli,
        Err(e) => return cli::explain(&e),
    };
    let (name, result) = run(&cli);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(std::io::stderr(), "imgtool: {name}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> (&'static str, error::Result<()>) {
    let root = match cli.root.clone().map_or_else(layout::Store::default_root, Ok) {
        Ok(root) => root,
        Err(e) => return ("--root", Err(e)),
    };
    let store = match layout::Store::at(&root) {
        Ok(store) => store,
        Err(e) => return ("--root", Err(e)),
    };
    match &cli.verb {
        Verb::Pull(args) => ("pull", verb::pull::run(&store, args)),
        Verb::Push(args) => ("push", verb::push::run(&store, args)),
        Verb::Copy(args) => ("copy", verb::copy::run(&store, args)),
        Verb::Tags(args) => ("tags", verb::tags::run(args)),
        Verb::Referrers(args) => ("referrers", verb::referrers::run(args)),
        Verb::Delete(args) => ("delete", verb::delete::run(args)),
        Verb::Login(args) => ("login", verb::login::run(args)),
        Verb::Logout(args) => ("logout", verb::logout::run(args)),
        Verb::Build(args) => ("build", verb::build::run(&store, args, cli.builder.as_deref())),
        Verb::Import(args) => ("import", verb::import::run(&store, args)),
        Verb::Load(args) => ("load", verb::load::run(&store, args)),
        Verb::Save(args) => ("save", verb::save::run(&store, args)),
        Verb::Images(args) => ("images", verb::images::run(&store, args)),
        Verb::Inspect(args) => ("inspect", verb::inspect::run(&store, args)),
        Verb::Rm(args) => ("rm", verb::rm::run(&store, args)),
        Verb::Tag(args) => ("tag", verb::tag::run(&store, args)),
        Verb::History(args) => ("history", verb::history::run(&store, args)),
        Verb::Prune(args) => ("prune", verb::prune::run(&store, args)),
        Verb::Du(args) => ("du", verb::du::run(&store, args)),
        Verb::Volume(args) => ("volume", verb::volume::run(&store, args)),
        Verb::Fsck(args) => ("fsck", verb::fsck::run(&store, args)),
        Verb::Commit(args) => ("commit", verb::commit::run(&store, args)),
        Verb::Diff(args) => ("diff", verb::diff::run(&store, args)),
        Verb::Export(args) => ("export", verb::export::run(&store, args)),
        Verb::Mount(args) => ("mount", verb::mount::run(&store, args)),
        Verb::Umount(args) => ("umount", verb::umount::run(&store, args)),
        Verb::Bundle(args) => ("bundle", verb::bundle::run(&store, args)),
        Verb::Ids(args) => ("ids", args.pid.map_or_else(rights::be_namespace, rights::map_ids_of)),
        Verb::Network(args) => ("network", verb::network::run(args)),
        Verb::Port(args) => ("port", verb::port::run(args)),
        Verb::Bundles(args) => ("bundles", verb::bundles::run(&store, args)),
        Verb::Unbundle(args) => ("unbundle", verb::unbundle::run(&store, args)),
    }
}

/// The definition of its command line, for man pages and completion.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}
