//! `--verify-key`: images that are signed as cosign signs them, by openssl, are taken; all others are not.

use std::fs;
use std::path::{Path, PathBuf};

use integration::command::tool;
use integration::peer::registry::Registry;
use integration::place::Place;
use serde_json::{Value, json};

use crate::refused;

/// A pair of keys in files of the test's: the private one and the public one.
fn keys(place: &Place, name: &str, kind: &[&str]) -> (PathBuf, PathBuf) {
    let (private, public) = (place.dir.join(format!("{name}.key")), place.dir.join(format!("{name}.pub")));
    let (from, to) = (private.to_str().unwrap(), public.to_str().unwrap());
    tool("openssl", &[&["genpkey", "-out", from, "-algorithm"], kind].concat()).ok();
    tool("openssl", &["pkey", "-in", from, "-pubout", "-out", to]).ok();
    (private, public)
}

fn sha256(file: &Path) -> String {
    let out = tool("sha256sum", &[file.to_str().unwrap()]).ok().stdout;
    format!("sha256:{}", out.split(' ').next().unwrap())
}

/// Puts a file into a layout's blobs: its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let temporary = layout.join("blob");
    fs::write(&temporary, bytes).unwrap();
    let digest = sha256(&temporary);
    fs::rename(temporary, blobs.join(&digest[7..])).unwrap();
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

fn payload(digest: &str) -> String {
    json!({
        "critical": {
            "identity": { "docker-reference": "" },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
}

/// What `cosign sign --key` does: the payload's signature as an image of its own, under a tag that has the digest in it.
fn sign(place: &Place, repository: &str, digest: &str, private: &Path, payload: &str, altered: Option<&str>) {
    let layout = place.dir.join("signature");
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir(&layout).unwrap();
    let (text, signature) = (place.dir.join("payload"), place.dir.join("payload.sig"));
    fs::write(&text, payload).unwrap();
    let private = private.to_str().unwrap();
    let (from, to) = (text.to_str().unwrap(), signature.to_str().unwrap());
    if tool("openssl", &["pkey", "-in", private, "-text", "-noout"]).ok().stdout.contains("ED25519") {
        tool("openssl", &["pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", from, "-out", to]).ok();
    } else {
        tool("openssl", &["dgst", "-sha256", "-sign", private, "-out", to, from]).ok();
    }
    let encoded = tool("base64", &["-w0", to]).ok().stdout;
    let mut layer =
        blob(&layout, "application/vnd.dev.cosign.simplesigning.v1+json", altered.unwrap_or(payload).as_bytes());
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": encoded });
    let config = blob(&layout, "application/vnd.oci.image.config.v1+json", b"{}");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
    let mut entry = blob(&layout, kind, manifest.to_string().as_bytes());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "sig" });
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string()).unwrap();
    let tag = digest.replace(':', "-");
    let (source, target) = (format!("oci:{}:sig", layout.display()), format!("docker://{repository}:{tag}.sig"));
    tool("skopeo", &["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &source, &target]).ok();
}

/// A registry with an image that nobody has signed: repository, reference and digest.
fn unsigned(place: &Place) -> (Registry, String, String, String) {
    let registry = Registry::start(&place.id, &place.dir);
    let maker = Place::new();
    maker.small_image();
    let repository = format!("{}/team/app", registry.host);
    let reference = format!("{repository}:1");
    let out = maker.ours("imgtool", &["push", "--quiet", "small:1", &reference]).ok();
    let digest = out.stdout.trim().rsplit_once('@').unwrap().1.to_owned();
    (registry, repository, reference, digest)
}

#[test]
fn only_what_a_key_has_signed_is_taken() {
    let place = Place::new();
    let (_registry, repository, reference, digest) = unsigned(&place);
    let (private, public) = keys(&place, "ours", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let (_, others) = keys(&place, "others", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let (public, others) = (public.to_str().unwrap(), others.to_str().unwrap());
    let pull = ["pull", "--quiet", "--verify-key", public, &reference];
    refused(&place, &pull, "not signed");
    sign(&place, &repository, &digest, &private, &payload(&digest), None);
    refused(&place, &["pull", "--quiet", "--verify-key", others, &reference], "none of its 1 signatures");
    place.ours("imgtool", &pull).ok();
    // Of two keys one will do.
    place.ours("imgtool", &["pull", "--quiet", "--verify-key", others, "--verify-key", public, &reference]).ok();
    // What is in the store already is asked for no less.
    let bundle = ["bundle", "--quiet", "--verify-key", others, &reference];
    let out = place.ours("imgtool", &bundle);
    assert!(out.code == 1 && out.stderr.contains("none of its 1 signatures"), "{out}");
    let out = place.ours("imgtool", &["bundle", "--quiet", "--verify-key", public, &reference]).ok();
    place.ours("imgtool", &["unbundle", out.stdout.trim()]).ok();
    let out = place.ours("imgtool", &["bundle", "--quiet", "--pull", "never", "--verify-key", public, &reference]);
    assert!(out.code == 1 && out.stderr.contains("--pull never"), "{out}");
    place.ours("imgtool", &["rm", &reference]).ok();
}

#[test]
fn signatures_of_something_else_do_not_count() {
    let place = Place::new();
    let (_registry, repository, reference, digest) = unsigned(&place);
    let (private, public) = keys(&place, "ours", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let pull = ["pull", "--quiet", "--verify-key", public.to_str().unwrap(), &reference];
    let other = format!("sha256:{}", "0".repeat(64));
    // A good signature of another image, moved here.
    sign(&place, &repository, &digest, &private, &payload(&other), None);
    refused(&place, &pull, "none of its 1 signatures");
    // The payload was altered after it was signed.
    sign(&place, &repository, &digest, &private, &payload(&other), Some(&payload(&digest)));
    refused(&place, &pull, "none of its 1 signatures");
    // A payload of another kind that names the image.
    let kind = payload(&digest).replace("cosign container image signature", "something else");
    sign(&place, &repository, &digest, &private, &kind, None);
    refused(&place, &pull, "none of its 1 signatures");
    sign(&place, &repository, &digest, &private, "no JSON", None);
    refused(&place, &pull, "JSON");
    // The image was altered after it was signed: the tag leads to another one now.
    sign(&place, &repository, &digest, &private, &payload(&digest), None);
    let maker = Place::new();
    let tar = integration::peer::image::busybox_tar(&maker.dir);
    maker.ours("imgtool", &["import", "--quiet", "-c", "CMD [\"evil\"]", tar.to_str().unwrap(), "evil:1"]).ok();
    maker.ours("imgtool", &["push", "--quiet", "evil:1", &reference]).ok();
    refused(&place, &pull, "not signed");
}

#[test]
fn keys_of_other_kinds_are_known_too() {
    let place = Place::new();
    let (_registry, repository, reference, digest) = unsigned(&place);
    let kinds: [&[&str]; 3] =
        [&["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], &["ED25519"], &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]];
    for kind in kinds {
        let (private, public) = keys(&place, "key", kind);
        sign(&place, &repository, &digest, &private, &payload(&digest), None);
        place.ours("imgtool", &["pull", "--quiet", "--verify-key", public.to_str().unwrap(), &reference]).ok();
        place.ours("imgtool", &["rm", &reference]).ok();
    }
    let file = place.dir.join("key.key");
    refused(&place, &["pull", "--quiet", "--verify-key", file.to_str().unwrap(), &reference], "no public key");
}
