//! Signatures by cosign's simple signing: an image counts only if one of the user's keys has signed it.
//!
//! A signature of the manifest `sha256:HEX` is an image of its own, tagged `sha256-HEX.sig` in the same repository or, since OCI
//! 1.1, a referrer of it. Each of its layers is a payload, which says what was signed, with the signature in an annotation
//! (cosign's SIGNATURE_SPEC.md; the payload is containers/image's "atomic container signature").

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use serde::Deserialize;
use webpki::{RawPublicKeyEntity, ring};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::layout::{VerifiedReader, check_size};
use crate::oci::{self, Descriptor, Document, Manifest};
use crate::registry::{Registry, RemoteBlob};

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const PAYLOAD_TYPE: &str = "cosign container image signature";
/// A payload has some 300 bytes.
const PAYLOAD_MAX: u64 = 64 << 10;
/// Signatures of one manifest that are looked at.
const SIGNATURES_MAX: usize = 100;
/// A key's file is read up to this size.
const KEY_MAX: u64 = 64 << 10;

/// A public key, in whatever way it signs: ECDSA on P-256 (cosign's own) or P-384, Ed25519, RSA.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    file: PathBuf,
    info: SubjectPublicKeyInfoDer<'static>,
}

impl Key {
    /// Reads `-----BEGIN PUBLIC KEY-----`.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let step = || format!("--verify-key {}", file.display());
        let mut bytes = Vec::new();
        std::fs::File::open(file).and_then(|f| f.take(KEY_MAX).read_to_end(&mut bytes)).with(step)?;
        let info = SubjectPublicKeyInfoDer::from_pem_slice(&bytes)
            .map_err(|_| Error::malformed("no public key in PEM (-----BEGIN PUBLIC KEY-----)"))
            .with(step)?;
        RawPublicKeyEntity::try_from(&info)
            .map_err(|e| Error::malformed(format!("a public key that is none: {e}")))
            .with(step)?;
        Ok(Self { file: file.to_owned(), info })
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let ways: [&dyn SignatureVerificationAlgorithm; 4] =
            [ring::ECDSA_P256_SHA256, ring::ECDSA_P384_SHA256, ring::ED25519, ring::RSA_PKCS1_2048_8192_SHA256];
        RawPublicKeyEntity::try_from(&self.info)
            .is_ok_and(|key| ways.iter().any(|way| key.verify_signature(*way, message, signature).is_ok()))
    }
}

/// What a payload says; the rest of it is of no matter here.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

/// Requires that one of `keys` has signed one of `digests`: an image's manifest, or the index that it was chosen from. Without keys
/// there is nothing to require.
pub(crate) fn require(registry: &Registry, keys: &[Key], digests: &[&Digest]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut seen = 0;
    for (at, digest) in digests.iter().enumerate() {
        if digests[..at].contains(digest) {
            continue;
        }
        for manifest in signatures_of(registry, digest).with(|| format!("signatures of {digest}"))? {
            for layer in manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD) {
                seen += 1;
                if seen > SIGNATURES_MAX {
                    return Err(Error::malformed(format!("signatures of {digest}: more than {SIGNATURES_MAX}")));
                }
                if is_good(registry, keys, layer, digest).with(|| format!("signature {}", layer.digest))? {
                    return Ok(());
                }
            }
        }
    }
    let names: Vec<String> = keys.iter().map(|key| key.file.display().to_string()).collect();
    let names = names.join(", ");
    // Of the kind that no mirror and no further attempt mends.
    Err(Error::malformed(match seen {
        0 => format!("not signed (--verify-key {names})"),
        n => format!("none of its {n} signatures is good for it by {names}"),
    }))
}

/// The images that hold the signatures of a manifest.
fn signatures_of(registry: &Registry, digest: &Digest) -> Result<Vec<Manifest>> {
    let mut found = Vec::new();
    let mut take = |delivered: crate::registry::Delivered| -> Result<()> {
        if let Document::Manifest(manifest) = Document::parse_any(&delivered.bytes, &delivered.media_type)? {
            found.push(manifest);
        }
        Ok(())
    };
    match registry.manifest_of_tag(&format!("{}.sig", digest.file_name())) {
        Ok(delivered) => take(delivered)?,
        Err(e) if e.kind() == Kind::Missing => {}
        Err(e) => return Err(e),
    }
    let is_signature =
        |descriptor: &&Descriptor| descriptor.rest.get("artifactType").is_some_and(|kind| kind == ARTIFACT);
    for referrer in registry.referrers(digest)?.iter().filter(is_signature).take(SIGNATURES_MAX) {
        take(registry.manifest(Some(referrer))?)?;
    }
    Ok(found)
}

/// Whether a key has signed this payload, and it speaks of this image. The payload is read only once its signature is proved.
fn is_good(registry: &Registry, keys: &[Key], layer: &Descriptor, digest: &Digest) -> Result<bool> {
    let Some(Ok(signature)) = layer.annotation(SIGNATURE).map(|text| STANDARD.decode(text)) else {
        return Ok(false);
    };
    check_size(layer, PAYLOAD_MAX)?;
    let remote = RemoteBlob::new(registry, layer, 0, Box::new(|_| {}));
    let mut payload = Vec::new();
    VerifiedReader::new(remote, layer).read_to_end(&mut payload)?;
    if !keys.iter().any(|key| key.has_signed(&payload, &signature)) {
        return Ok(false);
    }
    let Payload { critical } = oci::json(&payload)?;
    Ok(critical.kind == PAYLOAD_TYPE && critical.image.digest == *digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Key> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Key::read(file.path())
    }

    #[test]
    fn what_is_no_public_key_is_named() {
        for text in [
            "",
            "words",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with("--verify-key ") && error.contains("public key"), "{error}");
        }
        assert!(Key::read(Path::new("/no/such/key")).unwrap_err().to_string().contains("/no/such/key"));
    }
}
