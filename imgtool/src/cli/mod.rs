//! The command line: one definition gives the parser and its help.

#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "these comments are the help text, which is no Markdown"
)]

mod build;
mod bundle;
mod made;
mod remote;
mod store;
mod volume;

pub(crate) use build::BuildArgs;
pub(crate) use bundle::{BundleArgs, PullPolicy};
pub(crate) use made::{CommitArgs, DiffArgs, ExportArgs, MountArgs, NetworkArgs, NetworkVerb, PortArgs, UnbundleArgs};
pub(crate) use remote::{CopyArgs, DeleteArgs, LoginArgs, LogoutArgs, PushArgs, ReferrersArgs, TagsArgs};
pub(crate) use store::{
    BundlesArgs, DuArgs, FsckArgs, HistoryArgs, ImagesArgs, InspectArgs, ListFormat, PruneArgs, RmArgs, TagArgs,
};

pub(crate) use volume::{VolumeArgs, VolumeFilter, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs, VolumeVerb};

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

use crate::archive::Format;
use crate::bundle::parse_size;
use crate::error::Result;
use crate::layer::Limits;
use crate::platform::Platform;
use crate::progress::{Form, Progress};
use crate::reference::Reference;
use crate::registry::{Access, Credential};
use crate::trust::Key;

use crate::archive::LayerCompression;

/// Pull, keep and run container images: from a registry to a bundle for any OCI runtime, without a daemon.
#[derive(Debug, Parser)]
#[command(name = "imgtool", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The image store [default: /var/lib/tare/images, or $XDG_DATA_HOME/tare/images for users]
    #[arg(long, global = true, value_name = "STORE")]
    pub(crate) root: Option<PathBuf>,
    /// This process builds, in this directory, for the one that started it
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) builder: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Cli {
    /// What the words mean. Whoever is used to `docker run` is told where the command stands.
    pub(crate) fn read(words: &[OsString]) -> clap::error::Result<Self> {
        Self::try_parse_from(words).map_err(|mut e| {
            if let Some(hint) = bundle::hint(&e, words).or_else(|| others_verb(&e)) {
                e.remove(ContextKind::SuggestedSubcommand);
                e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
            }
            e
        })
    }
}

/// Prints help, or what is wrong with the words. Who gives none is shown what there is, as by docker, and that is no failure.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed stream.
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && std::env::args_os().len() < 2 {
        let _ = write!(std::io::stdout(), "{}", error.render());
        return ExitCode::SUCCESS;
    }
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(u8::MAX))
}

/// Verbs of `docker` that are about containers.
const CONTAINERS: [&str; 19] = [
    "attach",
    "container",
    "cp",
    "create",
    "exec",
    "kill",
    "logs",
    "pause",
    "ps",
    "rename",
    "restart",
    "run",
    "start",
    "stats",
    "stop",
    "top",
    "unpause",
    "update",
    "wait",
];

fn others_verb(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    CONTAINERS
        .contains(&verb.as_str())
        .then(|| "containers are the shim's: shim run $(imgtool bundle IMAGE)".to_owned())
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for the whole run")]
pub(crate) enum Verb {
    /// Get an image from a registry
    Pull(PullArgs),
    /// Send an image of the store to a registry
    Push(PushArgs),
    /// Copy an image between registries, OCI layouts and archives, byte for byte
    Copy(CopyArgs),
    /// List the tags of a repository
    Tags(TagsArgs),
    /// List what refers to an image of a registry: signatures, SBOMs, attestations
    Referrers(ReferrersArgs),
    /// Delete an image from a registry
    Delete(DeleteArgs),
    /// Check a user name and password with a registry, and keep them
    Login(LoginArgs),
    /// Forget the login of a registry
    Logout(LogoutArgs),
    /// Make an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Make an image from the tar of a root file system
    Import(ImportArgs),
    /// Read images from an OCI or Docker archive, or an OCI layout
    Load(LoadArgs),
    /// Write images to an OCI or Docker archive
    Save(SaveArgs),
    /// List images
    Images(ImagesArgs),
    /// Show all that is known of images, as JSON
    Inspect(InspectArgs),
    /// Remove images, and what only they used
    #[command(visible_alias = "rmi")]
    Rm(RmArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Show the steps that an image was made by
    History(HistoryArgs),
    /// Remove images without a name, and whatever nothing uses
    Prune(PruneArgs),
    /// Show what takes the room in the store
    Du(DuArgs),
    /// List, make and remove volumes that outlive bundles
    Volume(VolumeArgs),
    /// Find damage in the store, and mend it
    Fsck(FsckArgs),
    /// Make an image of what a bundle's container changed
    Commit(CommitArgs),
    /// List what a bundle's container changed
    Diff(DiffArgs),
    /// Write a bundle's root file system as a tar
    Export(ExportArgs),
    /// Mount bundles again, as after a restart of the machine
    Mount(MountArgs),
    /// Unmount bundles; what their containers changed stays
    Umount(MountArgs),
    /// Make a bundle (root file system and config.json) of an image, and print its path
    Bundle(BundleArgs),
    /// Show which ports of the host are a bundle's
    Port(PortArgs),
    /// List bundles
    Bundles(BundlesArgs),
    /// Unmount and remove bundles
    Unbundle(UnbundleArgs),
    /// Connect a bundle's container with its network: the bundle's hooks call this
    #[command(hide = true)]
    Network(NetworkArgs),
    /// Map ids into the user namespace of an imgtool that waits for it
    #[command(hide = true)]
    Ids(IdsArgs),
}

/// How registries are reached.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Verify the registry's certificate; with `false`, fall back to plain HTTP too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) tls_verify: Option<bool>,
    /// Speak plain HTTP (to this machine it is the default)
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Credentials for the registry, instead of those of docker, podman or skopeo
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) creds: Option<Credential>,
    /// File with credentials [default: $REGISTRY_AUTH_FILE, containers/auth.json, ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
}

impl RegistryArgs {
    pub(crate) fn access(&self) -> Access {
        Access {
            tls_verify: self.tls_verify,
            plain_http: self.plain_http,
            credential: self.creds.clone(),
            authfile: self.authfile.clone(),
            keys: Vec::new(),
        }
    }
}

/// Which images are taken.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// Take the image only if the owner of this public key has signed it with cosign; of several keys, one
    #[arg(long, value_name = "FILE")]
    verify_key: Vec<PathBuf>,
}

impl TrustArgs {
    /// The same access, to signed images only.
    pub(crate) fn over(&self, access: Access) -> Result<Access> {
        let keys = self.verify_key.iter().map(|file| Key::read(file)).collect::<Result<_>>()?;
        Ok(Access { keys, ..access })
    }
}

/// What is told of long work, on stderr.
#[derive(Debug, Args)]
pub(crate) struct ProgressArgs {
    /// Bars on a terminal and lines elsewhere (auto), bar, plain, json, or none
    #[arg(long, value_name = "FORM", value_enum, default_value_t, hide_possible_values = true)]
    progress: Form,
    /// No progress on stderr
    #[arg(short, long)]
    quiet: bool,
}

impl ProgressArgs {
    pub(crate) fn make(&self) -> Progress {
        Progress::new(self.form())
    }

    pub(crate) fn form(&self) -> Form {
        if self.quiet { Form::None } else { self.progress }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.progress == Form::Json
    }
}

/// How layers are unpacked.
#[derive(Debug, Args)]
pub(crate) struct LayerArgs {
    /// Platform of the image, as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Layers to work on at the same time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) parallel: u8,
    /// Most that one layer may unpack to [default: 128g, and 200 times its compressed size above 1g]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_layer_size: Option<u64>,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
}

impl LayerArgs {
    pub(crate) fn limits(&self) -> Limits {
        self.max_layer_size.map_or_else(Limits::default, Limits::of_size)
    }

    pub(crate) fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image, as debian:bookworm or registry.example:5000/team/app@sha256:...
    #[arg(value_name = "REF")]
    pub(crate) reference: Reference,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) layers: LayerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The tar, plain or compressed by gzip or zstd; - is standard input
    #[arg(value_name = "TAR")]
    pub(crate) input: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME")]
    pub(crate) reference: Reference,
    /// Dockerfile instruction for the image's config, as 'CMD ["sh"]' or 'ENV A=b'; may be repeated
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    pub(crate) changes: Vec<String>,
    /// Comment in the image's history
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// How the layer is compressed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compression: LayerCompression,
    /// Level of the compression: gzip 1 to 9, zstd 1 to 22 [default: 3]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) compression_level: Option<i32>,
    #[command(flatten)]
    pub(crate) layers: LayerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive, plain or compressed by gzip or zstd, or the directory of an OCI layout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
    /// Name for the archive's one image, instead of its own
    #[arg(long, value_name = "REF")]
    pub(crate) name: Option<Reference>,
    /// Platform to take where the archive has several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Most that the archive may unpack to [default: 128g, and 200 times its size above 1g]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<u64>,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The images, by name or ID
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// The archive to write
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// Form of the archive
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
}

#[derive(Debug, Args)]
pub(crate) struct IdsArgs {
    /// Without one, this process makes a namespace for the imgtool that called it
    pub(crate) pid: Option<u32>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let cli = Cli::try_parse_from(["imgtool", "bundle", "x", "-e", "A=b", "--", "sh", "-c", "exit 1"]).unwrap();
        let Verb::Bundle(args) = cli.verb else { panic!("bundle") };
        assert_eq!((args.command.len(), args.directory), (3, None));
        let said =
            |words: &[&str]| Cli::read(&words.iter().map(OsString::from).collect::<Vec<_>>()).unwrap_err().to_string();
        let hint = "the command comes after --: imgtool bundle x -- sleep 10";
        assert!(said(&["imgtool", "bundle", "x", "sleep", "10"]).contains(hint));
        let hint = "the command comes after --: imgtool bundle REF [DIR] -- CMD";
        assert!(said(&["imgtool", "--root", "/s", "bundle", "-e", "A=b", "x", "sleep", "10"]).contains(hint));
        for other in [
            &["imgtool", "bundle", "x", "--no-such"][..],
            &["imgtool", "unbundle", "--", "--no"],
            &["imgtool", "tag", "bundle", "b", "c"],
        ] {
            let said = Cli::read(&other.iter().map(OsString::from).collect::<Vec<_>>()).err().map(|e| e.to_string());
            assert!(!said.unwrap_or_default().contains("comes after"), "{other:?}");
        }
        let run = said(&["imgtool", "run", "x"]);
        assert!(run.contains("containers are the shim's") && !run.contains("prune"), "{run}");
        assert!(!said(&["imgtool", "prun"]).contains("shim"));
        assert!(Cli::try_parse_from(["imgtool", "pull", "BAD/../x"]).is_err());
        for flag in ["--tls-verify=false", "--tls-verify", "--tls-verify=true"] {
            assert!(Cli::try_parse_from(["imgtool", "pull", flag, "x"]).is_ok());
        }
    }
}
