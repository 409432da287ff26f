//! What is asked of the store: lists, names, tidying.

use clap::{Args, ValueEnum};

use crate::reference::Reference;
use crate::verb::filter::ImageFilter;

/// How a list is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only this repository or image
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// All images, as always
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only some: reference=PATTERN, dangling=true|false, label=KEY[=VALUE], before=IMAGE, since=IMAGE; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<ImageFilter>,
    /// Only IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// IDs and digests in full
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The images, by name or ID
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// How they are shown: JSON is the only form
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The images, by name or ID
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Remove the name of an image that a bundle uses too (the bundle keeps its layers), and all names of an ID
    #[arg(short, long)]
    pub(crate) force: bool,
    /// How the removed is listed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The image, by name or ID
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// The other name
    #[arg(value_name = "NAME")]
    pub(crate) name: Reference,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The image, by name or ID
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Commands in full
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// All images that no bundle stands on, not only those without a name
    #[arg(short, long)]
    pub(crate) all: bool,
    /// What builds kept too: layers of their steps, and directories of RUN --mount=type=cache
    #[arg(long)]
    pub(crate) build_cache: bool,
    /// Do not ask first, which is done on a terminal only
    #[arg(short, long)]
    pub(crate) force: bool,
    /// How the removed is listed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct BundlesArgs {
    /// Only directories
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Take away what is damaged, so that the next pull, load or bundle makes it anew
    #[arg(long)]
    pub(crate) repair: bool,
    /// How the faults are listed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}
