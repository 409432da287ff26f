//! The verbs that speak to registries.

#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "these comments are the help text, which is no Markdown"
)]

use std::path::PathBuf;

use clap::Args;

use super::{ListFormat, ProgressArgs, RegistryArgs};
use crate::bundle::parse_size;
use crate::platform::Platform;
use crate::reference::Reference;

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The image, by name or ID
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Where to [default: the image's name]
    #[arg(value_name = "REF")]
    pub(crate) target: Option<Reference>,
    /// Send blobs in chunks of this size instead of whole
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) chunk_size: Option<u64>,
    /// Write the digest to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) digestfile: Option<PathBuf>,
    /// Blobs to work on at the same time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) parallel: u8,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// REF or docker://REF, oci:DIR[:NAME], oci-archive:FILE, docker-archive:FILE, store:IMAGE
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// REF or docker://REF, oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// All platforms of an index, and the index
    #[arg(short, long, conflicts_with = "platform")]
    pub(crate) all: bool,
    /// Platform to take of an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Most that an archive may unpack to [default: 128g, and 200 times its size above 1g]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<u64>,
    /// Signatures, SBOMs and other referrers too
    #[arg(long)]
    pub(crate) referrers: bool,
    /// Send blobs in chunks of this size instead of whole
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) chunk_size: Option<u64>,
    /// Blobs to work on at the same time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) parallel: u8,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TagsArgs {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    pub(crate) repository: Reference,
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReferrersArgs {
    /// The image
    #[arg(value_name = "REF")]
    pub(crate) reference: Reference,
    /// How the list is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The image: its manifest goes, with all tags that it has
    #[arg(value_name = "REF")]
    pub(crate) reference: Reference,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry, as registry.example:5000
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(crate) server: String,
    /// User name [default: asked for on a terminal]
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Password; other users of this machine can see it here
    #[arg(short, long)]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long, conflicts_with = "password")]
    pub(crate) password_stdin: bool,
    /// File to keep it in [default: $REGISTRY_AUTH_FILE, or config.json of Docker]
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// Verify the registry's certificate; with `false`, fall back to plain HTTP too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) tls_verify: Option<bool>,
    /// Speak plain HTTP (to this machine it is the default)
    #[arg(long)]
    pub(crate) plain_http: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry, as registry.example:5000
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(crate) server: String,
    /// File to take it from [default: $REGISTRY_AUTH_FILE, or config.json of Docker]
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
}
