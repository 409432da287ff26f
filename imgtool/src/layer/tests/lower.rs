//! Layers that lean on the layers below.

use super::*;

/// A layer below, for those that lean on one.
fn below() -> Place {
    let lower = Place::new();
    let tar = Tar::default()
        .dir("usr")
        .add(Spec { kind: b'5', name: b"usr/lib", mode: 0o1751, owner: (3, 4), ..Spec::default() })
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .add(Spec { name: b"usr/lib/so", data: b"lib", mode: 0o4750, owner: (9, 9), ..Spec::default() })
        .dir("hidden")
        .file(".wh.gone", "");
    lower.unpack(tar).unwrap();
    lower
}

#[test]
fn a_layer_that_stands_alone_says_so() {
    let place = Place::new();
    let tar = || Tar::default().dir("usr").dir("usr/lib").file("usr/lib/x", "");
    assert!(place.apply(&tar().bytes(), Limits::default(), None).unwrap().self_contained);
    let leaning = Place::new().apply(&Tar::default().file("usr/x", "").bytes(), Limits::default(), None).unwrap();
    assert!(leaning.needs_lower && !leaning.self_contained);
    let linked = Place::new().apply(&Tar::default().hardlink("x", "y").bytes(), Limits::default(), None).unwrap();
    assert!(linked.needs_lower);
}

#[test]
fn directories_without_an_entry_look_as_they_do_below() {
    let lower = below();
    let stack = LowerStack::new(vec![open_root(&lower.root()).unwrap()]);
    let place = Place::new();
    let tar =
        Tar::default().file("usr/lib/new", "1").file("lib/through", "2").file("abs/too", "3").file("fresh/x", "4");
    place.apply(&tar.bytes(), Limits::default(), Some(&stack)).unwrap();
    let meta = fs::metadata(place.at("usr/lib")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1751, 3, 4));
    // As on the mounted image: `lib` is a link below, and stays one.
    assert!(!place.at("lib").exists() && !place.at("abs").exists());
    assert_eq!(fs::read_to_string(place.at("usr/lib/through")).unwrap(), "2");
    assert_eq!(fs::read_to_string(place.at("usr/lib/too")).unwrap(), "3");
    assert_eq!(fs::metadata(place.at("fresh")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn hardlinks_to_files_below_are_copies() {
    let lower = below();
    let stack = LowerStack::new(vec![open_root(&lower.root()).unwrap()]);
    let place = Place::new();
    let tar = Tar::default().hardlink("copy", "usr/lib/so").hardlink("again", "lib/so");
    place.apply(&tar.bytes(), Limits::default(), Some(&stack)).unwrap();
    for name in ["copy", "again"] {
        let meta = fs::metadata(place.at(name)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o4750, 9));
        assert_eq!(fs::read_to_string(place.at(name)).unwrap(), "lib");
    }
    assert_eq!(fs::metadata(lower.at("usr/lib/so")).unwrap().nlink(), 1);
    for (name, target) in [("h", "gone"), ("h", "nothing"), ("h", "usr/lib/so/x")] {
        let tar = Tar::default().hardlink(name, target).bytes();
        assert!(Place::new().apply(&tar, Limits::default(), Some(&stack)).is_err(), "{target}");
    }
    // What this layer has removed is no target.
    let tar = Tar::default().dir("usr").file("usr/.wh.lib", "").hardlink("h", "usr/lib/so").bytes();
    assert!(Place::new().apply(&tar, Limits::default(), Some(&stack)).is_err());
}

#[test]
fn merged_layers_show_what_overlayfs_would_show() {
    let lower = Tar::default()
        .dir("kept")
        .file("kept/old", "1")
        .dir("opaque")
        .file("opaque/hidden", "1")
        .file("gone", "1")
        .file("turned", "file")
        .dir("swapped")
        .file("swapped/in", "1");
    let upper = Tar::default()
        .dir("kept")
        .file("kept/new", "2")
        .hardlink("kept/same", "kept/new")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/shown", "2")
        .file(".wh.gone", "")
        .dir("turned")
        .symlink("swapped", "kept");
    let (one, two, out) = (Place::new(), Place::new(), tempfile::tempdir().unwrap());
    one.unpack(lower).unwrap();
    two.unpack(upper).unwrap();
    let layers = [open_root(&one.root()).unwrap(), open_root(&two.root()).unwrap()];
    super::super::merge(&layers, &open_root(out.path()).unwrap()).unwrap();
    let mut found = Vec::new();
    let mut pending = vec![out.path().to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(out.path()).unwrap().to_str().unwrap().to_owned());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    let want = ["kept", "kept/new", "kept/old", "kept/same", "opaque", "opaque/shown", "swapped", "turned"];
    assert_eq!(found, want);
    assert_eq!(fs::metadata(out.path().join("kept/same")).unwrap().nlink(), 2);
    assert!(fs::metadata(out.path().join("turned")).unwrap().is_dir());
}
