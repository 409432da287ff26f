//! Archives and layouts: other tools read what we write, and we read theirs.

use std::fs;

use integration::command::tool;
use integration::peer::image;
use integration::place::Place;

use crate::{bundle, run};

#[test]
fn an_imported_tar_is_an_image() {
    let place = Place::new();
    place.small_image();
    let table = place.ours("imgtool", &["images"]).ok().stdout;
    assert!(table.contains("small") && table.contains('1'), "{table}");
    let inspected = place.ours("imgtool", &["inspect", "small:1"]).ok().json();
    assert!(inspected.to_string().contains("/probe"), "{inspected}");
    let id = place.ours("imgtool", &["images", "-q"]).ok().stdout.trim().to_owned();
    place.ours("imgtool", &["inspect", &id]).ok();
    place.ours("imgtool", &["rm", "small:1"]).ok();
    assert_eq!(place.ours("imgtool", &["images", "-q"]).ok().stdout, "");
    let blobs = fs::read_dir(place.dir.join("store/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 0, "what only that image used is gone");
}

#[test]
fn compressed_tars_are_imported_too() {
    let place = Place::new();
    let plain = image::busybox_tar(&place.dir);
    tool("gzip", &["-k", plain.to_str().unwrap()]).ok();
    tool("zstd", &["-q", "-k", plain.to_str().unwrap()]).ok();
    for (extension, name) in [("tar", "a:1"), ("tar.gz", "b:1"), ("tar.zst", "c:1")] {
        let tar = plain.with_extension(extension);
        place.ours("imgtool", &["import", "--quiet", tar.to_str().unwrap(), name]).ok();
        let path = bundle(&place, &[name, "--", "/probe", "say", name]);
        assert_eq!(run(&place, &path).ok().stdout, format!("{name}\n"));
        place.ours("imgtool", &["unbundle", &path]).ok();
    }
}

#[test]
fn skopeo_reads_both_archives_and_the_store() {
    let place = Place::new();
    place.small_image();
    for (format, transport) in [("oci-archive", "oci-archive"), ("docker-archive", "docker-archive")] {
        let archive = place.dir.join(format);
        place
            .ours("imgtool", &["save", "--quiet", "--format", format, "-o", archive.to_str().unwrap(), "small:1"])
            .ok();
        let copy = place.dir.join(format!("{format}.copy"));
        let (source, target) = (format!("{transport}:{}", archive.display()), format!("dir:{}", copy.display()));
        tool("skopeo", &["--insecure-policy", "copy", "-q", &source, &target]).ok();
        assert!(copy.join("manifest.json").exists());
    }
    // The store is an OCI layout as it lies there.
    let layout = place.dir.join("store");
    let index: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(layout.join("index.json")).unwrap()).unwrap();
    let name = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().expect("a name");
    let source = format!("oci:{}:{name}", layout.display());
    let target = format!("dir:{}", place.dir.join("layout.copy").display());
    tool("skopeo", &["--insecure-policy", "copy", "-q", &source, &target]).ok();
}

#[test]
fn archives_of_skopeo_are_loaded() {
    let place = Place::new();
    let other = Place::new();
    other.small_image();
    let ours = other.dir.join("ours.tar");
    other.ours("imgtool", &["save", "--quiet", "-o", ours.to_str().unwrap(), "small:1"]).ok();
    for transport in ["oci-archive", "docker-archive"] {
        let archive = place.dir.join(transport);
        let source = format!("oci-archive:{}", ours.display());
        let target = format!("{transport}:{}:theirs:{}", archive.display(), &transport[..3]);
        tool("skopeo", &["--insecure-policy", "copy", "-q", &source, &target]).ok();
        let name = format!("loaded-{}:1", &transport[..3]);
        place.ours("imgtool", &["load", "--quiet", "-i", archive.to_str().unwrap(), "--name", &name]).ok();
        let path = bundle(&place, &[&name, "--", "/probe", "say", "loaded"]);
        assert_eq!(run(&place, &path).ok().stdout, "loaded\n");
        place.ours("imgtool", &["unbundle", &path]).ok();
    }
}

#[test]
fn save_and_load_keep_everything() {
    let place = Place::new();
    place.small_image();
    let archive = place.dir.join("kept.tar");
    let before = place.ours("imgtool", &["inspect", "small:1"]).ok().json();
    place.ours("imgtool", &["save", "--quiet", "-o", archive.to_str().unwrap(), "small:1"]).ok();
    place.ours("imgtool", &["rm", "small:1"]).ok();
    place.ours("imgtool", &["load", "--quiet", "-i", archive.to_str().unwrap()]).ok();
    let after = place.ours("imgtool", &["inspect", "small:1"]).ok().json();
    for what in ["digest", "config"] {
        assert_eq!(before[0][what], after[0][what], "{what}");
        assert!(!before[0][what].is_null(), "{before}");
    }
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let place = Place::new();
    let root = place.dir.join("tree");
    fs::create_dir_all(root.join("dir/deep")).unwrap();
    fs::write(root.join("file"), "content").unwrap();
    fs::hard_link(root.join("file"), root.join("dir/hard")).unwrap();
    symlink("../file", root.join("dir/soft")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    fs::set_permissions(root.join("file"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::set_permissions(root.join("dir"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(root.join("dir/deep"), Some(1000), Some(2000)).unwrap();
    let mode = rustix::fs::Mode::from_bits_truncate(0o640);
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo"), mode).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("null"),
        rustix::fs::FileType::CharacterDevice,
        mode,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    rustix::fs::setxattr(root.join("file"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
    let archive = place.dir.join("tree.tar");
    tool("tar", &["--xattrs", "-C", root.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]).ok();
    place.ours("imgtool", &["import", "--quiet", archive.to_str().unwrap(), "tree:1"]).ok();
    let path = bundle(&place, &["tree:1", "--", "x"]);
    let out = std::path::Path::new(&path).join("rootfs");
    for name in ["file", "dir", "dir/deep", "dir/hard", "dir/soft", "absolute", "fifo", "null"] {
        let (before, after) =
            (fs::symlink_metadata(root.join(name)).unwrap(), fs::symlink_metadata(out.join(name)).unwrap());
        assert_eq!(before.mode(), after.mode(), "{name}");
        assert_eq!((before.uid(), before.gid(), before.rdev()), (after.uid(), after.gid(), after.rdev()), "{name}");
        if !before.is_dir() {
            assert_eq!((before.size(), before.mtime()), (after.size(), after.mtime()), "{name}");
        }
    }
    assert_eq!(fs::read_link(out.join("absolute")).unwrap().to_str(), Some("/etc/passwd"));
    assert_eq!(
        fs::symlink_metadata(out.join("file")).unwrap().ino(),
        fs::symlink_metadata(out.join("dir/hard")).unwrap().ino()
    );
    let mut value = [0_u8; 16];
    let length = rustix::fs::getxattr(out.join("file"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"kept");
    place.ours("imgtool", &["unbundle", &path]).ok();
}
