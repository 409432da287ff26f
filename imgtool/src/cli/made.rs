//! What is done with a bundle that is there.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ListFormat;
use crate::archive::LayerCompression;
use crate::bundle::Exposed;
use crate::reference::Reference;

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// The bundle's directory
    #[arg(value_name = "BUNDLE")]
    pub(crate) bundle: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME")]
    pub(crate) reference: Reference,
    /// Dockerfile instruction for the image's config, as 'CMD ["sh"]' or 'ENV A=b'; may be repeated
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    pub(crate) changes: Vec<String>,
    /// Comment in the image's history
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// Author of the image
    #[arg(short, long)]
    pub(crate) author: Option<String>,
    /// How the layer is compressed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compression: LayerCompression,
    /// Level of the compression: gzip 1 to 9, zstd 1 to 22 [default: 3]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) compression_level: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The bundle's directory
    #[arg(value_name = "BUNDLE")]
    pub(crate) bundle: PathBuf,
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The bundle's directory
    #[arg(value_name = "BUNDLE")]
    pub(crate) bundle: PathBuf,
    /// The tar to write
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// The bundles' directories
    #[arg(value_name = "BUNDLE", required = true)]
    pub(crate) bundles: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkVerb {
    Up,
    Down,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    #[arg(value_enum)]
    pub(crate) verb: NetworkVerb,
    /// The bundle's directory
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct UnbundleArgs {
    /// The bundles' directories
    #[arg(value_name = "DIR", required = true)]
    pub(crate) directories: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// The bundle's directory
    #[arg(value_name = "BUNDLE")]
    pub(crate) bundle: PathBuf,
    /// Only this port of the container, as 80 or 53/udp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub(crate) port: Option<Exposed>,
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}
