//! The documents of an image: index, manifest, config, in their OCI and Docker forms.

mod config;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use config::{Execution, History, ImageConfig, RootFs};

use crate::digest::Digest;
use crate::error::{Error, Result, Step};
use crate::platform::Platform;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Every form of manifest that we read, as an Accept header.
pub(crate) const ACCEPT_MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Largest manifest that is read: registries accept no more than 4 MiB.
pub(crate) const MANIFEST_MAX: u64 = 4 << 20;
/// Largest image config that is read.
pub(crate) const CONFIG_MAX: u64 = 8 << 20;

/// Before a config is written: what is in the store can be read.
pub(crate) fn check_config_size(bytes: u64) -> Result<()> {
    match bytes {
        0..=CONFIG_MAX => Ok(()),
        _ => Err(Error::malformed(format!("the image's config has {bytes} bytes (at most {CONFIG_MAX} are read)"))),
    }
}

/// Where content is found and what it is: media type, digest, size in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    /// Whatever else the descriptor has; kept, because index.json may be shared with other tools.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, platform: None, annotations: None, rest: Map::new() }
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub(crate) fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    pub(crate) fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }
}

/// A list of manifests: an OCI image index or a Docker manifest list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Index {
    pub(crate) fn empty() -> Self {
        Self { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests: Vec::new(), rest: Map::new() }
    }

    /// The manifest that suits `wanted` best; image indexes inside the index are not searched.
    pub(crate) fn choose(&self, wanted: &Platform) -> Result<&Descriptor> {
        let scored = self
            .manifests
            .iter()
            .filter(|m| m.is_manifest())
            .filter_map(|m| Some((wanted.score(m.platform.as_ref()?)?, m)));
        // Of equals the first one counts: max_by_key would take the last.
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        if let Some((_, manifest)) = best {
            return Ok(manifest);
        }
        if let [only] = self.manifests.as_slice()
            && only.platform.is_none()
            && only.is_manifest()
        {
            return Ok(only);
        }
        let mut have: Vec<String> =
            self.manifests.iter().filter_map(|m| m.platform.as_ref()).map(Platform::to_string).collect();
        have.retain(|p| !p.starts_with("unknown/"));
        have.dedup();
        if !have.is_empty() {
            let have = have.join(", ");
            return Err(Error::missing(format!("no image for platform {wanted}; the index has {have}")));
        }
        Err(Error::malformed(match self.manifests.as_slice() {
            [] => "the index is empty: there is no image in it",
            all if all.iter().any(Descriptor::is_manifest) => {
                "the index does not say which platforms its images are for: pull one of them by its digest"
            }
            all if all.iter().any(Descriptor::is_index) => "the index has only other indexes in it, and no image",
            _ => "the index has no image in it: this is an artifact, not a container image",
        }))
    }
}

/// An image manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) layers: Vec<Descriptor>,
    /// The manifest that this one says something of: a signature's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// What a digest or tag led to.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there are one or two at a time")]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

impl Document {
    pub(crate) fn media_type(&self) -> &str {
        let (Self::Index(Index { media_type, .. }) | Self::Manifest(Manifest { media_type, .. })) = self;
        media_type.as_deref().unwrap_or_default()
    }

    /// Reads a manifest or index. `media_type` is what the server or the descriptor called it; the document must agree,
    /// and it must not be both at once (CVE-2021-41190: two readers would then see two different images).
    pub(crate) fn parse(bytes: &[u8], media_type: &str) -> Result<Self> {
        let document = Self::parse_any(bytes, media_type)?;
        if let Self::Manifest(manifest) = &document
            && !matches!(manifest.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG)
        {
            return Err(Error::malformed(format!(
                "config of type {:?}: this is an artifact, not a container image",
                manifest.config.media_type
            )));
        }
        Ok(document)
    }

    /// The same for what need not be an image: signatures and other artifacts are copied along.
    pub(crate) fn parse_any(bytes: &[u8], media_type: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            schema_version: Option<u32>,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = json(bytes)?;
        if probe.fs_layers.is_some() || probe.schema_version == Some(1) {
            return Err(Error::malformed(
                "Docker schema 1 manifest: this form was retired, push the image again with a current tool",
            ));
        }
        if probe.schema_version != Some(2) {
            return Err(Error::malformed("schemaVersion: want 2"));
        }
        if probe.manifests.is_some() && (probe.layers.is_some() || probe.config.is_some()) {
            return Err(Error::malformed("the document is both an index (manifests) and a manifest (config, layers)"));
        }
        let inner = probe.media_type.as_deref().filter(|t| !t.is_empty());
        let known = |t: &str| matches!(t, OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST);
        let media_type = match inner {
            Some(inner) if known(media_type) && inner != media_type => {
                return Err(Error::malformed(format!("mediaType is {inner}, but it was delivered as {media_type}")));
            }
            Some(inner) if known(inner) => inner,
            Some(inner) => {
                return Err(Error::malformed(format!("mediaType {inner}: not an image manifest or index")));
            }
            None if known(media_type) => media_type,
            // A file server knows no better than application/json or text/plain: the fields tell.
            None if probe.manifests.is_some() => OCI_INDEX,
            None => OCI_MANIFEST,
        };
        let is_index = matches!(media_type, OCI_INDEX | DOCKER_LIST);
        let (lacks, field) =
            if is_index { (probe.manifests.is_none(), "manifests") } else { (probe.config.is_none(), "config") };
        if lacks {
            return Err(Error::malformed(format!("{media_type} without {field}")));
        }
        if is_index {
            let mut index: Index = json(bytes)?;
            index.media_type = Some(media_type.to_owned());
            Ok(Self::Index(index))
        } else {
            let mut manifest: Manifest = json(bytes)?;
            manifest.media_type = Some(media_type.to_owned());
            Ok(Self::Manifest(manifest))
        }
    }
}

/// How a layer is compressed, as its media type says; `None` for an unknown type.
pub(crate) fn layer_is_known(media_type: &str) -> bool {
    let Some(kind) = media_type.strip_prefix("application/") else {
        return false;
    };
    let kind = kind.strip_suffix("+gzip").or(kind.strip_suffix("+zstd")).or(kind.strip_suffix(".gzip")).unwrap_or(kind);
    let kind = kind.strip_suffix(".zstd").unwrap_or(kind);
    matches!(
        kind,
        "vnd.oci.image.layer.v1.tar"
            | "vnd.oci.image.layer.nondistributable.v1.tar"
            | "vnd.docker.image.rootfs.diff.tar"
            | "vnd.docker.image.rootfs.foreign.diff.tar"
    )
}

/// Go writes absent lists and strings as `null`.
fn null_is_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Parses JSON from outside.
pub(crate) fn json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::malformed(format!("JSON: {e}")))
}

/// Writes JSON in one line.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::other(e.to_string())).at("write JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":2}}"#, Digest::of(b"{}"))
    }

    fn refused(text: &str, media_type: &str) -> String {
        Document::parse(text.as_bytes(), media_type).expect_err(text).to_string()
    }

    #[test]
    fn a_document_that_is_index_and_manifest_at_once_is_refused() {
        let config = descriptor(OCI_CONFIG);
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
        assert!(refused(&text, OCI_MANIFEST).contains("both"));
        assert!(refused(&text, OCI_INDEX).contains("both"));
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[]}}"#);
        assert!(refused(&text, OCI_INDEX).contains("delivered as"));
        assert!(refused(&text, DOCKER_MANIFEST).contains("delivered as"));
        assert!(Document::parse(text.as_bytes(), OCI_MANIFEST).is_ok());
        assert!(Document::parse(text.as_bytes(), "text/plain").is_ok());
    }

    #[test]
    fn what_is_not_an_image_is_named() {
        assert!(refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, "").contains("schema 1"));
        assert!(refused(r#"{"schemaVersion":2}"#, OCI_INDEX).contains("without manifests"));
        assert!(refused(r#"{"schemaVersion":2}"#, OCI_MANIFEST).contains("without config"));
        let helm = descriptor("application/vnd.cncf.helm.config.v1+json");
        assert!(
            refused(&format!(r#"{{"schemaVersion":2,"config":{helm},"layers":[]}}"#), OCI_MANIFEST)
                .contains("artifact")
        );
        let path = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:../../x","size":2}"#;
        assert!(
            refused(&format!(r#"{{"schemaVersion":2,"config":{path},"layers":[]}}"#), OCI_MANIFEST).contains("digest")
        );
        assert!(refused("[]", OCI_MANIFEST).contains("JSON"));
    }

    #[test]
    fn configs_as_go_writes_them_are_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":null,"Env":null,"Labels":null,"User":"",
            "Volumes":{"/data":{}},"WorkingDir":"","OnBuild":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config = ImageConfig::parse(text.as_bytes(), 0).unwrap();
        assert_eq!(config.platform().to_string(), "linux/amd64");
        assert!(ImageConfig::parse(text.as_bytes(), 1).is_err());
    }

    #[test]
    fn layer_types() {
        for good in [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.gzip"] {
            assert!(layer_is_known(good), "{good}");
        }
        for bad in ["", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/vnd.in-toto+json"] {
            assert!(!layer_is_known(bad), "{bad}");
        }
    }
}
