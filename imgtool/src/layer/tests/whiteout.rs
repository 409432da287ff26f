//! Whiteouts and opaque directories.

use super::*;

#[test]
fn whiteouts_take_overlayfs_form() {
    let place = Place::new();
    let tar = Tar::default()
        .dir("d")
        .file("d/.wh.gone", "")
        .file(".wh.top", "")
        .dir("o")
        .file("o/.wh..wh..opq", "")
        .file("o/new", "1")
        .dir("meta")
        .file("meta/.wh..wh.aufs", "")
        .file("meta/.wh..wh.plnk/77.88", "");
    place.unpack(tar).unwrap();
    assert!(is_whiteout(&place.at("d/gone")) && is_whiteout(&place.at("top")));
    assert_eq!(xattr(&place.at("o"), "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(fs::read_to_string(place.at("o/new")).unwrap(), "1");
    assert_eq!(fs::read_dir(place.at("meta")).unwrap().count(), 0);
}

#[test]
fn whiteouts_do_not_touch_their_own_layer() {
    let place = Place::new();
    let tar = Tar::default()
        .file("before", "1")
        .file(".wh.before", "")
        .file(".wh.after", "")
        .file("after", "2")
        .dir("dir")
        .file("dir/x", "3")
        .file(".wh.dir", "")
        .file(".wh.later", "")
        .dir("later")
        .file("later/x", "4")
        .file(".wh.implied", "")
        .file("implied/x", "5");
    let unpacked = place.unpack(tar).unwrap();
    assert_eq!(fs::read_to_string(place.at("before")).unwrap(), "1");
    assert_eq!(fs::read_to_string(place.at("after")).unwrap(), "2");
    for dir in ["dir", "later", "implied"] {
        assert_eq!(xattr(&place.at(dir), "trusted.overlay.opaque").unwrap(), b"y", "{dir}");
        assert!(place.at(dir).join("x").exists());
    }
    assert!(unpacked.self_contained, "what was hidden below cannot matter");
}

#[test]
fn hostile_whiteouts_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh...", "d/.wh.."] {
        assert!(refused(Tar::default().dir("d").file(name, "")).contains("whiteout"), "{name}");
    }
    assert!(refused(Tar::default().file(".wh.d/x", "")).contains("whiteout"));
    // A whiteout through a symlink hides nothing outside.
    let place = Place::new();
    place.unpack(Tar::default().symlink("way", "../outside").file("way/.wh.secret", "")).unwrap();
    place.check_outside();
    place.unpack(Tar::default().symlink("way2", "/../../outside").file("way2/.wh..wh..opq", "")).unwrap();
    place.check_outside();
    assert_eq!(xattr(&place.outside(), "trusted.overlay.opaque"), None);
}

#[test]
fn an_opaque_root_is_reported() {
    // overlayfs does not look at the attribute there, so the bundle leaves the lower layers out.
    assert!(Place::new().unpack(Tar::default().file(".wh..wh..opq", "")).unwrap().opaque_root);
}
