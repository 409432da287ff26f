//! The command line: runc's verbs and flags.

mod checkpoint;
pub(crate) mod help;
mod update;

pub(crate) use checkpoint::{CgroupsMode, Checkpoint, Criu, Restore};
pub(crate) use update::Update;

use crate::systemd;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Open Container Initiative runtime
#[derive(Parser)]
#[command(name = "runtime", version = VERSION, disable_version_flag = true)]
pub(crate) struct Cli {
    /// Print the version, and that of the specification
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Three lines, as engines expect them.
const VERSION: &str =
    concat!("version ", env!("CARGO_PKG_VERSION"), "\ncommit: ", env!("TARE_COMMIT"), "\nspec: 1.3.0");

#[derive(Args)]
pub(crate) struct Global {
    /// Where the state of containers is kept [default: /run/tare, or $XDG_RUNTIME_DIR/tare without root]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Append the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// The log's format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Log what is done
    #[arg(long)]
    pub(crate) debug: bool,
    /// Have systemd make the cgroup: linux.cgroupsPath is slice:prefix:name
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Go without a cgroup where the caller may not have one: true, false, or auto, which is true for all but root of the host
    #[arg(long, value_name = "BOOL", default_value = "auto", value_parser = rootless)]
    pub(crate) rootless: Rootless,
}

/// `None` is found out.
pub(crate) type Rootless = Option<bool>;

/// The words that Go takes for truth values, as runc does.
fn rootless(text: &str) -> Result<Rootless, &'static str> {
    match text {
        "auto" | "" => Ok(None),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        _ => Err("is none of true, false, auto"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

// The flags of one verb are wanted, not of all: making them took longer than the rest of a start.
#[derive(Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    /// Make a container, up to the point where its program is started
    Create(Create),
    /// Run the program of a created container
    Start(Id),
    /// Create and start a container
    Run(Run),
    /// Run a further process in a container
    Exec(Box<Exec>),
    /// Print a container's state
    State(Id),
    /// Send a signal to a container [default: SIGTERM]
    Kill(Kill),
    /// Remove a container that has stopped
    Delete(Delete),
    /// List containers
    List(List),
    /// List a container's processes
    Ps(Ps),
    /// Stop all processes of a container
    Pause(Id),
    /// Let a paused container go on
    Resume(Id),
    /// Write a running container to files (by criu)
    Checkpoint(Box<Checkpoint>),
    /// Bring a container back from files (by criu)
    Restore(Box<Restore>),
    /// Print what a container uses, and processes that were killed for want of memory
    Events(Events),
    /// Change a container's limits
    Update(Box<Update>),
    /// Write a configuration to start from
    Spec(Spec),
    /// Print what this runtime supports
    Features,
}

impl Verb {
    /// How many descriptors after standard error the caller passes on.
    pub(crate) fn preserved_fds(&self) -> u32 {
        match self {
            Self::Create(Create { birth, .. }) | Self::Run(Run { birth, .. }) => birth.inherited(),
            Self::Exec(exec) => exec.preserve_fds,
            _ => 0,
        }
    }
}

#[derive(Args)]
pub(crate) struct Id {
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
}

#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) birth: Birth,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
}

// What `create` and `run` share; a doc comment would become the help of both.
#[derive(Args)]
pub(crate) struct Birth {
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// A listening socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// A listening socket that receives a pidfd of init
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// Write init's pid to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Use chroot instead of pivot_root
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Pass this many further descriptors to the container
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) preserve_fds: u32,
}

impl Birth {
    /// How many descriptors after standard error the container inherits: the sockets that systemd listens on for it come first.
    pub(crate) fn inherited(&self) -> u32 {
        systemd::listening().saturating_add(self.preserve_fds)
    }
}

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) birth: Birth,
    /// Leave the container running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not delete the container after its end
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not adopt orphans while waiting
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
}

#[derive(Args)]
#[command(trailing_var_arg = true)]
pub(crate) struct Exec {
    /// A listening socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// A listening socket that receives a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// An environment variable (NAME=VALUE); repeatable
    #[arg(short, long, value_name = "ENV")]
    pub(crate) env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// The user (UID[:GID])
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// A further group; repeatable
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// A file that holds the process's configuration
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Leave the process running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Write the process's pid to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// An AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// An SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// Never gain privileges by exec
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// A further capability (CAP_…); repeatable
    #[arg(short, long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// Pass this many further descriptors to the process
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) preserve_fds: u32,
    /// Run it in an existing cgroup below the container's: PATH, or on cgroup v1 CONTROLLER[,CONTROLLER]:PATH; repeatable
    #[arg(long, value_name = "CGROUP")]
    pub(crate) cgroup: Vec<String>,
    /// Also in a paused container
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Kill {
    /// To every process of the container
    #[arg(short, long)]
    pub(crate) all: bool,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
    /// The signal's name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) signal: String,
}

#[derive(Args)]
pub(crate) struct Delete {
    /// Kill it if it runs; no error if there is none
    #[arg(short, long)]
    pub(crate) force: bool,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
}

#[derive(Args)]
pub(crate) struct List {
    /// table or json
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,
    /// Names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Args)]
#[command(trailing_var_arg = true)]
pub(crate) struct Ps {
    /// table or json
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
    /// Arguments for ps(1) [default: -ef]
    #[arg(value_name = "PS-ARG", allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Events {
    /// The time from one line to the next (500ms, 5s)
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(crate) interval: String,
    /// Print one line and end
    #[arg(long)]
    pub(crate) stats: bool,
    /// The container's name
    #[arg(value_name = "CONTAINER-ID")]
    pub(crate) id: String,
}

#[derive(Args)]
pub(crate) struct Spec {
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// For a caller without root
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_the_command_are_its_own() {
        let cli = Cli::try_parse_from(["runtime", "exec", "-t", "web", "sh", "-c", "exit 1"]).ok().unwrap();
        let Verb::Exec(exec) = cli.verb else { panic!("not exec") };
        assert!(exec.tty);
        assert_eq!((exec.id.as_str(), exec.command.len()), ("web", 3));
        let cli = Cli::try_parse_from(["runtime", "kill", "web", "-9"]).ok().unwrap();
        let Verb::Kill(kill) = cli.verb else { panic!("not kill") };
        assert_eq!(kill.signal, "-9");
    }
}
