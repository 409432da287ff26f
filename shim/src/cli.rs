//! The command line of the standalone shim.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::solo::health::GoDuration;
use crate::solo::policy::{LogDriver, RestartPolicy};
use crate::solo::sdnotify::Mode;
use crate::solo::terminal::DetachKeys;

/// Holds containers: each runs under a small process of its own that keeps its log and its exit status and lets people
/// attach again. Works with any OCI runtime that is called like runc.
#[derive(Debug, Parser)]
#[command(name = "shim", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
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
    Run(Box<Run>),
    /// List containers
    #[command(visible_alias = "ls")]
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
    /// Stop containers and start them again
    Restart(Stop),
    /// Freeze containers
    Pause(Names),
    /// Thaw frozen containers
    Unpause(Names),
    /// Wait until containers have ended, and print their exit codes
    Wait(Names),
    /// Remove containers that have ended
    Rm(Rm),
    /// Send a signal to containers
    Kill(Kill),
    /// Print everything that is known of containers, as JSON
    Inspect(Names),
    /// List a container's processes
    Top(Top),
    /// Show what containers use
    Stats(Stats),
    /// Change a container's limits and restart policy
    Update(Update),
    /// Print what happens to containers as it happens
    Events(Events),
    /// Rename a container that does not run
    Rename(Rename),
    /// Remove all containers that have ended
    Prune(Prune),
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
    /// When to run it again: `no`, `on-failure[:TIMES]`, `always` or `unless-stopped`
    #[arg(long, default_value = "no", value_name = "POLICY")]
    pub(crate) restart: RestartPolicy,
    /// Where its output is kept: `json-file`, `k8s-file`, `journald` or `none`
    #[arg(long, default_value = "json-file", value_name = "DRIVER")]
    pub(crate) log_driver: LogDriver,
    /// `max-size=BYTES[k|m|g]` of a log file, `max-file=NUMBER` of them
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// Keys that detach
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<DetachKeys>,
    /// Signal that asks it to end [default: what the image says, or TERM]
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds that `stop` gives it
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) stop_timeout: u32,
    /// Where to write the pid of its init
    #[arg(long, visible_alias = "pid-file", value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    /// Who tells the service manager (by `$NOTIFY_SOCKET`) that it is ready
    #[arg(long, value_enum, default_value_t = Mode::Ignore, value_name = "WHO")]
    pub(crate) sdnotify: Mode,
    /// Directory with config.json and the root file system
    #[arg(default_value = ".", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) bundle: PathBuf,
}

/// What the bundle says of its health check (`org.tare.healthcheck`) is the default.
#[derive(Debug, Default, Args)]
pub(crate) struct HealthArgs {
    /// Command, for a shell in the container, that tells by its exit code whether it is well
    #[arg(long, value_name = "COMMAND")]
    pub(crate) health_cmd: Option<String>,
    /// Time between two checks, such as 30s (the default)
    #[arg(long, value_name = "TIME")]
    pub(crate) health_interval: Option<GoDuration>,
    /// Time that one check may take [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub(crate) health_timeout: Option<GoDuration>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "TIME")]
    pub(crate) health_start_period: Option<GoDuration>,
    /// Time between two checks until then, unless one succeeds [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub(crate) health_start_interval: Option<GoDuration>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) health_retries: Option<u32>,
    /// No health check, whatever the bundle says
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
}

impl HealthArgs {
    /// Whether one of them changes a check.
    pub(crate) fn names_any(&self) -> bool {
        let times = [self.health_interval, self.health_timeout, self.health_start_period, self.health_start_interval];
        times.iter().any(Option::is_some) || self.health_retries.is_some()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Also list containers that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Only those for which this holds: `name=TEXT`, `health=starting|healthy|unhealthy|none` or
    /// `status=running|paused|restarting|exited|dead|created`
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Print commands whole
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// How lists are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on printing until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print the time of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Print only this many lines from the end, or `all`
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<String>,
    /// Print only what was written since then: a time (2026-01-02T03:04:05Z), seconds since 1970, or an age (10m, 1h30m)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Print only what was written before then
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Do not connect our stdin
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Pass signals on to the container, which the third one ends only us; `--sig-proxy=false` lets the first do so
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) sig_proxy: bool,
    /// Keys that detach
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<DetachKeys>,
    pub(crate) name: String,
}

#[derive(Debug, Default, Args)]
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
    /// User of the command: NAME or UID, with `:GROUP` if not the user's own
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Working directory of the command
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// A variable for the command: NAME=VALUE, or NAME to pass our own on
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Give the command all capabilities that we have
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Keys that detach: the command goes on
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<DetachKeys>,
    pub(crate) name: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Seconds between asking and force [default: what the container was run with]
    #[arg(short, long, value_name = "SECONDS")]
    pub(crate) time: Option<u32>,
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

#[derive(Debug, Args)]
pub(crate) struct Top {
    pub(crate) name: String,
    /// Options of ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Print once
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// [default: all that run]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Most memory, in bytes or with k, m, g; -1: no limit
    #[arg(short, long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Most memory and swap together
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// How many processors' time it may use, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<f64>,
    /// Share of processor time relative to others
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpu_shares: Option<u64>,
    /// Processors that it may use, such as 0-3,6
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Most processes; -1: no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// When to run it again: `no`, `on-failure[:TIMES]`, `always` or `unless-stopped`
    #[arg(long, value_name = "POLICY")]
    pub(crate) restart: Option<RestartPolicy>,
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Rename {
    pub(crate) name: String,
    pub(crate) new_name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
}
