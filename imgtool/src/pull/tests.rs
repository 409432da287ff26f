//! Pulls from a registry that lies, breaks off, redirects and asks for logins.

use std::fs;
use std::io::Write as _;

use serde_json::json;

use super::fake::{Fake, Reply};
use super::*;
use crate::oci;

/// A store of its own.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) access: Access,
    progress: Progress,
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(&dir.path().join("store")).unwrap();
        store.create().unwrap();
        // An empty file keeps the credentials of whoever runs the test out of it.
        let authfile = dir.path().join("auth.json");
        fs::write(&authfile, "{}").unwrap();
        let access = Access { authfile: Some(authfile), ..Access::default() };
        Self { dir, store, access, progress: Progress::Quiet }
    }

    pub(super) fn login(&mut self, credential: &str) {
        self.access.credential = Some(credential.parse().unwrap());
    }

    pub(super) fn pull(&self, reference: &str) -> Result<(Image, Vec<Layer>)> {
        let pull = Pull {
            store: &self.store,
            access: &self.access,
            registries: &Registries::default(),
            platform: Platform::host(),
            limits: Limits::default(),
            parallel: 3,
            progress: &self.progress,
        };
        let _hold = self.store.hold().unwrap();
        pull.run(&reference.parse().unwrap())
    }

    pub(super) fn error(&self, reference: &str) -> String {
        self.pull(reference).map(|(image, _)| image.display()).expect_err("must fail").to_string()
    }

    pub(super) fn list(&self, below: &str) -> Vec<String> {
        let Ok(list) = fs::read_dir(self.store.path(below)) else {
            return Vec::new();
        };
        list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// After a failure there is no name, no layer, nothing half-made, and no fault that `fsck` finds.
    pub(super) fn check_clean(&self) {
        self.check_store();
        assert!(self.store.index().unwrap().manifests.is_empty());
        assert!(self.list("layers/sha256").is_empty(), "{:?}", self.list("layers/sha256"));
        assert!(self.list("tmp").is_empty(), "{:?}", self.list("tmp"));
    }
}

impl Place {
    /// What `fsck` does.
    pub(super) fn check_store(&self) {
        let _hold = self.store.hold().unwrap();
        let faults = self.store.check().unwrap();
        assert!(faults.is_empty(), "{faults:?}");
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, *data).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Bytes that do not compress, so that blobs have a size.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

pub(super) fn gzip_layer(tar: &[u8]) -> (&'static str, Vec<u8>, Digest) {
    (oci::OCI_LAYER_GZIP, gzip(tar), Digest::of(tar))
}

/// An image `app:1` of one gzip layer with noise in it; gives the registry and the layer's digest.
pub(super) fn simple() -> (Fake, String, Digest) {
    let fake = Fake::start();
    let layer = gzip_layer(&tar(&[("file", &noise(300_000))]));
    let digest = Digest::of(&layer.1);
    fake.put_image("1", &[layer]);
    let reference = format!("{}/app:1", fake.host);
    (fake, reference, digest)
}

fn is_blob(path: &str, digest: &Digest) -> bool {
    path.ends_with(&format!("/blobs/{digest}"))
}

#[test]
fn layers_of_every_compression_are_unpacked_and_a_second_pull_asks_only_for_the_digest() {
    let fake = Fake::start();
    let tars = [tar(&[("a", b"1")]), tar(&[("b", b"2")]), tar(&[("c", b"3")])];
    let zstd = zstd::encode_all(&tars[1][..], 3).unwrap();
    fake.put_image(
        "1",
        &[
            gzip_layer(&tars[0]),
            (oci::OCI_LAYER_ZSTD, zstd, Digest::of(&tars[1])),
            ("application/vnd.docker.image.rootfs.diff.tar", tars[2].clone(), Digest::of(&tars[2])),
        ],
    );
    let place = Place::new();
    let reference = format!("{}/app:1", fake.host);
    let (image, layers) = place.pull(&reference).unwrap();
    for (layer, (name, text)) in layers.iter().zip([("a", "1"), ("b", "2"), ("c", "3")]) {
        assert_eq!(fs::read_to_string(layer.diff().join(name)).unwrap(), text);
    }
    assert!(image.manifest.layers.iter().all(|layer| place.store.has_blob(layer)));
    assert!(place.list("tmp").is_empty() && place.list("ingest").is_empty());
    let before = fake.requests("").len();
    place.pull(&reference).unwrap();
    let asked = fake.requests("").split_off(before);
    assert_eq!(asked.iter().map(|r| r.method.as_str()).collect::<Vec<_>>(), ["HEAD"]);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let (fake, reference, digest) = simple();
    let (broken, blob) = (digest.clone(), fake.blob(&digest));
    fake.fault(move |request, before| {
        let whole = Reply { body: blob.clone(), ..Reply::status(200) };
        (before == 0 && is_blob(&request.path, &broken)).then(|| whole.cut_after(100_000))
    });
    let place = Place::new();
    place.pull(&reference).unwrap();
    let asked = fake.requests(digest.hex());
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("range"), Some("bytes=100000-"));
}

#[test]
fn a_server_without_ranges_is_read_again_from_the_start() {
    let (fake, reference, digest) = simple();
    fake.without_ranges();
    let (broken, blob) = (digest.clone(), fake.blob(&digest));
    fake.fault(move |request, before| {
        let whole = Reply { body: blob.clone(), ..Reply::status(200) };
        (before == 0 && is_blob(&request.path, &broken)).then(|| whole.cut_after(100_000))
    });
    Place::new().pull(&reference).unwrap();
}

#[test]
fn a_pull_that_failed_is_taken_up_by_the_next() {
    let (fake, reference, digest) = simple();
    let (broken, blob) = (digest.clone(), fake.blob(&digest));
    // Breaks off at 100,000 bytes, and then gives nothing more.
    fake.fault(move |request, before| {
        let range = request.header("range").is_some();
        let whole = Reply { body: blob.clone(), ..Reply::status(200) };
        is_blob(&request.path, &broken).then(|| {
            if before == 0 && !range { whole.cut_after(100_000) } else { Reply::status(503).with("Retry-After", "0") }
        })
    });
    let place = Place::new();
    let error = place.error(&reference);
    assert!(error.starts_with(&format!("layer {digest}: download: ")), "{error}");
    place.check_clean();
    assert_eq!(place.list("ingest"), [format!("sha256-{}.partial", digest.hex())]);
    fake.honest_again();
    let before = fake.requests(digest.hex()).len();
    place.pull(&reference).unwrap();
    let asked = fake.requests(digest.hex()).split_off(before);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), Some("bytes=100000-"));
    assert!(place.list("ingest").is_empty());
}

#[test]
fn a_truncated_blob_is_named_as_such() {
    let (fake, reference, digest) = simple();
    let (broken, blob) = (digest.clone(), fake.blob(&digest));
    fake.fault(move |request, _| {
        // A server that believes the blob is shorter than the manifest says.
        let short = Reply {
            body: if request.header("range").is_some() { Vec::new() } else { blob[..1000].to_vec() },
            ..Reply::status(200)
        };
        is_blob(&request.path, &broken).then_some(short)
    });
    let place = Place::new();
    let error = place.error(&reference);
    assert!(error.contains(&digest.to_string()) && error.contains("the registry has 1000 bytes"), "{error}");
    place.check_clean();
}

#[test]
fn an_altered_blob_is_refused_and_not_kept() {
    let (fake, reference, digest) = simple();
    for at in [20, 50_000, 299_000] {
        let (broken, mut blob) = (digest.clone(), fake.blob(&digest));
        blob[at] ^= 0x40;
        fake.fault(move |request, _| {
            is_blob(&request.path, &broken).then(|| Reply { body: blob.clone(), ..Reply::status(200) })
        });
        let place = Place::new();
        let error = place.error(&reference);
        assert!(error.starts_with(&format!("layer {digest}: digest mismatch: got sha256:")), "{at}: {error}");
        place.check_clean();
        assert!(place.list("ingest").is_empty());
    }
}

#[test]
fn a_damaged_beginning_from_an_earlier_pull_is_fetched_again() {
    let (fake, reference, digest) = simple();
    let place = Place::new();
    fs::write(place.store.path(format!("ingest/sha256-{}.partial", digest.hex())), noise(5000)).unwrap();
    place.pull(&reference).unwrap();
    assert_eq!(fake.requests(digest.hex()).len(), 2, "once from 5000 on, once from the start");
}

#[test]
fn a_blob_that_does_not_end_is_refused() {
    let (fake, reference, digest) = simple();
    let (broken, mut blob) = (digest.clone(), fake.blob(&digest));
    blob.extend(noise(100_000));
    fake.fault(move |request, _| {
        is_blob(&request.path, &broken).then(|| Reply { body: blob.clone(), ..Reply::status(200) })
    });
    let place = Place::new();
    let error = place.error(&reference);
    assert!(error.contains("size mismatch: the registry has"), "{error}");
    place.check_clean();
}

#[test]
fn a_manifest_must_be_the_one_that_was_asked_for() {
    let (fake, reference, _) = simple();
    let wrong = Digest::of(b"another");
    let manifest = fake.requests("").len();
    assert_eq!(manifest, 0);
    let image = Place::new().pull(&reference).unwrap().0;
    let bytes = format!("{{\"schemaVersion\":2,\"was\":\"{}\"}}", image.descriptor.digest);
    fake.put(&format!("manifests/{wrong}"), oci::OCI_MANIFEST, bytes.as_bytes());
    let place = Place::new();
    let error = place.error(&format!("{}/app@{wrong}", fake.host));
    assert!(error.contains("digest mismatch"), "{error}");
    place.check_clean();
    place.pull(&format!("{}/app@{}", fake.host, image.descriptor.digest)).unwrap();
}

#[test]
fn documents_that_can_be_read_in_two_ways_are_refused() {
    let (fake, _, _) = simple();
    let config = fake.put_blob(oci::OCI_CONFIG, b"{}");
    let both = json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []});
    fake.put_manifest("both", oci::OCI_MANIFEST, &both);
    let lying = json!({"schemaVersion": 2, "mediaType": oci::OCI_INDEX, "manifests": []});
    fake.put_manifest("lying", oci::OCI_MANIFEST, &lying);
    let traversal = json!({"schemaVersion": 2, "config": config,
        "layers": [{"mediaType": oci::OCI_LAYER, "digest": "sha256:../../../../etc/passwd", "size": 1}]});
    fake.put_manifest("traversal", oci::OCI_MANIFEST, &traversal);
    let huge = json!({"schemaVersion": 2, "config": {"mediaType": oci::OCI_CONFIG, "digest": config["digest"], "size": 1u64 << 40}, "layers": []});
    fake.put_manifest("huge", oci::OCI_MANIFEST, &huge);
    fake.put("manifests/big", oci::OCI_MANIFEST, &vec![b' '; (oci::MANIFEST_MAX + 1) as usize]);
    let place = Place::new();
    for (tag, want) in [
        ("both", "both an index"),
        ("lying", "delivered as"),
        ("traversal", "digest"),
        ("huge", "at most"),
        ("big", "larger than"),
    ] {
        let error = place.error(&format!("{}/app:{tag}", fake.host));
        assert!(error.contains(want), "{tag}: {error}");
        place.check_clean();
    }
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    let (fake, reference, digest) = simple();
    let elsewhere = Fake::start();
    let (broken, blob, target) = (digest.clone(), fake.blob(&digest), format!("http://{}/away?sig=1", elsewhere.host));
    elsewhere.fault(move |_, _| Some(Reply { body: blob.clone(), ..Reply::status(200) }));
    fake.fault(move |request, _| {
        if request.header("authorization") != Some("Basic dXNlcjpwYXNz") {
            return Some(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""));
        }
        is_blob(&request.path, &broken).then(|| Reply::status(307).with("Location", &target))
    });
    let mut place = Place::new();
    place.login("user:pass");
    place.pull(&reference).unwrap();
    let seen = elsewhere.requests("/away");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None, "CVE-2020-15157");
    assert!(fake.requests("/blobs/").iter().all(|r| r.header("authorization").is_some()));
}

#[test]
fn redirects_in_a_circle_end() {
    let (fake, reference, digest) = simple();
    fake.fault(move |request, _| {
        is_blob(&request.path, &digest).then(|| Reply::status(302).with("Location", &request.path))
    });
    assert!(Place::new().error(&reference).contains("more than 5 redirects"));
}

#[test]
fn a_login_that_is_missing_or_wrong_is_named() {
    let (fake, reference, _) = simple();
    fake.fault(|_, _| Some(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\"")));
    let mut place = Place::new();
    assert!(place.error(&reference).contains("--creds"));
    place.login("user:wrong");
    assert!(place.error(&reference).contains("not authorized"));
    place.check_clean();
}

#[test]
fn a_token_is_fetched_where_the_registry_says_and_used_there_only() {
    let (fake, reference, _) = simple();
    let issuer = Fake::start();
    issuer.fault(|request, _| {
        let good = request.path == "/token?scope=repository:app:pull&service=the%20registry"
            && request.header("authorization") == Some("Basic dXNlcjpwYXNz");
        Some(if good {
            Reply { body: br#"{"token":"t0ken"}"#.to_vec(), ..Reply::status(200) }
        } else {
            Reply::status(403)
        })
    });
    let realm =
        format!("Bearer realm=\"http://{}/token\",service=\"the registry\",scope=\"repository:app:pull\"", issuer.host);
    fake.fault(move |request, _| {
        (request.header("authorization") != Some("Bearer t0ken"))
            .then(|| Reply::status(401).with("WWW-Authenticate", &realm))
    });
    let mut place = Place::new();
    place.login("user:pass");
    place.pull(&reference).unwrap();
    assert_eq!(issuer.requests("").len(), 1, "one token serves the whole pull");
    let mut other = Place::new();
    other.login("user:wrong");
    let error = other.error(&reference);
    assert!(error.contains("login refused"), "{error}");
}

#[test]
fn a_busy_registry_is_asked_again() {
    let (fake, reference, digest) = simple();
    fake.fault(move |request, before| match before {
        0 if request.path.contains("manifests") => Some(Reply::status(503)),
        0 if is_blob(&request.path, &digest) => Some(Reply::status(429).with("Retry-After", "0")),
        _ => None,
    });
    Place::new().pull(&reference).unwrap();
}

#[test]
fn a_registry_that_asks_for_a_long_wait_is_not_waited_for() {
    let (fake, reference, _) = simple();
    fake.fault(|_, _| Some(Reply::status(429).with("Retry-After", "3600")));
    let error = Place::new().error(&reference);
    assert!(error.contains("come back in 3600 seconds"), "{error}");
    assert_eq!(fake.requests("manifests").len(), 1);
}

#[test]
fn the_registrys_own_words_are_in_the_error() {
    let (fake, reference, _) = simple();
    let body = br#"{"errors":[{"code":"DENIED","message":"not for\u001b[31m you\nat all"}]}"#;
    fake.fault(|_, _| Some(Reply { body: body.to_vec(), ..Reply::status(403) }));
    let error = Place::new().error(&reference);
    assert!(error.ends_with("access denied (not for [31m you at all)"), "{error:?}");
}

#[test]
fn the_platform_is_chosen_from_an_index() {
    let fake = Fake::start();
    let mut mine = fake.put_image("mine", &[gzip_layer(&tar(&[("mine", b"")]))]);
    let mut other = fake.put_image("other", &[gzip_layer(&tar(&[("other", b"")]))]);
    mine["platform"] = json!({"os": "linux", "architecture": Platform::host().architecture});
    other["platform"] = json!({"os": "linux", "architecture": "vax"});
    let index = json!({"schemaVersion": 2, "mediaType": oci::OCI_INDEX, "manifests": [other, mine]});
    fake.put_manifest("multi", oci::OCI_INDEX, &index);
    fake.put_manifest("foreign", oci::OCI_INDEX, &json!({"schemaVersion": 2, "manifests": [other]}));
    let place = Place::new();
    let (image, layers) = place.pull(&format!("{}/app:multi", fake.host)).unwrap();
    assert!(layers[0].diff().join("mine").exists());
    assert_ne!(image.entry.annotation(SOURCE), Some(image.descriptor.digest.to_string().as_str()));
    let error = place.error(&format!("{}/app:foreign", fake.host));
    assert!(error.contains("the index has linux/vax"), "{error}");
}

#[test]
fn two_pulls_at_once_share_the_work() {
    let (fake, reference, digest) = simple();
    let place = Place::new();
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| place.pull(&reference).map(drop))).collect();
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(fake.requests(digest.hex()).len(), 1);
    assert_eq!(place.store.index().unwrap().manifests.len(), 1);
}

#[test]
fn a_hostile_layer_leaves_nothing_behind() {
    let fake = Fake::start();
    let hostile = gzip_layer(&tar(&[("../evil", b"x")]));
    let bad = Digest::of(&hostile.1);
    fake.put_image("1", &[gzip_layer(&tar(&[("fine", b"")])), hostile]);
    let place = Place::new();
    let error = place.error(&format!("{}/app:1", fake.host));
    assert!(error.contains("../evil: leaves the layer's root"), "{error}");
    place.check_store();
    assert!(place.store.index().unwrap().manifests.is_empty());
    assert!(place.list("tmp").is_empty());
    // The good layer may have been stopped half-way, to be taken up again; of the bad one nothing stays.
    assert!(!place.list("ingest").iter().any(|name| name.contains(bad.hex())));
    place.store.collect().unwrap();
    assert!(place.list("layers/sha256").is_empty() && place.list("blobs/sha256").is_empty());
    assert!(place.dir.path().join("store").exists() && !place.dir.path().join("evil").exists());
}

#[test]
fn layers_that_lean_on_lower_ones_are_unpacked_over_them() {
    let fake = Fake::start();
    let mut base = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_path("srv/").unwrap();
    header.set_mode(0o1750);
    header.set_uid(33);
    header.set_size(0);
    header.set_cksum();
    base.append(&header, &[][..]).unwrap();
    let base = base.into_inner().unwrap();
    let leaning = tar(&[("srv/x", b"1")]);
    fake.put_image("1", &[gzip_layer(&base), gzip_layer(&leaning)]);
    fake.put_image("2", &[gzip_layer(&leaning)]);
    let place = Place::new();
    let alone = place.pull(&format!("{}/app:2", fake.host)).unwrap().1.remove(0);
    let over = place.pull(&format!("{}/app:1", fake.host)).unwrap().1.remove(1);
    let mode = |layer: &Layer| {
        use std::os::unix::fs::MetadataExt as _;
        let meta = fs::metadata(layer.diff().join("srv")).unwrap();
        (meta.mode() & 0o7777, meta.uid())
    };
    assert_eq!(mode(&alone), (0o755, 0));
    assert_eq!(mode(&over), (0o1750, 33));
    assert_ne!(alone.key, over.key);
}

#[test]
fn a_registry_that_is_not_there_is_named_at_once() {
    let place = Place::new();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = place.error(&format!("127.0.0.1:{port}/app:1"));
    assert_eq!(error, format!("registry 127.0.0.1:{port}: Connection refused"));
    place.check_clean();
}
