//! The command line of the standalone shim.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Holds containers: each runs under a small process of its own that keeps its log and its exit status and lets people
/// attach again. Works with any OCI runtime that is called like runc.
#[derive(Debug, Parser)]
#[command(
    name = "shim",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every verb takes, before or after it.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory of the containers [default: `/var/lib/tare/containers`, a user's: `$XDG_DATA_HOME/tare/containers`]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Directory of their sockets [default: `/run/tare/shim`, a user's: `$XDG_RUNTIME_DIR/tare/shim`]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) run_root: Option<PathBuf>,
    /// OCI runtime for new containers: a path, or a name on PATH [default: `$TARE_RUNTIME`, or `runtime`]
    #[arg(long, global = true, value_name = "BINARY")]
    pub(crate) runtime: Option<OsString>,
    /// State directory of that runtime [default: the runtime's own]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) runtime_root: Option<PathBuf>,
    /// Have the runtime manage cgroups through systemd, for new containers
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a container from a bundle
    Run(Run),
    /// List containers
    Ps(Ps),
    /// Print what a container has written
    Logs(Logs),
    /// Attach to a running container (with a terminal, Ctrl-P Ctrl-Q detaches)
    Attach(Attach),
    /// Run a command in a running container
    Exec(Exec),
    /// Stop containers: first by asking, then by force
    Stop(Stop),
    /// Start containers that have ended
    Start(Start),
    /// Wait until containers have ended, and print their exit codes
    Wait(Names),
    /// Remove containers that have ended
    Rm(Rm),
    /// Send a signal to containers
    Kill(Kill),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Return as soon as the container runs, and print its name
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Give the container a stdin
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Name of the container [default: a random one]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Directory with config.json and the root file system
    #[arg(default_value = ".")]
    pub(crate) bundle: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Also list containers that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on printing until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Return as soon as the command runs
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Connect our stdin
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    pub(crate) name: String,
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Seconds between asking and force
    #[arg(short, long, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) time: u32,
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Attach to the container
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Attach our stdin too
    #[arg(short, long)]
    pub(crate) interactive: bool,
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Kill a container that still runs, and remove whatever is left of one that is half dead
    #[arg(short, long)]
    pub(crate) force: bool,
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Signal to send, by name or number
    #[arg(short, long, default_value = "KILL")]
    pub(crate) signal: String,
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}
