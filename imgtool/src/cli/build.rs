//! `build` and its options, which are those of `docker build`.

#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "these comments are the help text, which is no Markdown"
)]

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{ProgressArgs, PullPolicy, RegistryArgs};
use crate::archive::LayerCompression;
use crate::build::{Allow, Attest, CachePlace, Call, Detail, Named, Output, SbomForm, Secret, Ssh, detail, sbom_form};
use crate::bundle::{HostEntry, Rlimit, parse_cpus, parse_size};
use crate::platform::Platform;
use crate::reference::Reference;

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The context: a directory, a git repository, the URL of a tar, or - for a tar or a Dockerfile on standard input
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub(crate) context: String,
    /// Name of the image; may be repeated
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: Vec<Reference>,
    /// The Dockerfile; - is standard input [default: Dockerfile or Containerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Stage to build, by name or number [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Argument for ARG; without a value, this process's variable; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// Another context, for FROM, COPY --from and RUN --mount=from: NAME=DIR, a git repository, the URL of a tar,
    /// docker-image://REF or oci-layout://DIR
    #[arg(long, value_name = "NAME=CONTEXT", value_parser = named_context)]
    pub(crate) build_context: Vec<(String, Named)>,
    /// Platform to build for; several make an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub(crate) platform: Vec<Platform>,
    /// Do every step anew
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Do the steps of this stage anew; may be repeated
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Cache to read: type=local,src=DIR or type=registry,ref=REF, a cache or an image that has its own; may be repeated
    #[arg(long, value_name = "PLACE")]
    pub(crate) cache_from: Vec<CachePlace>,
    /// Cache to write: type=local,dest=DIR or type=registry,ref=REF, with mode=max for all stages, or type=inline (in the
    /// image itself); may be repeated
    #[arg(long, value_name = "PLACE")]
    pub(crate) cache_to: Vec<CachePlace>,
    /// Secret for RUN --mount=type=secret: id=NAME[,src=FILE|,env=VARIABLE]; may be repeated
    #[arg(long, value_name = "SECRET")]
    pub(crate) secret: Vec<Secret>,
    /// Agent for RUN --mount=type=ssh: default, or ID=SOCKET or ID=KEY[,KEY]; may be repeated
    #[arg(long, value_name = "AGENT")]
    pub(crate) ssh: Vec<Ssh>,
    /// Where the result goes: DIR, - (a tar), or type=store|registry|oci|docker|local|tar,dest=PATH; may be repeated
    /// [default: type=store]
    #[arg(short, long, value_name = "OUTPUT")]
    pub(crate) output: Vec<Output>,
    /// Send it to the registry of its name: --output type=registry
    #[arg(long)]
    pub(crate) push: bool,
    /// Keep it in the store too, besides other outputs
    #[arg(long)]
    pub(crate) load: bool,
    /// Label of the image; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Annotation of the manifest; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Attach a list of the packages in the image: spdx (true) or cyclonedx
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "spdx", value_parser = sbom)]
    sbom: Option<Attestation<SbomForm>>,
    /// Attach how it was built: mode=min (true), or mode=max with arguments and Dockerfile
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "mode=min", value_parser = provenance)]
    provenance: Option<Attestation<Detail>>,
    /// The same, as type=sbom or type=provenance,mode=max; may be repeated
    #[arg(long, value_name = "ATTESTATION")]
    attest: Vec<Attest>,
    /// Write the image's digest to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write what was built to this file, as JSON with the keys of docker buildx
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// When to ask the registry for base images
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", num_args = 0..=1, default_missing_value = "always", require_equals = true)]
    pub(crate) pull: PullPolicy,
    /// What to do with the Dockerfile: build, check, outline (what the target can be given) or targets, with
    /// ,format=json for programs
    #[arg(long, value_name = "METHOD", default_value = "build", overrides_with = "check")]
    call: Call,
    /// Only look for mistakes in the Dockerfile: --call=check
    #[arg(long, overrides_with = "call")]
    check: bool,
    /// Network of RUN: default (one of its own, by the CNI plugins or pasta, whichever is there), none or host
    #[arg(long, value_name = "NETWORK", default_value = "default", value_parser = ["default", "none", "host"])]
    pub(crate) network: String,
    /// Allow RUN --network=host (network.host), --security=insecure (security.insecure) or --device (device, or
    /// device=NAME for one); may be repeated
    #[arg(long, value_name = "WHAT")]
    pub(crate) allow: Vec<Allow>,
    /// Directory of CDI specifications of devices instead of /etc/cdi and /var/run/cdi; may be repeated, the last
    /// counts first
    #[arg(long, value_name = "DIR")]
    pub(crate) cdi_spec_dir: Vec<PathBuf>,
    /// Line for /etc/hosts of RUN; may be repeated
    #[arg(long, value_name = "NAME:IP")]
    pub(crate) add_host: Vec<HostEntry>,
    /// Name server of RUN instead of the host's; may be repeated
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<std::net::IpAddr>,
    /// Memory limit of RUN, as 512m
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
    /// Number of CPUs of RUN, as 1.5
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    pub(crate) cpus: Option<u64>,
    /// Size of /dev/shm of RUN [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) shm_size: Option<u64>,
    /// Resource limit of RUN, as nofile=1024:2048; may be repeated
    #[arg(long, value_name = "NAME=SOFT[:HARD]", action = ArgAction::Append)]
    pub(crate) ulimit: Vec<Rlimit>,
    /// How layers are compressed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compression: LayerCompression,
    /// Level of the compression: gzip 1 to 9, zstd 1 to 22 [default: 3]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) compression_level: Option<i32>,
    /// OCI runtime for RUN: a path, or a name on PATH [default: $TARE_RUNTIME, or runtime beside imgtool]
    #[arg(long, value_name = "PATH")]
    pub(crate) runtime: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

impl BuildArgs {
    /// What is to be attached. The short flags count above the long one.
    pub(crate) fn attestations(&self) -> (Option<SbomForm>, Option<Detail>) {
        let (mut sbom, mut provenance) = (None, None);
        for attest in &self.attest {
            match attest {
                Attest::Sbom(form) => sbom = *form,
                Attest::Provenance(detail) => provenance = *detail,
            }
        }
        (self.sbom.map_or(sbom, |asked| asked.0), self.provenance.map_or(provenance, |asked| asked.0))
    }

    /// What is asked for: the last of `--call` and `--check` counts.
    pub(crate) fn call(&self) -> Call {
        let call = if self.check { Call::CHECK } else { self.call };
        Call { json: call.json || self.progress.is_json(), ..call }
    }
}

/// Asked for, or asked not to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attestation<T>(pub(crate) Option<T>);

fn sbom(text: &str) -> crate::error::Result<Attestation<SbomForm>> {
    sbom_form(text).map(Attestation)
}

fn provenance(text: &str) -> crate::error::Result<Attestation<Detail>> {
    detail(text).map(Attestation)
}

fn named_context(text: &str) -> crate::error::Result<(String, Named)> {
    match text.split_once('=') {
        Some((name, context)) if !name.is_empty() && !context.is_empty() => Ok((name.to_owned(), context.parse()?)),
        _ => Err(crate::error::Error::malformed(format!("{text}: want NAME=CONTEXT"))),
    }
}
