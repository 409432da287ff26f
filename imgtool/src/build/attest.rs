//! Attestations: what an image has in it (SBOM) and how it was built (provenance), as in-toto statements in a manifest beside
//! the image's, in one index, as BuildKit attaches them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::root::Root;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::{Image, Store};
use crate::oci::{self, Descriptor, Index, Manifest};
use crate::platform::Platform;
use crate::time;

const STATEMENT: &str = "application/vnd.in-toto+json";
const SPDX: &str = "https://spdx.dev/Document";
const CYCLONEDX: &str = "https://cyclonedx.org/bom";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// A package database is read up to this size.
const DATABASE_MAX: u64 = 256 << 20;

/// The form of an SBOM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SbomForm {
    Spdx,
    Cyclonedx,
}

/// How much a provenance tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Detail {
    /// Materials and target, without the values of arguments.
    Min,
    /// Arguments and the Dockerfile too.
    Max,
}

/// A package that is installed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    /// Package URL (purl-spec).
    url: String,
}

/// The facts of a build.
pub(crate) struct Facts<'a> {
    pub(crate) dockerfile: &'a str,
    pub(crate) target: Option<&'a str>,
    pub(crate) args: &'a BTreeMap<String, String>,
    pub(crate) secrets: Vec<String>,
    pub(crate) platform: Platform,
    /// Images that went into it.
    pub(crate) materials: &'a BTreeMap<String, Digest>,
    pub(crate) detail: Detail,
}

/// The packages of a root file system: Debian's, Alpine's, and Python's.
fn packages(rootfs: &Path) -> Result<Vec<Package>> {
    let root = Root::open(rootfs)?;
    let read = |path: &str| -> Result<String> {
        Ok(root.read(path, DATABASE_MAX)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
    };
    let release = read("etc/os-release").or_else(|_| read("usr/lib/os-release"))?;
    let of = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    let distribution = if of("ID").is_empty() { "debian".to_owned() } else { of("ID") };
    let mut found = dpkg(&read("var/lib/dpkg/status")?, &distribution);
    found.extend(apk(&read("lib/apk/db/installed")?, &distribution));
    found.extend(python(&root)?);
    found.sort();
    found.dedup();
    Ok(found)
}

fn dpkg(text: &str, distribution: &str) -> Vec<Package> {
    let field = |entry: &str, key: &str| {
        entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(|value| value.trim().to_owned())
    };
    let package = |entry: &str| {
        if !field(entry, "Status")?.ends_with(" installed") {
            return None;
        }
        let (name, version) = (field(entry, "Package")?, field(entry, "Version")?);
        let arch = field(entry, "Architecture").unwrap_or_default();
        let url = format!("pkg:deb/{distribution}/{}@{}?arch={arch}", escape(&name), escape(&version));
        Some(Package { name, version, url })
    };
    text.split("\n\n").filter_map(package).collect()
}

fn apk(text: &str, distribution: &str) -> Vec<Package> {
    let field = |entry: &str, key: &str| entry.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    let package = |entry: &str| {
        let (name, version) = (field(entry, "P:")?, field(entry, "V:")?);
        let url = format!("pkg:apk/{distribution}/{}@{}", escape(&name), escape(&version));
        Some(Package { name, version, url })
    };
    text.split("\n\n").filter_map(package).collect()
}

fn python(root: &Root) -> Result<Vec<Package>> {
    let mut found = Vec::new();
    for place in ["usr/lib/python3*/*-packages", "usr/local/lib/python3*/*-packages"] {
        for kind in ["dist-info", "egg-info"] {
            for one in root.find(&format!("{place}/*.{kind}"))? {
                let name = one.path.rsplit('/').next().unwrap_or_default();
                let stem = name.strip_suffix(kind).unwrap_or(name).trim_end_matches('.');
                let mut parts = stem.splitn(3, '-');
                if let (Some(name), Some(version)) = (parts.next(), parts.next()) {
                    let lower = name.to_lowercase().replace('_', "-");
                    let url = format!("pkg:pypi/{}@{}", escape(&lower), escape(version));
                    found.push(Package { name: name.to_owned(), version: version.to_owned(), url });
                }
            }
        }
    }
    Ok(found)
}

/// What a package URL cannot have as it is.
fn escape(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:".contains(c);
    text.chars().map(|c| if plain(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) }).collect()
}

/// The SBOM of a mounted image: its predicate and its type.
pub(crate) fn sbom(rootfs: &Path, image: &Image, form: SbomForm) -> Result<(&'static str, Value)> {
    let packages = packages(rootfs)?;
    let (name, digest) = (image.display(), image.descriptor.digest.to_string());
    let created = time::now();
    Ok(match form {
        SbomForm::Spdx => {
            let of = |(number, package): (usize, &Package)| {
                json!({
                    "name": package.name, "SPDXID": format!("SPDXRef-Package-{number}"), "versionInfo": package.version,
                    "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
                    "externalRefs": [{
                        "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": package.url,
                    }],
                })
            };
            let related = |number: usize| {
                json!({
                    "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                    "relatedSpdxElement": format!("SPDXRef-Package-{number}"),
                })
            };
            let document = json!({
                "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": name,
                "documentNamespace": format!("urn:tare:sbom:{digest}"),
                "creationInfo": {"created": created, "creators": [format!("Tool: imgtool-{}", env!("CARGO_PKG_VERSION"))]},
                "packages": packages.iter().enumerate().map(of).collect::<Vec<_>>(),
                "relationships": (0..packages.len()).map(related).collect::<Vec<_>>(),
            });
            (SPDX, document)
        }
        SbomForm::Cyclonedx => {
            let of = |package: &Package| {
                json!({
                    "type": "library", "bom-ref": package.url, "name": package.name, "version": package.version,
                    "purl": package.url,
                })
            };
            let document = json!({
                "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
                "metadata": {
                    "timestamp": created,
                    "tools": [{"name": "imgtool", "version": env!("CARGO_PKG_VERSION")}],
                    "component": {"type": "container", "name": name, "version": digest},
                },
                "components": packages.iter().map(of).collect::<Vec<_>>(),
            });
            (CYCLONEDX, document)
        }
    })
}

/// The provenance of a build: its predicate and its type.
pub(crate) fn provenance(facts: &Facts<'_>) -> (&'static str, Value) {
    let full = facts.detail == Detail::Max;
    let mut parameters = json!({"frontend": "dockerfile.v0"});
    let target = facts.target.map(|target| ("target".to_owned(), target.to_owned()));
    let args = facts.args.iter().filter(|_| full).map(|(key, value)| (format!("build-arg:{key}"), value.clone()));
    let args: BTreeMap<String, String> = target.into_iter().chain(args).collect();
    if !args.is_empty() {
        parameters["args"] = json!(args);
    }
    if !facts.secrets.is_empty() {
        // That there were secrets, not what was in them.
        parameters["secrets"] = json!(facts.secrets.iter().map(|id| json!({"id": id})).collect::<Vec<_>>());
    }
    let mut internal = json!({"builderPlatform": facts.platform.to_string()});
    if full {
        internal["dockerfile"] = json!(facts.dockerfile);
    }
    let dependency = |(name, digest): (&String, &Digest)| json!({"uri": format!("pkg:docker/{}", escape(name)), "digest": {digest.algorithm().name(): digest.hex()}});
    let now = time::now();
    let predicate = json!({
        "buildDefinition": {
            "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
            "externalParameters": {"request": parameters, "configSource": {"path": "Dockerfile"}},
            "internalParameters": internal,
            "resolvedDependencies": facts.materials.iter().map(dependency).collect::<Vec<_>>(),
        },
        "runDetails": {
            "builder": {"id": format!("imgtool-{}", env!("CARGO_PKG_VERSION"))},
            "metadata": {"finishedOn": now},
        },
    });
    (PROVENANCE, predicate)
}

/// What is said of an image, as an in-toto statement.
pub(crate) struct Statement {
    kind: &'static str,
    document: Value,
}

impl Statement {
    /// Of a predicate's type and the predicate.
    pub(crate) fn of(image: &Descriptor, (kind, predicate): (&'static str, Value)) -> Self {
        let document = json!({
            "_type": "https://in-toto.io/Statement/v1", "predicateType": kind, "predicate": predicate,
            "subject": [{
                "name": "_", "digest": {image.digest.algorithm().name(): image.digest.hex()},
            }],
        });
        Self { kind, document }
    }

    /// The name that BuildKit gives its file, where an image becomes files.
    pub(crate) fn file_name(&self) -> &'static str {
        match self.kind {
            SPDX => "sbom.spdx.json",
            CYCLONEDX => "sbom.cyclonedx.json",
            _ => "provenance.json",
        }
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        oci::to_json(&self.document)
    }
}

/// Attaches statements to images: an index with each image, and a manifest of its statements behind it.
pub(crate) fn attach<'a>(
    store: &Store,
    images: impl Iterator<Item = (&'a Descriptor, &'a Vec<Statement>)> + Clone,
) -> Result<Descriptor> {
    let mut index = Index::empty();
    index.manifests = images.clone().map(|(image, _)| image.clone()).collect();
    for (image, statements) in images.filter(|(_, statements)| !statements.is_empty()) {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for statement in statements {
            let mut layer = store.put_blob(STATEMENT, &statement.to_json()?)?;
            diff_ids.push(layer.digest.to_string());
            layer.annotations = Some([("in-toto.io/predicate-type".to_owned(), statement.kind.to_owned())].into());
            layers.push(layer);
        }
        let config = json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::OCI_MANIFEST.to_owned()),
            config: store.put_blob(oci::OCI_CONFIG, &oci::to_json(&config)?)?,
            layers,
            subject: None,
            annotations: None,
        };
        let mut entry = store.put_blob(oci::OCI_MANIFEST, &oci::to_json(&manifest)?)?;
        entry.platform = Some(Platform::of("unknown", "unknown", None));
        entry.annotations = Some(
            [
                ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
                ("vnd.docker.reference.digest".to_owned(), image.digest.to_string()),
            ]
            .into(),
        );
        index.manifests.push(entry);
    }
    store.put_blob(oci::OCI_INDEX, &oci::to_json(&index)?)
}

/// `--attest type=sbom|provenance[,...]`: what of the two is meant, and how, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attest {
    Sbom(Option<SbomForm>),
    Provenance(Option<Detail>),
}

impl std::str::FromStr for Attest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad =
            |why: String| Error::malformed(format!("{text}: {why}: want type=sbom or type=provenance[,mode=max]"));
        let mut fields = BTreeMap::new();
        for field in super::parse::csv(text)? {
            let (key, value) = field.split_once('=').ok_or_else(|| bad(format!("{field:?} has no =")))?;
            fields.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        let mut take = |key: &str| fields.remove(key);
        let disabled = match take("disabled").as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(other) => return Err(bad(format!("disabled={other}"))),
        };
        let attest = match take("type").as_deref() {
            Some("sbom") => Self::Sbom(sbom_form(take("form").as_deref().unwrap_or("true"))?.filter(|_| !disabled)),
            Some("provenance") => {
                if let Some(version) = take("version").filter(|version| version != "v1") {
                    return Err(bad(format!("version={version}: it is written as v1")));
                }
                Self::Provenance(detail(take("mode").as_deref().unwrap_or("true"))?.filter(|_| !disabled))
            }
            Some(other) => return Err(bad(format!("type={other}"))),
            None => return Err(bad("no type".to_owned())),
        };
        match fields.keys().next() {
            // A generator is an image that looks for packages: here this program does.
            Some(key) => Err(bad(format!("unknown key {key:?}"))),
            None => Ok(attest),
        }
    }
}

/// `--provenance`.
pub(crate) fn detail(text: &str) -> Result<Option<Detail>> {
    match text.trim_start_matches("mode=") {
        "false" => Ok(None),
        "true" | "min" => Ok(Some(Detail::Min)),
        "max" => Ok(Some(Detail::Max)),
        _ => Err(Error::malformed(format!("{text}: want true, false, mode=min or mode=max"))),
    }
}

/// `--sbom`.
pub(crate) fn sbom_form(text: &str) -> Result<Option<SbomForm>> {
    match text {
        "false" => Ok(None),
        "true" | "spdx" => Ok(Some(SbomForm::Spdx)),
        "cyclonedx" => Ok(Some(SbomForm::Cyclonedx)),
        _ => Err(Error::malformed(format!("{text}: want true, false, spdx or cyclonedx"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_as_buildx_takes_them() {
        let attest = |text: &str| text.parse::<Attest>();
        for (text, want) in [
            ("type=sbom", Attest::Sbom(Some(SbomForm::Spdx))),
            ("type=sbom,form=cyclonedx", Attest::Sbom(Some(SbomForm::Cyclonedx))),
            ("type=sbom,disabled=true", Attest::Sbom(None)),
            ("type=provenance", Attest::Provenance(Some(Detail::Min))),
            ("type=provenance,mode=max,version=v1", Attest::Provenance(Some(Detail::Max))),
            ("type=provenance,mode=false", Attest::Provenance(None)),
        ] {
            assert_eq!(attest(text).unwrap(), want, "{text}");
        }
        for bad in ["", "sbom", "type=x", "mode=max", "type=sbom,generator=x", "type=provenance,version=v0.2"] {
            assert!(attest(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn packages_of_debian_and_alpine() {
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u1\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        let found = dpkg(status, "debian");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].url, "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64");
        assert_eq!(apk("P:musl\nV:1.2\n\nP:busybox\nV:1.36\n", "alpine").len(), 2);
    }
}
