//! `volume` and what is done with volumes, in Docker's words.

use clap::{Args, Subcommand};

use super::ListFormat;

#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    pub(crate) verb: VolumeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(VolumeLsArgs),
    /// Make an empty volume, and print its name
    Create(VolumeCreateArgs),
    /// Show all that is known of volumes, as JSON
    Inspect(VolumeInspectArgs),
    /// Remove volumes that no bundle uses
    #[command(visible_alias = "remove")]
    Rm(VolumeRmArgs),
    /// Remove the volumes without a name of their own that no bundle uses
    Prune(VolumePruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VolumeLsArgs {
    /// Only names
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Only some: dangling=true (that no bundle uses), dangling=false, name=PART; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<VolumeFilter>,
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// One `--filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeFilter {
    Dangling(bool),
    Name(String),
}

impl std::str::FromStr for VolumeFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("dangling", "true" | "1")) => Ok(Self::Dangling(true)),
            Some(("dangling", "false" | "0")) => Ok(Self::Dangling(false)),
            Some(("name", part)) => Ok(Self::Name(part.to_owned())),
            _ => Err("want dangling=true, dangling=false or name=PART".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreateArgs {
    /// The name [default: 64 random hex digits]
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeInspectArgs {
    /// The volumes
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeRmArgs {
    /// The volumes
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// A volume that is not there is no failure
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumePruneArgs {
    /// Those with a name too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not ask first, which is done on a terminal only
    #[arg(short, long)]
    pub(crate) force: bool,
}
