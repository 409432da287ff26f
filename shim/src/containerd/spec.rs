//! What the shim itself must know of a container's configuration.

use serde::Deserialize;

use crate::error::Result;

/// As much of a bundle's config.json as decides about the end of the container.
#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Deserialize, Default)]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

/// Whether a config gives the container a pid namespace of its own.
pub(super) fn owns_pids(config: &[u8]) -> Result<bool> {
    let config: Config = serde_json::from_slice(config)?;
    let namespaces = config.linux.and_then(|linux| linux.namespaces).unwrap_or_default();
    Ok(namespaces.iter().any(|namespace| namespace.kind == "pid" && namespace.path.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fresh_pid_namespace_dies_with_its_init() {
        for (config, own) in [
            (r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}"#, true),
            (r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#, false),
            (r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#, false),
            (r#"{"linux":{}}"#, false),
            (r#"{"linux":null}"#, false),
            ("{}", false),
        ] {
            assert_eq!(owns_pids(config.as_bytes()).unwrap(), own, "{config}");
        }
        assert!(owns_pids(b"[").is_err());
    }
}
