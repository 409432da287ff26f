//! What becomes of a build: images in the store, what goes to other places, files for programs.

use std::sync::Arc;

use super::args;
use super::attest::Statement;
use super::builder::Builder;
use super::display::Display;
use super::exchange::{self, Place as CachePlace};
use super::output::{Built, Output, Sender};
use super::source::Result;
use super::state::State;
use super::workspace::Workspace;
use super::{attest, metadata};
use crate::cli::BuildArgs as Cli;
use crate::error::Step;
use crate::layout::{Image, Store};
use crate::oci::{self, Descriptor, Index, Manifest};
use crate::platform::Platform;

/// What was built for one platform, and by whom.
pub(super) type Made = (Arc<Builder>, Arc<State>);

/// Writes the images of all platforms, and the index of several.
pub(super) fn images(store: &Store, cli: &Cli, dockerfile: &str, made: &[Made]) -> Result<Built> {
    let asked = made.first().map(|(builder, _)| args::switch(&builder.args, "BUILDKIT_INLINE_CACHE")).transpose()?;
    let inline = asked == Some(true) || cli.cache_to.iter().any(CachePlace::is_inline);
    let mut images = Vec::new();
    for (builder, state) in made {
        let mut config = state.config.clone();
        for label in &cli.label {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            config.config.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        }
        if let Some(epoch) = builder.epoch {
            let time = crate::time::rfc3339(u64::try_from(epoch).unwrap_or(0));
            config.created = Some(time.clone());
        }
        if config.created.is_none() {
            // Nothing was done but to name things: as old as what it stands on, or made now.
            let newest = config.history.iter().rev().find_map(|step| step.created.clone());
            config.created = Some(newest.unwrap_or_else(crate::time::now));
        }
        let config_blob = if inline { exchange::with_cache(&config, builder, state)? } else { oci::to_json(&config)? };
        oci::check_config_size(config_blob.len() as u64)?;
        let config_blob = store.put_blob(oci::OCI_CONFIG, &config_blob)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::OCI_MANIFEST.to_owned()),
            config: config_blob,
            layers: state.blobs.clone(),
            subject: None,
            annotations: annotations(cli),
        };
        let mut descriptor = store.put_blob(oci::OCI_MANIFEST, &oci::to_json(&manifest)?)?;
        descriptor.platform = Some(config.platform());
        let image = Image { entry: descriptor.clone(), descriptor, manifest, config };
        images.push((image, state.layers.clone()));
    }
    let (sbom, detail) = cli.attestations();
    if sbom.is_some() || detail.is_some() {
        let mut statements = Vec::new();
        for ((image, layers), (builder, _)) in images.iter().zip(made) {
            let mut own = Vec::new();
            if let Some(form) = sbom {
                let mounted = builder.workspace.mount(layers, None, None)?;
                own.push(attest::sbom(&mounted.target, image, form).at("--sbom")?);
            }
            if let Some(detail) = detail {
                own.push(facts(cli, dockerfile, builder, detail, attest::provenance));
            }
            statements.push(own.into_iter().map(|said| Statement::of(&image.descriptor, said)).collect());
        }
        let top = attest::attach(store, images.iter().map(|(image, _)| &image.descriptor).zip(&statements))?;
        return Ok(Built { top, images, statements });
    }
    let top = match images.as_slice() {
        [(image, _)] => Descriptor { platform: None, ..image.descriptor.clone() },
        several => {
            let mut index = Index::empty();
            index.manifests = several.iter().map(|(image, _)| image.descriptor.clone()).collect();
            if let Some(all) = annotations(cli) {
                index.rest.insert("annotations".to_owned(), serde_json::json!(all));
            }
            store.put_blob(oci::OCI_INDEX, &oci::to_json(&index)?)?
        }
    };
    Ok(Built { top, images, statements: Vec::new() })
}

/// What `tell` makes of the facts of a build.
fn facts<T>(
    args: &Cli,
    dockerfile: &str,
    builder: &Builder,
    detail: attest::Detail,
    tell: impl FnOnce(&attest::Facts<'_>) -> T,
) -> T {
    let materials = builder.materials.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tell(&attest::Facts {
        dockerfile,
        target: args.target.as_deref(),
        args: &builder.args,
        secrets: builder.secrets.ids(),
        platform: Platform::host(),
        materials: &materials,
        detail,
    })
}

fn annotations(args: &Cli) -> Option<std::collections::BTreeMap<String, String>> {
    if args.annotation.is_empty() {
        return None;
    }
    let pair = |text: &String| {
        // `manifest:` and the like say where it goes: here there is one place.
        let text = text
            .split_once(':')
            .filter(|(kind, _)| matches!(*kind, "manifest" | "index"))
            .map_or(text.as_str(), |(_, rest)| rest);
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    Some(args.annotation.iter().map(pair).collect())
}

/// Brings the images to where they go.
pub(super) fn deliver(
    store: &Store,
    args: &Cli,
    display: &Display,
    workspace: &Workspace,
    built: &Built,
) -> Result<()> {
    let mut outputs = args.output.clone();
    if args.push {
        outputs.push(Output::Registry(None));
    }
    if args.load || outputs.is_empty() {
        outputs.push(Output::Store(None));
    }
    let (progress, access) = (display.transfers(), args.registry.access());
    let sender = Sender { store, workspace, access: &access, progress: &progress, names: &args.tag };
    for output in &outputs {
        sender.send(output, built).at("--output")?;
    }
    Ok(())
}

/// `--cache-to`
pub(super) fn caches(store: &Store, args: &Cli, made: &[Made]) -> Result<()> {
    let access = args.registry.access();
    for place in &args.cache_to {
        for (builder, _) in made {
            let used = builder.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let stages = builder.plan.lineage();
            exchange::export(store, place, &used, &stages, &access).at("--cache-to")?;
        }
    }
    Ok(())
}

/// `--iidfile` and `--metadata-file`, which tells of the provenance in the detail `told`.
pub(super) fn files(
    args: &Cli,
    dockerfile: &str,
    built: &Built,
    made: &[Made],
    told: Option<attest::Detail>,
) -> Result<()> {
    if let Some(path) = &args.iidfile {
        metadata::write_text(path, &built.top.digest.to_string()).at("--iidfile")?;
    }
    if let Some(path) = &args.metadata_file {
        let mut names = args.tag.clone();
        for name in args.output.iter().filter_map(Output::name) {
            names.push(name.parse()?);
        }
        names.dedup();
        let provenance = told.map_or_else(Vec::new, |detail| {
            let of = |builder: &Arc<Builder>| facts(args, dockerfile, builder, detail, metadata::provenance);
            made.iter().map(|(builder, _)| (builder.platform.clone(), of(builder))).collect()
        });
        metadata::write(path, &metadata::of(built, &names, provenance)).at("--metadata-file")?;
    }
    Ok(())
}
