//! The Linux half of the OCI runtime-spec 1.3 configuration (`config.json`), as data.
//!
//! These are our own types and not the `oci-spec` crate's for three reasons: runc ignores capabilities that it does not
//! know where that crate refuses the whole file; fields that Go writes as `null` mean "absent"; and the crate brings a
//! regular-expression engine into a program whose start-up is counted in microseconds. Field names and meanings are the
//! specification's: <https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md> and `config-linux.md`.
#![allow(missing_docs)] // the specification documents each field under its own name

mod linux;
mod process;

pub use linux::*;
pub use process::*;

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// The newest specification that is understood.
pub const VERSION: &str = "1.3.0";

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub oci_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub linux: Linux,
}

impl Spec {
    /// Reads a configuration; a refusal names the field's path (`mounts[2].options`).
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse(json)
    }
}

/// Reads any of the types here; the second pass, which finds the field's path, is paid for by broken input only.
pub fn parse<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T> {
    // Looked at once as a whole, and not string by string.
    let read = std::str::from_utf8(json).ok().and_then(|text| serde_json::from_str(text).ok());
    read.map_or_else(|| refuse(json), Ok)
}

/// Says where the first fault is.
fn refuse<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| {
            let path = error.path().to_string();
            let cause = error.into_inner();
            match path.as_str() {
                "." | "?" => Error::new(Kind::Invalid, cause.to_string()),
                _ => Error::invalid(path, cause),
            }
        })
        // The first pass also refuses text behind the value, which this one does not see.
        .and_then(|_: T| Err(Error::new(Kind::Invalid, "text after the end of the JSON value")))
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Root {
    pub path: PathBuf,
    #[serde(default)]
    pub readonly: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub destination: PathBuf,
    #[serde(default, rename = "type", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Whether a hook is to find the container's root built and not yet entered.
    pub(crate) fn see_the_root(&self) -> bool {
        [&self.prestart, &self.create_runtime, &self.create_container].iter().any(|hooks| !hooks.is_empty())
    }

    /// Whether no hook is asked for.
    pub fn is_empty(&self) -> bool {
        self.all().all(|(_, hooks)| hooks.is_empty())
    }

    /// Every list with its name, in the order in which they run.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &[Hook])> {
        [
            ("prestart", self.prestart.as_slice()),
            ("createRuntime", &self.create_runtime),
            ("createContainer", &self.create_container),
            ("startContainer", &self.start_container),
            ("poststart", &self.poststart),
            ("poststop", &self.poststop),
        ]
        .into_iter()
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Hook {
    pub path: PathBuf,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// `null` is what Go writes for an empty slice or map.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_field() {
        for (json, expected) in [
            (r#"{"mounts":[{"destination":"/a"},{"destination":7}]}"#, "mounts[1].destination: invalid type"),
            (r#"{"process":{"cwd":"/","args":"sh"}}"#, "process.args: invalid type"),
            (r#"{"linux":{"namespaces":[{"type":"nope"}]}}"#, "linux.namespaces[0].type: unknown variant `nope`"),
            ("{", "EOF while parsing"),
            ("{} x", "text after the end"),
        ] {
            let error = Spec::parse(json.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{json}: {error}");
            assert_eq!(error.kind(), Kind::Invalid);
        }
    }

    #[test]
    fn null_means_absent() {
        let spec =
            Spec::parse(br#"{"mounts":null,"hooks":null,"linux":{"namespaces":null,"resources":null}}"#).unwrap();
        assert!(spec.mounts.is_empty() && spec.hooks.is_empty());
    }
}
