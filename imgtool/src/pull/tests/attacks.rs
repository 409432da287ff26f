//! Hostile layers and hostile registries, by number where they have one: each is refused in one line that says why, or does no
//! harm; nothing outside of the store changes; the store has no fault afterwards, and an honest image can be pulled into it.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::*;
use crate::layer::tests::{Spec, Tar};
use crate::oci;

/// What becomes of an attack.
enum End {
    Refused(&'static str),
    Harmless,
}
use End::{Harmless, Refused};

/// A regular file's header that says anything of its size.
fn sized(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Name, the uncompressed tar, and the end.
fn layers() -> Vec<(&'static str, Vec<u8>, End)> {
    let t = Tar::default;
    let owned = |owner| t().add(Spec { name: b"f", owner, ..Spec::default() }).bytes();
    let device = |kind| Spec { kind, name: b"dev", mode: 0o666, device: (1, 1), ..Spec::default() };
    let long = "x".repeat(5000);
    vec![
        ("..", t().file("../evil", "x").bytes(), Refused("leaves the layer's root")),
        (".. in the middle", t().file("a/../../evil", "x").bytes(), Refused("leaves the layer's root")),
        (".. by PAX", t().pax(&[("path", b"../../evil")]).file("f", "x").bytes(), Refused("leaves the layer's root")),
        ("absolute", t().file("/tmp/tare-evil", "x").bytes(), Harmless),
        ("through a symlink", t().symlink("way", "/../../../outside").file("way/evil", "x").bytes(), Harmless),
        ("through two", t().symlink("a", "b").symlink("b", "../../..").file("a/evil", "x").bytes(), Harmless),
        ("onto a symlink", t().symlink("f", "../../../outside/witness").file("f", "x").bytes(), Harmless),
        ("symlink as root", t().symlink("./", "/").bytes(), Refused("root must be a directory")),
        ("symlinks in a circle", t().symlink("a", "b").symlink("b", "a").file("a/f", "").bytes(), Refused("symlinks")),
        ("hardlink by ..", t().hardlink("f", "../../../outside/witness").bytes(), Refused("leaves the layer's root")),
        ("hardlink to the host", t().hardlink("f", "/etc/passwd").bytes(), Refused("does not exist")),
        (
            "hardlink through a symlink",
            t().symlink("d", "../../../outside").hardlink("f", "d/witness").bytes(),
            Refused("does not exist"),
        ),
        ("whiteout through a symlink", t().symlink("d", "/../../outside").file("d/.wh.witness", "").bytes(), Harmless),
        ("opaque through a symlink", t().symlink("d", "/../../outside").file("d/.wh..wh..opq", "").bytes(), Harmless),
        ("whiteout of ..", t().dir("d").file("d/.wh...", "").bytes(), Refused("whiteout")),
        ("whiteout of .", t().dir("d").file("d/.wh..", "").bytes(), Refused("whiteout")),
        ("whiteout of nothing", t().file(".wh.", "").bytes(), Refused("whiteout")),
        ("below a whiteout", t().file(".wh.d/f", "").bytes(), Refused("not a directory")),
        (
            "overlayfs' own attributes",
            t().pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc")]).dir("d").bytes(),
            Harmless,
        ),
        (
            "labels of the host",
            t().pax(&[("SCHILY.xattr.security.selinux", b"system_u:object_r:shadow_t:s0")]).file("f", "").bytes(),
            Harmless,
        ),
        (
            "attribute larger than the kernel's",
            t().pax(&[("SCHILY.xattr.user.x", &noise(70_000))]).file("f", "").bytes(),
            Refused("at most 65536"),
        ),
        ("character device", t().add(device(b'3')).bytes(), Harmless),
        ("block device", t().add(device(b'4')).bytes(), Harmless),
        ("uid -1", owned((u64::from(u32::MAX), 0)), Refused("out of range")),
        ("gid above 32 bits", owned((0, 1 << 32)), Refused("out of range")),
        ("uid by PAX", t().pax(&[("uid", b"4294967296")]).file("f", "").bytes(), Refused("out of range")),
        (
            "file in place of a directory",
            t().dir("d").file("d/f", "").file("d", "").file("d/g", "").bytes(),
            Refused("not a directory"),
        ),
        (
            "symlink in place of a directory",
            t().dir("d").symlink("d", "/../../outside").file("d/evil", "").bytes(),
            Harmless,
        ),
        ("CVE-2025-62518", t().pax(&[("size", b"1024")]).file("f", "").file("../evil", "x").bytes(), Harmless),
        ("negative size", t().pax(&[("size", b"-1")]).file("f", "").bytes(), Refused("invalid value")),
        (
            "size above all",
            t().pax(&[("size", b"18446744073709551615")]).file("f", "").bytes(),
            Refused("unpacks to more"),
        ),
        (
            "sparse of an exbibyte",
            t().pax(&[("GNU.sparse.size", b"1152921504606846976"), ("GNU.sparse.map", b"0,0")]).file("f", "").bytes(),
            Refused("unpacks to more"),
        ),
        (
            "sparse that overflows",
            t().pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"18446744073709551615,2")])
                .file("f", "xx")
                .bytes(),
            Refused("sparse map"),
        ),
        ("path of 5000 bytes", t().pax(&[("path", long.as_bytes())]).file("f", "").bytes(), Refused("at most 4096")),
        (
            "name of 300 bytes",
            t().pax(&[("path", "x".repeat(300).as_bytes())]).file("f", "").bytes(),
            Refused("name too long"),
        ),
        ("NUL in a path", t().pax(&[("path", b"a\0b")]).file("f", "").bytes(), Refused("invalid value")),
        (
            "extension of gigabytes",
            {
                let mut h = tar::Header::new_gnu();
                h.set_entry_type(tar::EntryType::XHeader);
                h.set_size(8 << 30);
                h.set_cksum();
                h.as_bytes().to_vec()
            },
            Refused("extension header of"),
        ),
        ("bomb of zeros", [sized("f", 2 << 30), vec![0; 1 << 20]].concat(), Refused("--max-layer-size")),
        ("no archive", noise(4096), Refused("tar:")),
        ("archive that ends early", sized("f", 100_000), Refused("ends in the middle")),
    ]
}

#[test]
fn hostile_layers_of_every_compression() {
    let fake = Fake::start();
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("witness"), "untouched").unwrap();
    type Compress = fn(&[u8]) -> Vec<u8>;
    let forms: [(&str, Compress); 3] =
        [(oci::OCI_LAYER_GZIP, gzip), (oci::OCI_LAYER_ZSTD, zstd), (oci::OCI_LAYER, <[u8]>::to_vec)];
    for (name, bytes, end) in layers() {
        for (media_type, compress) in forms {
            let what = format!("{name} as {media_type}");
            fake.put_image("1", &[(media_type, compress(&bytes), Digest::of(&bytes))]);
            match (place.pull(&format!("{}/app:1", fake.host)), &end) {
                (Ok((_, layers)), Harmless) => {
                    for (attribute, path) in [("trusted.overlay.redirect", "d"), ("security.selinux", "f")] {
                        let mut value = [0; 64];
                        let read = rustix::fs::lgetxattr(layers[0].diff().join(path), attribute, &mut value[..]);
                        assert!(read.is_err(), "{what}: {attribute} was set");
                    }
                    assert!(!layers[0].diff().join("../evil").exists(), "{what}");
                }
                (Err(e), Refused(word)) => {
                    let error = e.to_string();
                    assert!(error.contains(word) && !error.contains('\n'), "{what}: {error}");
                }
                (Ok(_), Refused(_)) => panic!("{what}: was taken"),
                (Err(e), Harmless) => panic!("{what}: {e}"),
            }
            let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["witness"], "{what}");
            assert_eq!(fs::read_to_string(outside.join("witness")).unwrap(), "untouched", "{what}");
            let mut beside: Vec<_> = fs::read_dir(place.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            beside.sort();
            assert_eq!(beside, ["auth.json", "outside", "store"], "{what}");
            assert!(!std::path::Path::new("/tmp/tare-evil").exists());
            assert!(place.list("tmp").is_empty(), "{what}: {:?}", place.list("tmp"));
            // A blob that is gone from the registry must be gone here too, or the next one would not be fetched.
            place
                .store
                .update_index(|index| {
                    index.manifests.clear();
                    Ok(())
                })
                .unwrap();
            place.store.collect().unwrap();
            place.check_clean();
        }
    }
    let (_fake, reference, _) = simple();
    place.pull(&reference).unwrap();
    place.check_store();
}

#[test]
fn a_zstd_window_of_gigabytes_is_refused() {
    let fake = Fake::start();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(30).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&sized("f", 0)).unwrap();
    encoder.write_all(&noise(2 << 20)).unwrap();
    let blob = encoder.finish().unwrap();
    fake.put_image("1", &[(oci::OCI_LAYER_ZSTD, blob, Digest::of(b"never reached"))]);
    let place = Place::new();
    let error = place.error(&format!("{}/app:1", fake.host));
    assert!(error.contains("memory") || error.contains("window"), "{error}");
    place.check_clean();
}

/// Documents by tag: what is wrong with them, and the word of the refusal.
#[test]
fn hostile_documents() {
    let (fake, honest, _) = simple();
    let config = fake.put_blob(oci::OCI_CONFIG, b"{}");
    let layer = fake.put_blob(oci::OCI_LAYER, &Tar::default().file("f", "").bytes());
    let manifest = |config: &Value, layers: &[&Value]| json!({"schemaVersion": 2, "mediaType": oci::OCI_MANIFEST, "config": config, "layers": layers});
    let with = |base: &Value, key: &str, value: Value| {
        let mut changed = base.clone();
        changed[key] = value;
        changed
    };
    let put = |tag: &str, document: &Value| drop(fake.put_manifest(tag, oci::OCI_MANIFEST, document));
    // CVE-2021-41190: the same bytes as manifest and as index.
    put("confusion", &with(&manifest(&config, &[]), "manifests", json!([])));
    put("delivered-as", &json!({"schemaVersion": 2, "mediaType": oci::OCI_INDEX, "manifests": []}));
    // CVE-2024-3727: digests that are no digests.
    for (tag, digest) in [
        ("digest-path", "sha256:../../../../etc/passwd"),
        ("digest-short", "sha256:abc"),
        ("digest-upper", &format!("sha256:{}", "A".repeat(64))),
        ("digest-algorithm", "md5:d41d8cd98f00b204e9800998ecf8427e"),
        ("digest-empty", ""),
        ("digest-number", "7"),
    ] {
        put(tag, &manifest(&config, &[&with(&layer, "digest", json!(digest))]));
        put(&format!("config-{tag}"), &manifest(&with(&config, "digest", json!(digest)), &[]));
    }
    put("negative", &manifest(&config, &[&with(&layer, "size", json!(-1))]));
    put("config-huge", &manifest(&with(&config, "size", json!(1_u64 << 40)), &[]));
    put("config-other-size", &manifest(&with(&config, "size", json!(3)), &[]));
    put("diff-ids", &manifest(&config, &[&layer]));
    let wrong = fake.put_blob(
        oci::OCI_CONFIG,
        json!({"rootfs": {"type": "layers", "diff_ids": ["sha256:../x"]}}).to_string().as_bytes(),
    );
    put("diff-id-path", &manifest(&wrong, &[&layer]));
    let other = fake.put_blob(oci::OCI_CONFIG, json!({"os": "linux", "architecture": Platform::host().architecture, "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"other").to_string()]}}).to_string().as_bytes());
    put("diff-id-other", &manifest(&other, &[&layer]));
    put(
        "layer-type",
        &manifest(&other, &[&with(&layer, "mediaType", json!("application/vnd.oci.image.layer.v1.tar+encrypted"))]),
    );
    put("schema-1", &json!({"schemaVersion": 1, "fsLayers": []}));
    // An index of itself cannot be made; one in one in one can.
    let mut nested = fake.put_manifest(
        "n0",
        oci::OCI_INDEX,
        &json!({"schemaVersion": 2, "mediaType": oci::OCI_INDEX, "manifests": []}),
    );
    for n in 1..8 {
        nested["platform"] = json!({"os": "linux", "architecture": Platform::host().architecture});
        nested = fake.put_manifest(
            &format!("n{n}"),
            oci::OCI_INDEX,
            &json!({"schemaVersion": 2, "mediaType": oci::OCI_INDEX, "manifests": [nested]}),
        );
    }
    fake.put("manifests/big", oci::OCI_MANIFEST, &vec![b' '; usize::try_from(oci::MANIFEST_MAX + 1).unwrap()]);
    fake.put("manifests/deep", oci::OCI_MANIFEST, format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes());
    fake.put("manifests/words", oci::OCI_MANIFEST, b"no JSON\x1b[31m");
    let place = Place::new();
    for (tag, word) in [
        ("confusion", "both an index"),
        ("delivered-as", "delivered as"),
        ("digest-path", "digest"),
        ("digest-short", "digest"),
        ("digest-upper", "digest"),
        ("digest-algorithm", "digest"),
        ("digest-empty", "digest"),
        ("digest-number", "digest"),
        ("config-digest-path", "digest"),
        ("config-digest-short", "digest"),
        ("config-digest-algorithm", "digest"),
        ("negative", "JSON"),
        ("config-huge", "at most"),
        ("config-other-size", "size mismatch"),
        ("diff-ids", "config"),
        ("diff-id-path", "digest"),
        ("diff-id-other", "the image config says"),
        ("layer-type", "unsupported media type"),
        ("schema-1", "schema 1"),
        ("n7", "index"),
        ("big", "larger than"),
        ("deep", "JSON"),
        ("words", "JSON"),
    ] {
        let error = place.error(&format!("{}/app:{tag}", fake.host));
        assert!(error.contains(word) && !error.contains(char::is_control), "{tag}: {error}");
        place.check_clean();
    }
    place.pull(&honest).unwrap();
    place.check_store();
}

#[test]
fn realms_that_get_no_password() {
    let (fake, reference, _) = simple();
    let thief = Fake::start();
    let mut place = Place::new();
    place.login("user:pass");
    for (realm, word) in [
        ("http://thief.example/token".to_owned(), "refused"),
        ("file:///etc/passwd".to_owned(), "realm"),
        ("gopher://127.0.0.1/x".to_owned(), "realm"),
        (format!("http://user@{}/token", thief.host), "realm"),
        (String::new(), "realm"),
        ("/token".to_owned(), "realm"),
    ] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        fake.fault(move |_, _| Some(Reply::status(401).with("WWW-Authenticate", &challenge)));
        let error = place.error(&reference);
        assert!(error.contains(word), "{realm}: {error}");
        place.check_clean();
    }
    assert!(thief.requests("").is_empty());
}

#[test]
fn hostile_token_servers() {
    let (fake, reference, _) = simple();
    let issuer = Fake::start();
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", issuer.host);
    fake.fault(move |_, _| Some(Reply::status(401).with("WWW-Authenticate", &realm)));
    let place = Place::new();
    for (body, word) in [
        (vec![b' '; 2 << 20], "token"),
        (b"{}".to_vec(), "no usable token"),
        (br#"{"token":"a\r\nHost: evil"}"#.to_vec(), "no usable token"),
        (br#"{"token":["a"]}"#.to_vec(), "JSON"),
        (b"\xff\xfe".to_vec(), "JSON"),
    ] {
        issuer.fault(move |_, _| Some(Reply { body: body.clone(), ..Reply::status(200) }));
        let error = place.error(&reference);
        assert!(error.contains(word), "{error}");
        place.check_clean();
    }
    // A token server that sends us on gets nothing there.
    let elsewhere = Fake::start();
    let target = format!("http://{}/away", elsewhere.host);
    issuer.fault(move |_, _| Some(Reply::status(307).with("Location", &target)));
    let mut place = Place::new();
    place.login("user:pass");
    place.error(&reference);
    assert!(elsewhere.requests("").iter().all(|request| request.header("authorization").is_none()), "CVE-2020-15157");
}

#[test]
fn lists_without_an_end() {
    let (fake, reference, digest) = simple();
    let place = Place::new();
    let registry = Registry::new(&reference.parse().unwrap(), &place.access, Arc::default());
    // Pages of four megabytes, of which each says that there is another.
    let tags = format!("{{\"tags\":[\"{}\"]}}", "t".repeat((4 << 20) - 100));
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    let index = format!("{index}{}", " ".repeat((4 << 20) - 100));
    let next = |request: &super::fake::Request| {
        let (path, n) = request.path.split_once("?n=").unwrap_or((&request.path, "0"));
        let n = n.split('&').next().and_then(|n| n.parse::<u64>().ok()).map_or(1, |n| n + 1);
        // An address in the query is none to go to.
        format!("<{path}?n={n}&last=http://elsewhere.example/>; rel=\"next\"")
    };
    fake.fault(move |request, _| {
        let body = if request.path.contains("/tags/") { tags.clone() } else { index.clone() };
        Some(Reply { body: body.into_bytes(), ..Reply::status(200) }.with("Link", &next(request)))
    });
    let error = registry.tags().map(|tags| tags.len()).unwrap_err().to_string();
    assert!(error.contains("list of tags: larger than"), "{error}");
    let error = registry.referrers(&digest).map(|all| all.len()).unwrap_err().to_string();
    assert!(error.contains("list of referrers: larger than"), "{error}");
}

#[test]
fn lists_of_small_pages_without_an_end() {
    let (fake, reference, digest) = simple();
    let place = Place::new();
    let registry = Registry::new(&reference.parse().unwrap(), &place.access, Arc::default());
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    fake.fault(move |request, _| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = request.path.split('?').next().unwrap_or_default();
        let body = if path.contains("/tags/") { "{}" } else { r#"{"schemaVersion":2,"manifests":[]}"# };
        let next = format!("<{path}?last={n}>; rel=\"next\"");
        Some(Reply { body: body.into(), ..Reply::status(200) }.with("Link", &next))
    });
    let error = registry.tags().map(|tags| tags.len()).unwrap_err().to_string();
    assert!(error.contains("list of tags: more than") && error.contains("pages"), "{error}");
    let pages = asked.swap(0, std::sync::atomic::Ordering::Relaxed);
    let error = registry.referrers(&digest).map(|all| all.len()).unwrap_err().to_string();
    assert!(error.contains("list of referrers: more than") && error.contains("pages"), "{error}");
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), pages, "as many as of tags, and none again");
}

#[test]
fn redirects_that_are_not_followed() {
    let (fake, reference, digest) = simple();
    for (location, word) in [
        ("file:///etc/passwd", "neither http nor https"),
        ("gopher://127.0.0.1:1/", "neither"),
        ("http://user:pw@127.0.0.1:1/", "user name"),
    ] {
        let hex = digest.hex().to_owned();
        fake.fault(move |request, _| {
            request.path.contains(&hex).then(|| Reply::status(302).with("Location", location))
        });
        let place = Place::new();
        let error = place.error(&reference);
        assert!(error.contains(word), "{location}: {error}");
        place.check_clean();
    }
}
