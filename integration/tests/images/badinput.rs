//! What is broken or hostile is refused in one line, and the store is as it was.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use integration::command::tool;
use integration::peer::registry::Registry;
use integration::place::Place;

use crate::{refused, tar};

/// A registry with the small image, and its reference.
fn registry(place: &Place) -> (Registry, String) {
    let registry = Registry::start(&place.id, &place.dir);
    let maker = Place::new();
    maker.small_image();
    let archive = maker.dir.join("small.tar");
    maker.ours("imgtool", &["save", "--quiet", "-o", archive.to_str().unwrap(), "small:1"]).ok();
    let reference = format!("{}/small:1", registry.host);
    let (source, target) = (format!("oci-archive:{}", archive.display()), format!("docker://{reference}"));
    tool("skopeo", &["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &source, &target]).ok();
    (registry, reference)
}

/// The registry's file of the largest blob, which is the layer.
fn layer(place: &Place) -> PathBuf {
    let mut all = Vec::new();
    let root = place.dir.join("registry/data/docker/registry/v2/blobs/sha256");
    for two in fs::read_dir(root).unwrap().flatten() {
        for digest in fs::read_dir(two.path()).unwrap().flatten() {
            let data = digest.path().join("data");
            all.push((fs::metadata(&data).unwrap().len(), data));
        }
    }
    all.into_iter().max().unwrap().1
}

#[test]
fn a_truncated_blob() {
    let place = Place::new();
    let (_registry, reference) = registry(&place);
    let layer = layer(&place);
    let whole = fs::read(&layer).unwrap();
    fs::write(&layer, &whole[..whole.len() / 2]).unwrap();
    let digest = layer.parent().unwrap().file_name().unwrap().to_str().unwrap()[..12].to_owned();
    refused(&place, &["pull", "--quiet", &reference], &digest);
    // Once it is whole again the pull succeeds, whatever was kept of the first attempt.
    fs::write(&layer, &whole).unwrap();
    place.ours("imgtool", &["pull", "--quiet", &reference]).ok();
}

#[test]
fn a_blob_with_another_digest() {
    let place = Place::new();
    let (_registry, reference) = registry(&place);
    let layer = layer(&place);
    let whole = fs::read(&layer).unwrap();
    let digest = layer.parent().unwrap().file_name().unwrap().to_str().unwrap()[..12].to_owned();
    // One bit at the end, where gzip itself does not look any more, and one in the middle.
    for at in [whole.len() - 1, whole.len() / 2] {
        let mut broken = whole.clone();
        broken[at] ^= 1;
        fs::write(&layer, &broken).unwrap();
        refused(&place, &["pull", "--quiet", &reference], &digest);
    }
    fs::write(&layer, &whole).unwrap();
    place.ours("imgtool", &["pull", "--quiet", &reference]).ok();
}

#[test]
fn a_registry_that_cannot_be_reached() {
    let place = Place::new();
    // Nobody listens on port 1.
    refused(&place, &["pull", "--quiet", "127.0.0.1:1/some/image:1"], "127.0.0.1:1");
    refused(&place, &["bundle", "--quiet", "127.0.0.1:1/some/image:1"], "127.0.0.1:1");
}

#[test]
fn an_image_that_is_not_there() {
    let place = Place::new();
    let (registry, _) = registry(&place);
    for reference in ["none:1", "small:none"] {
        let reference = format!("{}/{reference}", registry.host);
        refused(&place, &["pull", "--quiet", &reference], &reference);
    }
    for verb in ["inspect", "rm", "save"] {
        let out = place.ours("imgtool", &[verb, "nobody:1"]);
        assert!(out.code == 1 && out.stderr.contains("nobody") && out.stderr.lines().count() == 1, "{out}");
    }
}

#[test]
fn a_reference_that_is_none() {
    let place = Place::new();
    for reference in ["", "UPPER/case", "a//b", "../up", "x:bad tag", "x@sha256:short", "-x"] {
        let out = place.ours("imgtool", &["pull", "--quiet", "--", reference]);
        assert!(matches!(out.code, 1 | 2), "{out}");
        assert!(!out.stderr.is_empty(), "{out}");
    }
}

#[test]
fn a_file_that_is_no_archive() {
    let place = Place::new();
    let file = place.dir.join("not-a-tar");
    fs::write(&file, "these are words and no archive".repeat(100)).unwrap();
    refused(&place, &["import", "--quiet", file.to_str().unwrap(), "x:1"], "not-a-tar");
    refused(&place, &["load", "--quiet", "-i", file.to_str().unwrap()], "not-a-tar");
    refused(&place, &["import", "--quiet", "/no/such/file", "x:1"], "/no/such/file");
    refused(&place, &["import", "--quiet", "/tmp", "x:1"], "/tmp");
}

#[test]
fn a_truncated_archive() {
    let place = Place::new();
    let whole = integration::peer::image::busybox_tar(&place.dir);
    let bytes = fs::read(&whole).unwrap();
    let half = place.dir.join("half.tar");
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    refused(&place, &["import", "--quiet", half.to_str().unwrap(), "x:1"], "half.tar");
    tool("gzip", &["-k", whole.to_str().unwrap()]).ok();
    let zipped = fs::read(whole.with_extension("tar.gz")).unwrap();
    fs::write(&half, &zipped[..zipped.len() / 2]).unwrap();
    refused(&place, &["import", "--quiet", half.to_str().unwrap(), "x:1"], "half.tar");
}

#[test]
fn an_archive_that_unpacks_to_too_much() {
    let place = Place::new();
    let maker = Place::new();
    maker.small_image();
    let archive = maker.dir.join("small.tar.docker");
    let save = ["save", "--quiet", "--format", "docker-archive", "-o", archive.to_str().unwrap(), "small:1"];
    maker.ours("imgtool", &save).ok();
    let bomb = place.dir.join("bomb.tar.zst");
    tool("zstd", &["-q", archive.to_str().unwrap(), "-o", bomb.to_str().unwrap()]).ok();
    let load = |size: &'static str| ["load", "--quiet", "--max-size", size, "-i", bomb.to_str().unwrap()];
    refused(&place, &load("1m"), "more than 1048576 bytes (--max-size");
    let (source, target) = (format!("docker-archive:{}", bomb.display()), place.dir.join("copied"));
    let target = format!("oci:{}", target.display());
    refused(&place, &["copy", "--quiet", "--max-size", "1m", &source, &target], "--max-size");
    place.ours("imgtool", &load("100m")).ok();
    // Of a tar that is imported the size is known, and with it what is a bomb.
    let zeros = place.dir.join("zeros.tar.zst");
    let script =
        "truncate -s 1100M \"$1/zeros\" && tar -C \"$1\" -cf - zeros | zstd -q -1 -o \"$2\" && rm \"$1/zeros\"";
    tool("sh", &["-c", script, "sh", place.dir.to_str().unwrap(), zeros.to_str().unwrap()]).ok();
    let out = place.ours("imgtool", &["import", "--quiet", zeros.to_str().unwrap(), "zeros:1"]);
    out.refused(&["--max-layer-size"]);
    place.ours("imgtool", &["fsck"]).ok();
}

/// A tar with these entries, made by python's tarfile, which writes whatever it is told to: (name, type, link, content).
fn hostile(place: &Place, entries: &[(&str, &str, &str, &str)]) -> PathBuf {
    let path = place.dir.join("hostile.tar");
    let list: Vec<serde_json::Value> = entries.iter().map(|(n, t, l, c)| serde_json::json!([n, t, l, c])).collect();
    let script = "import io, json, sys, tarfile\n\
        kinds = {'file': tarfile.REGTYPE, 'link': tarfile.SYMTYPE, 'hard': tarfile.LNKTYPE, 'dir': tarfile.DIRTYPE}\n\
        out = tarfile.open(sys.argv[1], 'w')\n\
        for name, kind, link, content in json.loads(sys.argv[2]):\n\
        \x20   entry = tarfile.TarInfo(name)\n\
        \x20   entry.type, entry.linkname, entry.size, entry.mode = kinds[kind], link, len(content), 0o755\n\
        \x20   out.addfile(entry, io.BytesIO(content.encode()))\n";
    let list = serde_json::Value::from(list).to_string();
    tool("python3", &["-c", script, path.to_str().unwrap(), &list]).ok();
    path
}

/// Imports the hostile tar: refused, or harmless because it stays inside. Nothing outside may change.
#[track_caller]
fn harmless(place: &Place, archive: &Path, outside: &Path) {
    let out = place.ours("imgtool", &["import", "--quiet", archive.to_str().unwrap(), "hostile:1"]);
    assert!(matches!(out.code, 0 | 1), "{out}");
    if out.code == 0 {
        let bundle = place.ours("imgtool", &["bundle", "--quiet", "hostile:1", "--", "x"]);
        if bundle.code == 0 {
            place.ours("imgtool", &["unbundle", bundle.stdout.trim()]).ok();
        }
        place.ours("imgtool", &["rm", "hostile:1"]).ok();
    } else {
        assert_eq!(out.stderr.lines().count(), 1, "{out}");
    }
    place.ours("imgtool", &["fsck"]).ok();
    let names: Vec<_> = fs::read_dir(outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["witness"], "something was made or removed outside");
    assert_eq!(fs::read_to_string(outside.join("witness")).unwrap(), "untouched");
}

#[test]
fn layers_that_try_to_leave_their_directory() {
    let place = Place::new();
    let outside = place.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("witness"), "untouched").unwrap();
    let out = outside.to_str().unwrap();
    let up = format!("../../../../../../../../../..{out}");
    let in_up = format!("{up}/evil");
    let in_out = format!("{out}/evil");
    let witness = format!("{out}/witness");
    let up_witness = format!("{up}/witness");
    let whiteout = format!("{up}/.wh.witness");
    let cases: &[&[(&str, &str, &str, &str)]] = &[
        &[(&in_up, "file", "", "evil")],
        &[(&in_out, "file", "", "evil")],
        &[("link", "link", out, ""), ("link/evil", "file", "", "evil")],
        &[("link", "link", &up, ""), ("link/evil", "file", "", "evil")],
        &[("a", "link", "b", ""), ("b", "link", out, ""), ("a/evil", "file", "", "evil")],
        &[("link", "link", &witness, ""), ("link", "file", "", "evil")],
        &[("link", "link", out, ""), ("link/", "dir", "", "")],
        &[("hard", "hard", &up_witness, ""), ("hard", "file", "", "evil")],
        &[("link", "link", out, ""), ("hard", "hard", "link/witness", ""), ("hard", "file", "", "evil")],
        &[(&whiteout, "file", "", "")],
        &[("link", "link", out, ""), ("link/.wh.witness", "file", "", "")],
        &[("link", "link", out, ""), ("link/.wh..wh..opq", "file", "", "")],
        &[("dir", "dir", "", ""), ("dir/.wh...", "file", "", "")],
    ];
    for entries in cases {
        let archive = hostile(&place, entries);
        harmless(&place, &archive, &outside);
    }
}

#[test]
fn a_directory_that_is_a_link_on_the_host_is_not_followed() {
    let place = Place::new();
    let outside = place.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("witness"), "untouched").unwrap();
    let root = place.dir.join("root");
    fs::create_dir(&root).unwrap();
    symlink(&outside, root.join("etc")).unwrap();
    let archive = place.dir.join("linked.tar");
    tar(&root, &archive);
    // The image's /etc leads out: neither passwd for USER nor files for the container may be looked for there.
    fs::write(place.dir.join("passwd"), "").unwrap();
    place.ours("imgtool", &["import", "--quiet", "-c", "USER web", archive.to_str().unwrap(), "linked:1"]).ok();
    let out = place.ours("imgtool", &["bundle", "--quiet", "linked:1", "--", "x"]);
    if out.code == 0 {
        place.ours("imgtool", &["unbundle", out.stdout.trim()]).ok();
    } else {
        assert_eq!(out.stderr.lines().count(), 1, "{out}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    place.ours("imgtool", &["rm", "linked:1"]).ok();
}

#[test]
fn a_user_that_the_image_does_not_know() {
    let place = Place::new();
    place.small_image();
    let out = place.ours("imgtool", &["bundle", "--quiet", "-u", "stranger", "small:1"]);
    assert!(out.code == 1 && out.stderr.contains("stranger") && out.stderr.lines().count() == 1, "{out}");
    assert!(integration::leak::mounts(&place.id).is_empty());
    assert_eq!(fs::read_dir(place.dir.join("store/bundles")).into_iter().flatten().count(), 0, "no half-made bundle");
    // CVE-2024-40635: a number that overflows must not become root.
    for user in ["4294967296", "99999999999", "-1", "0:4294967296"] {
        let user = format!("--user={user}");
        let out = place.ours("imgtool", &["bundle", "--quiet", &user, "small:1"]);
        assert!(out.code != 0, "{out}");
    }
    // The same said by an image, in its config and in its /etc/passwd.
    let root = place.dir.join("overflow");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "app:x:4294967296:0::/:/bin/sh\nneg:x:-1:0::/:/bin/sh\n").unwrap();
    let archive = place.dir.join("overflow.tar");
    tar(&root, &archive);
    for user in ["4294967296", "2147483648:0", "app", "neg"] {
        let change = format!("USER {user}");
        place.ours("imgtool", &["import", "-q", "-c", &change, archive.to_str().unwrap(), "hostile:1"]).ok();
        place.ours("imgtool", &["bundle", "-q", "hostile:1", "--", "x"]).refused(&[user]);
        place.ours("imgtool", &["fsck"]).ok();
    }
}
