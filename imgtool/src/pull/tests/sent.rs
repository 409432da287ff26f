//! Images sent to a registry that is told what to do.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::fake::{Fake, Reply};
use super::*;
use crate::transfer::{Remote, Transfer};

/// A copy between two registries, or the error.
fn copy(from: &Fake, to: &Fake, chunk: Option<u64>, referrers: bool) -> Result<Digest> {
    let place = Place::new();
    let reference = |fake: &Fake| format!("{}/app:1", fake.host).parse::<Reference>().unwrap();
    let source = Remote::source(&reference(from), &place.access);
    let target = Remote::target(&reference(to), &place.access, None, chunk);
    let progress = Progress::Quiet;
    Transfer { source: &source, target: &target, progress: &progress, platform: None, referrers, parallel: 1 }.run()
}

/// What refers to an image: by the API, in pages, with the lists that the registry keeps.
fn describe(fake: &Fake, image: &serde_json::Value) -> Vec<serde_json::Value> {
    let subject = image["digest"].as_str().unwrap().to_owned();
    let mut all = Vec::new();
    for kind in ["sbom", "signature"] {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": oci::OCI_MANIFEST, "artifactType": format!("application/x.{kind}"),
            "config": fake.put_blob("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [fake.put_blob("text/plain", kind.as_bytes())],
            "subject": image,
        });
        all.push(fake.put_manifest(kind, oci::OCI_MANIFEST, &manifest));
    }
    let page = |one: &serde_json::Value| json!({"schemaVersion": 2, "mediaType": oci::OCI_INDEX, "manifests": [one]});
    let (first, second) = (page(&all[0]).to_string(), page(&all[1]).to_string());
    fake.put(&format!("referrers/{subject}?page=2"), oci::OCI_INDEX, second.as_bytes());
    fake.fault(move |request, _| {
        let list = request.path.ends_with(&format!("/referrers/{subject}"));
        let next = format!("</v2/app/referrers/{subject}?page=2>; rel=\"next\"");
        list.then(|| Reply { body: first.clone().into_bytes(), ..Reply::status(200) }.with("Link", &next))
    });
    all
}

#[test]
fn referrers_are_listed_by_the_api_and_written_as_the_registry_has_it() {
    let from = Fake::start();
    let image = from.put_image("1", &[gzip_layer(&tar(&[("a", b"1")]))]);
    let all = describe(&from, &image);
    let digests = |list: &[Descriptor]| list.iter().map(|d| json!(d.digest)).collect::<Vec<_>>();
    let want: Vec<_> = all.iter().map(|one| one["digest"].clone()).collect();
    let reference: Reference = format!("{}/app:1", from.host).parse().unwrap();
    let registry = Registry::new(&reference, &Place::new().access, Arc::default());
    let subject: Digest = image["digest"].as_str().unwrap().parse().unwrap();
    assert_eq!(digests(&registry.referrers(&subject).unwrap()), want);
    // One that keeps lists by itself needs no tag; for another the tag is the list.
    for keeps in [true, false] {
        let to = Fake::start();
        if keeps {
            to.with_referrers();
        }
        copy(&from, &to, None, true).unwrap();
        for digest in &want {
            assert_eq!(to.requests(&format!("manifests/{}", digest.as_str().unwrap())).len(), 1);
        }
        let tag = format!("/manifests/sha256-{}", subject.hex());
        let tagged = to.requests(&tag).into_iter().filter(|r| r.method == "PUT" && !r.path.contains('.')).count();
        assert_eq!(tagged, if keeps { 0 } else { 2 }, "keeps lists: {keeps}");
    }
}

#[test]
fn a_chunk_that_is_lost_is_sent_again_from_where_the_registry_has_it() {
    let (from, _, digest) = simple();
    let to = Fake::start();
    let patches = AtomicUsize::new(0);
    to.fault(move |request, _| {
        let second = request.method == "PATCH" && patches.fetch_add(1, Ordering::Relaxed) == 1;
        second.then(|| Reply::status(502))
    });
    copy(&from, &to, Some(100_000), false).unwrap();
    assert_eq!(to.blob(&digest), from.blob(&digest));
    let sent: Vec<_> = to.requests("/uploads/1").into_iter().filter(|r| r.method == "PATCH").collect();
    let ranges: Vec<_> = sent.iter().map(|r| r.header("content-range").unwrap_or_default().to_owned()).collect();
    assert_eq!(ranges[..3], ["0-99999", "100000-199999", "100000-199999"], "{ranges:?}");
}

#[test]
fn an_upload_that_breaks_is_begun_anew() {
    let (from, _, digest) = simple();
    let to = Fake::start();
    let puts = AtomicUsize::new(0);
    to.fault(move |request, _| {
        let first = request.method == "PUT" && puts.fetch_add(1, Ordering::Relaxed) == 0;
        first.then(|| Reply::status(503))
    });
    copy(&from, &to, None, false).unwrap();
    assert_eq!(to.blob(&digest), from.blob(&digest));
}

#[test]
fn a_blob_that_is_not_what_it_should_be_is_not_sent_on() {
    let (from, _, digest) = simple();
    let (bad, mut blob) = (digest.clone(), from.blob(&digest));
    blob[1000] ^= 1;
    from.fault(move |request, _| {
        is_blob(&request.path, &bad).then(|| Reply { body: blob.clone(), ..Reply::status(200) })
    });
    let to = Fake::start();
    let error = copy(&from, &to, None, false).unwrap_err().to_string();
    assert!(error.contains("digest mismatch"), "{error}");
    assert!(!to.requests("manifests").iter().any(|request| request.method == "PUT"), "no name for what is not there");
}
