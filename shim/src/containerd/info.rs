//! `-info`: what this shim and its runtime can do.

use std::io::{self, Read, Write};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use super::options::Options;
use crate::error::{Context, Error, Result};

/// The type under which OCI's features document travels, as JSON.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Answers `-info`: reads the runtime options (an `Any`) and prints a `RuntimeInfo`.
pub(crate) fn info(name: &str) -> Result<()> {
    let mut message = Vec::new();
    io::stdin()
        .take(1 << 20)
        .read_to_end(&mut message)
        .context(|| "read stdin")?;
    let sent = Any::parse_from_bytes(&message);
    let sent =
        sent.map_err(|error| Error::invalid(format!("decode the options on stdin: {error}")))?;
    let options = Options::from_any(&sent)?;
    let mut info = RuntimeInfo::new();
    info.name.push_str(name);
    info.version = Some(RuntimeVersion {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..RuntimeVersion::default()
    })
    .into();
    if !sent.value.is_empty() {
        info.options = Some(sent).into();
    }
    let runtime = options.runtime("default", &std::env::temp_dir())?;
    // Not every runtime knows the verb; the rest of the answer is still worth having.
    if let Ok(features) = runtime.call("features").run()
        && serde_json::from_slice::<serde_json::Value>(&features).is_ok()
    {
        info.features = Some(Any {
            type_url: FEATURES_TYPE.into(),
            value: features,
            ..Any::default()
        })
        .into();
    }
    let answer = info
        .write_to_bytes()
        .map_err(|error| Error::other(format!("encode the answer: {error}")))?;
    io::stdout()
        .write_all(&answer)
        .context(|| "answer containerd")
}
