//! `--iidfile` and `--metadata-file`: what was built, for programs. The keys of the latter are those that docker buildx
//! writes; its `buildx.build.ref` names a record of a builder, and there is none here.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::attest::{self, Detail};
use super::output::Built;
use crate::error::{Error, Result};
use crate::new_file::write_to;
use crate::platform::Platform;
use crate::reference::Reference;

/// How much of the provenance the file has, as buildx reads it from `BUILDX_METADATA_PROVENANCE`.
pub(crate) fn detail() -> Result<Option<Detail>> {
    match std::env::var("BUILDX_METADATA_PROVENANCE").as_deref() {
        Err(_) | Ok("" | "min") => Ok(Some(Detail::Min)),
        Ok("max") => Ok(Some(Detail::Max)),
        Ok("disabled" | "false" | "0") => Ok(None),
        Ok(other) => {
            Err(Error::malformed(format!("BUILDX_METADATA_PROVENANCE={other}: want min, max, disabled, false or 0")))
        }
    }
}

/// What is known of a build that is over. `provenance` has a predicate for each platform.
pub(crate) fn of(built: &Built, names: &[Reference], provenance: Vec<(Platform, Value)>) -> Map<String, Value> {
    let top = &built.top;
    let mut all = Map::new();
    let mut set = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
    let several = provenance.len() > 1;
    for (platform, predicate) in provenance {
        let of = if several { format!("/{platform}") } else { String::new() };
        set(&format!("buildx.build.provenance{of}"), predicate);
    }
    // An index has no config.
    if let [(image, _)] = built.images.as_slice()
        && image.descriptor.digest == top.digest
    {
        set("containerimage.config.digest", json!(image.manifest.config.digest));
    }
    let descriptor = json!({"mediaType": top.media_type, "digest": top.digest, "size": top.size});
    set("containerimage.descriptor", descriptor);
    set("containerimage.digest", json!(top.digest));
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        set("image.name", json!(names.join(",")));
    }
    all
}

/// The provenance in the older form of its predicate (SLSA 0.2), which readers of the file know.
pub(crate) fn provenance(facts: &attest::Facts<'_>) -> Value {
    let (_, predicate) = attest::provenance(facts);
    let definition = &predicate["buildDefinition"];
    let mut record = json!({
        "builder": predicate["runDetails"]["builder"],
        "buildType": "https://mobyproject.org/buildkit@v1",
        "materials": definition["resolvedDependencies"],
        "invocation": {
            "configSource": {"entryPoint": definition["externalParameters"]["configSource"]["path"]},
            "parameters": definition["externalParameters"]["request"],
            "environment": {"platform": definition["internalParameters"]["builderPlatform"]},
        },
    });
    if facts.detail == Detail::Max {
        record["metadata"] = json!({"buildFinishedOn": predicate["runDetails"]["metadata"]["finishedOn"]});
    }
    record
}

/// Writes the file; it is there only when all of it is.
pub(crate) fn write(path: &Path, content: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_string_pretty(content).map_err(|e| Error::other(e.to_string()))?;
    write_text(path, &text)
}

/// The same with a text.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    write_to(path, "give a file", |out| Ok(out.write_all(text.as_bytes())?))
}
