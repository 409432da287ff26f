//! `bundle` and its options, which are those of `docker run`.

#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "these comments are the help text, which is no Markdown"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, ValueEnum};

use super::{LayerArgs, RegistryArgs, TrustArgs};
use crate::bundle::{
    Device, Exposed, HealthArgs, HostEntry, Ipc, Network, Origin, Publish, Rlimit, SecurityOpt, UserNs, Volume,
    parse_cpus, parse_memory, parse_mount, parse_range, parse_size, parse_tmpfs,
};

use crate::rights::Range;

/// When `bundle` asks the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    Always,
    #[default]
    Missing,
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The image, by name or ID
    #[arg(value_name = "REF")]
    pub(crate) image: String,
    /// The bundle's directory: absent or empty [default: a new one in the store]
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Command instead of the image's
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
    /// When to ask the registry
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) pull: PullPolicy,
    /// Copy the image's files instead of mounting them with overlayfs
    #[arg(long)]
    pub(crate) copy: bool,
    /// Environment variable; without a value, this process's; may be repeated
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// File of environment variables, one a line; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory; made if it does not exist
    #[arg(short, long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// User and group, names of the image or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Group besides the user's, a name of the image or a number; may be repeated
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Entrypoint instead of the image's; the image's Cmd is dropped
    #[arg(long, value_name = "CMD")]
    pub(crate) entrypoint: Option<String>,
    /// Allocate a terminal: process.terminal of config.json
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Run an init as PID 1 that reaps processes and passes signals on: docker-init, catatonit or tini of this machine
    #[arg(long)]
    pub(crate) init: bool,
    /// The program for that, which must run in the image
    #[arg(long, value_name = "FILE")]
    pub(crate) init_path: Option<PathBuf>,
    /// Host name [default: 12 random hex digits; with --network host, the host's]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Network: none, host, bridge, pasta, the name of a CNI network, a running container's (container:NAME, by its name at the
    /// standalone shim, its id at the runtime, or its bundle's directory), or that at ns:/PATH; what is joined is joined as it is now
    /// [default: none; with -p bridge, a user's pasta]
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub(crate) network: Option<Network>,
    /// Process namespace: private, host, or another's, as for --network: container:NAME-or-DIR, ns:/PATH
    #[arg(long, value_name = "NAMESPACE", default_value = "private", hide_default_value = true)]
    pub(crate) pid: Origin,
    /// IPC namespace and /dev/shm: private, none (no /dev/shm), shareable (others may join), host, container:NAME-or-DIR, ns:/PATH
    #[arg(long, value_name = "NAMESPACE", default_value = "private", hide_default_value = true)]
    pub(crate) ipc: Ipc,
    /// Host name's namespace: private, host, container:NAME-or-DIR, ns:/PATH
    #[arg(long, value_name = "NAMESPACE", default_value = "private", hide_default_value = true)]
    pub(crate) uts: Origin,
    /// Cgroup namespace: private, host, container:NAME-or-DIR, ns:/PATH
    #[arg(long, value_name = "NAMESPACE", default_value = "private", hide_default_value = true)]
    pub(crate) cgroupns: Origin,
    /// Publish a port on the host, FIRST-LAST:CONTAINER at the first that is free when the bundle is made; may be repeated
    #[arg(short, long, value_name = "[[IP:]HOST:]CONTAINER[/PROTOCOL]")]
    pub(crate) publish: Vec<Publish>,
    /// Publish each port that the image or --expose names, as a free port of the host: imgtool port DIR tells which
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Port for --publish-all besides the image's; may be repeated
    #[arg(long, value_name = "PORT[-PORT][/PROTOCOL]")]
    pub(crate) expose: Vec<Exposed>,
    /// Name server instead of the host's; may be repeated
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<std::net::IpAddr>,
    /// Domain in which names are looked for; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// Option for resolv.conf; may be repeated
    #[arg(long, value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,
    /// Line for /etc/hosts; may be repeated
    #[arg(long, value_name = "NAME:IP")]
    pub(crate) add_host: Vec<HostEntry>,
    /// Memory limit, as 512m
    #[arg(short, long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) memory: Option<u64>,
    /// Number of CPUs, as 1.5
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub(crate) cpus: Option<u64>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) pids_limit: Option<i64>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) shm_size: Option<u64>,
    /// Resource limit, as nofile=1024:2048; may be repeated
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<Rlimit>,
    /// Kernel parameter of the container's namespaces; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) sysctl: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Bind mount, named volume (NAME:PATH) or new volume (PATH); may be repeated
    #[arg(short, long = "volume", value_name = "[SOURCE:]CONTAINER[:OPTIONS]")]
    pub(crate) volumes: Vec<Volume>,
    /// Mount, as type=bind,src=/a,dst=/b,ro; types bind, volume, tmpfs; may be repeated
    #[arg(long, value_name = "SPEC", value_parser = parse_mount)]
    pub(crate) mount: Vec<Volume>,
    /// Tmpfs mount, as /run:size=64m,mode=1777; may be repeated
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = parse_tmpfs)]
    pub(crate) tmpfs: Vec<Volume>,
    /// Device of the host, or VENDOR/CLASS=NAME of its CDI specifications; may be repeated
    #[arg(long, value_name = "HOST[:CONTAINER][:rwm]")]
    pub(crate) device: Vec<Device>,
    /// Directory of CDI specifications instead of /etc/cdi and /var/run/cdi; may be repeated, the last counts first
    #[arg(long, value_name = "DIR")]
    pub(crate) cdi_spec_dir: Vec<PathBuf>,
    /// Add a capability, or ALL; may be repeated
    #[arg(long, value_name = "CAP", action = ArgAction::Append, value_delimiter = ',')]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability, or ALL; may be repeated
    #[arg(long, value_name = "CAP", action = ArgAction::Append, value_delimiter = ',')]
    pub(crate) cap_drop: Vec<String>,
    /// All capabilities and devices, no seccomp profile, nothing masked
    #[arg(long)]
    pub(crate) privileged: bool,
    /// seccomp=unconfined|FILE, apparmor=PROFILE, no-new-privileges, systempaths=unconfined, label=disable; may be repeated
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<SecurityOpt>,
    /// User namespace of root's bundle: host (none of its own), auto[:size=N] (a free range of user containers in /etc/subuid and
    /// /etc/subgid), private (auto, or what --uidmap says)
    #[arg(long, value_name = "MODE")]
    pub(crate) userns: Option<UserNs>,
    /// Users of a user namespace, and who they are on the host; may be repeated
    #[arg(long, value_name = "CONTAINER:HOST:SIZE", value_parser = parse_range)]
    pub(crate) uidmap: Vec<Range>,
    /// Groups of it [default: as --uidmap]; may be repeated
    #[arg(long, value_name = "CONTAINER:HOST:SIZE", value_parser = parse_range)]
    pub(crate) gidmap: Vec<Range>,
    /// Label, kept as an annotation; may be repeated
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Annotation of config.json; may be repeated
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) annotation: Vec<String>,
    /// Signal that ends the container, instead of the image's
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) layers: LayerArgs,
}

/// For `imgtool bundle IMAGE CMD ARG`, where the words of a command are taken for a directory and one too many.
pub(super) fn hint(error: &clap::Error, words: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else { return None };
    let at = words.iter().position(|word| word == "bundle")?;
    // What comes before the verb.
    let is_the_verb = match &words[..at] {
        [_] => true,
        [_, root] => root.to_str().is_some_and(|root| root.starts_with("--root=")),
        [_, root, _] => root == "--root",
        _ => false,
    };
    let words: Vec<&str> = words[at + 1..].iter().filter_map(|word| word.to_str()).collect();
    let is_a_word = error.kind() == ErrorKind::UnknownArgument && !unknown.starts_with('-');
    if !is_the_verb || !is_a_word || !words.contains(&unknown.as_str()) || words.contains(&"--") {
        return None;
    }
    let example = match words.as_slice() {
        [image, command @ ..] if !words.iter().any(|word| word.starts_with('-')) => {
            format!("{image} -- {}", command.join(" "))
        }
        _ => "REF [DIR] -- CMD".to_owned(),
    };
    Some(format!("the command comes after --: imgtool bundle {example}"))
}
