//! An image under construction: its layers, its config, and the variables that its next step sees.

use std::collections::BTreeMap;

use super::env::Env;
use crate::archive::as_oci;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout::{Image, Layer};
use crate::oci::{self, Descriptor, Execution, History, ImageConfig, RootFs};
use crate::platform::Platform;

pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What Docker's builder leaves in the history.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// What the shell form of an instruction is run by.
pub(super) fn shell(config: &Execution) -> Vec<String> {
    let shell = config.shell.clone().filter(|shell| !shell.is_empty());
    shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
}

/// `path`, from `workdir`.
pub(super) fn absolute(workdir: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{workdir}/{path}") };
    format!("/{}", super::ignore::clean(&whole))
}

/// The state after a step.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) config: ImageConfig,
    /// Unpacked, the lowest first.
    pub(crate) layers: Vec<Layer>,
    /// The blobs of the same layers.
    pub(crate) blobs: Vec<Descriptor>,
    /// ENV and ARG.
    pub(crate) env: Env,
    /// Those of ARG alone, for the history of RUN.
    pub(crate) args: Vec<(String, Option<String>)>,
}

impl State {
    /// `FROM scratch`.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            os_version: platform.os_version.clone(),
            config: Execution { working_dir: "/".to_owned(), ..Execution::default() },
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() },
            ..ImageConfig::default()
        };
        Self { config, layers: Vec::new(), blobs: Vec::new(), env: Env::default(), args: Vec::new() }
    }

    /// An image of the store.
    pub(crate) fn of(image: &Image, layers: Vec<Layer>) -> Self {
        let mut config = image.config.clone();
        config.created = None;
        Self {
            config,
            layers,
            blobs: image.manifest.layers.iter().map(as_oci).collect(),
            env: Env::default(),
            args: Vec::new(),
        }
    }

    /// What a stage that stands on this one begins with.
    pub(crate) fn begin(mut self) -> Self {
        let config = &mut self.config.config;
        if !config.env.iter().flatten().any(|entry| entry.starts_with("PATH=")) {
            config.env.get_or_insert_default().push(format!("PATH={DEFAULT_PATH}"));
        }
        for entry in config.env.iter().flatten() {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            self.env.set(key, value);
        }
        self
    }

    /// What stands for all layers: the chain ID of the topmost one.
    pub(crate) fn chain(&self) -> String {
        let chain = self
            .config
            .rootfs
            .diff_ids
            .iter()
            .fold(None, |below: Option<Digest>, diff_id| Some(Digest::chain(below.as_ref(), diff_id)));
        chain.map_or_else(|| "scratch".to_owned(), |chain| chain.to_string())
    }

    /// The chain ID, as a digest.
    pub(crate) fn chain_id(&self) -> Option<Digest> {
        self.chain().parse().ok()
    }

    pub(crate) fn workdir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }

    /// A path as an instruction gives it, from the working directory.
    pub(crate) fn absolute(&self, path: &str) -> String {
        absolute(self.workdir(), path)
    }

    /// Adds a line to the history; without a layer if the step made none.
    pub(crate) fn commit(&mut self, created_by: String, created: Option<&str>, layer: bool) {
        self.config.history.push(History {
            created: created.map(str::to_owned),
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: (!layer).then_some(true),
            ..History::default()
        });
    }

    /// Refuses what would be an image that nobody reads: every instruction has a line.
    pub(crate) fn check_size(&self) -> Result<()> {
        let bytes =
            self.config.history.iter().filter_map(|step| step.created_by.as_ref()).map(String::len).sum::<usize>();
        oci::check_config_size(bytes as u64)
    }

    /// Adds a layer.
    pub(crate) fn push(&mut self, layer: Layer, descriptor: Descriptor) {
        self.config.rootfs.diff_ids.push(layer.record.diff_id.clone());
        self.layers.push(layer);
        self.blobs.push(descriptor);
    }

    /// The history of RUN tells the arguments that it saw.
    pub(crate) fn run_history(&self, words: &[String]) -> String {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut args: Vec<String> = Vec::new();
        for (key, value) in &self.args {
            let value = self.env.get(key).or(value.as_deref()).unwrap_or_default();
            let entry = format!("{key}={value}");
            if let Some(&at) = seen.get(key.as_str()) {
                args[at] = entry;
            } else {
                seen.insert(key, args.len());
                args.push(entry);
            }
        }
        if !args.is_empty() {
            args.insert(0, format!("|{}", args.len()));
        }
        args.extend_from_slice(words);
        format!("RUN {} # buildkit", args.join(" "))
    }
}
