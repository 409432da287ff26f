//! Pulls from a registry that does as it is told: what is pulled, how, and that a store is sound afterwards.

mod attacks;
mod broken;
mod fake;
mod logins;
mod sent;

use std::fs;
use std::io::Write as _;

use serde_json::json;

use self::fake::Fake;
use super::*;
use crate::oci;

/// A store of its own.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
    access: Access,
    progress: Progress,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(&dir.path().join("store")).unwrap();
        store.create().unwrap();
        // An empty file keeps the credentials of whoever runs the test out of it.
        let authfile = dir.path().join("auth.json");
        fs::write(&authfile, "{}").unwrap();
        let access = Access { authfile: Some(authfile), ..Access::default() };
        Self { dir, store, access, progress: Progress::Quiet }
    }

    fn login(&mut self, credential: &str) {
        self.access.credential = Some(credential.parse().unwrap());
    }

    fn pull(&self, reference: &str) -> Result<(Image, Vec<Layer>)> {
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

    fn error(&self, reference: &str) -> String {
        self.pull(reference).map(|(image, _)| image.display()).expect_err("must fail").to_string()
    }

    fn list(&self, below: &str) -> Vec<String> {
        let Ok(list) = fs::read_dir(self.store.path(below)) else {
            return Vec::new();
        };
        list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// After a failure there is no name, no layer, nothing half-made, and no fault that `fsck` finds.
    fn check_clean(&self) {
        self.check_store();
        assert!(self.store.index().unwrap().manifests.is_empty());
        assert!(self.list("layers/sha256").is_empty(), "{:?}", self.list("layers/sha256"));
        assert!(self.list("tmp").is_empty(), "{:?}", self.list("tmp"));
    }
}

impl Place {
    /// What `fsck` does.
    fn check_store(&self) {
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
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn gzip_layer(tar: &[u8]) -> (&'static str, Vec<u8>, Digest) {
    (oci::OCI_LAYER_GZIP, gzip(tar), Digest::of(tar))
}

/// An image `app:1` of one gzip layer with noise in it; gives the registry and the layer's digest.
fn simple() -> (Fake, String, Digest) {
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
fn as_many_layers_as_allowed_are_fetched_at_a_time() {
    let fake = Fake::start();
    let layers: Vec<_> = (0..7).map(|n| gzip_layer(&tar(&[(&format!("f{n}"), &noise(20_000 + n))]))).collect();
    fake.put_image("1", &layers);
    fake.gather(3);
    Place::new().pull(&format!("{}/app:1", fake.host)).unwrap();
    assert_eq!(fake.gathered(), 3);
}

/// The same tar in the forms of lazy pullers: whoever does not know them reads a plain layer.
#[test]
fn layers_of_estargz_and_zstd_chunked_are_the_layers_that_they_are() {
    let (one, two) = (tar(&[("a", &noise(30_000))]), tar(&[("b", b"2"), ("stargz.index.json", b"{}")]));
    // The end of an archive comes once.
    let parts = [&one[..one.len() - 1024], &two[..]];
    let whole = parts.concat();
    let mut footer = flate2::GzBuilder::new()
        .extra(b"SG\x16\x000000000000000000STARGZ".to_vec())
        .write(Vec::new(), flate2::Compression::none());
    footer.flush().unwrap();
    let estargz = [gzip(parts[0]), gzip(parts[1]), footer.finish().unwrap()].concat();
    let skippable = |content: &[u8]| {
        [&0x184d_2a50_u32.to_le_bytes()[..], &u32::try_from(content.len()).unwrap().to_le_bytes(), content].concat()
    };
    let mut chunked: Vec<u8> = parts.iter().flat_map(|part| zstd::encode_all(*part, 3).unwrap()).collect();
    chunked.extend(skippable(&zstd::encode_all(&b"{\"version\":1,\"entries\":[]}"[..], 3).unwrap()));
    chunked.extend(skippable(b"GNUlInUx0000000000000000000000000000000000000000"));
    for (kind, blob) in [(oci::OCI_LAYER_GZIP, estargz), (oci::OCI_LAYER_ZSTD, chunked)] {
        let fake = Fake::start();
        fake.put_image("1", &[(kind, blob, Digest::of(&whole))]);
        let place = Place::new();
        let layers = place.pull(&format!("{}/app:1", fake.host)).unwrap().1;
        assert_eq!(fs::read(layers[0].diff().join("a")).unwrap(), noise(30_000));
        assert_eq!(fs::read_to_string(layers[0].diff().join("b")).unwrap(), "2");
        place.check_store();
    }
}
