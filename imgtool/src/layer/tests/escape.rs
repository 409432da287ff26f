//! Ways out of the layer's root, and entries that take each other's place.

use super::*;

#[test]
fn paths_that_leave_the_root_are_refused() {
    for name in ["../evil", "a/../../evil", "/../evil", "a/b/../../../evil"] {
        assert!(refused(Tar::default().file(name, "x")).contains("leaves the layer's root"), "{name}");
        assert!(refused(Tar::default().hardlink("x", name)).contains("leaves the layer's root"), "{name}");
        assert!(refused(Tar::default().pax(&[("path", name.as_bytes())]).file("x", "x")).contains("leaves"), "{name}");
    }
    assert!(refused(Tar::default().symlink("./", "/etc")).contains("root must be a directory"));
    assert!(refused(Tar::default().file(".", "x")).contains("root must be a directory"));
}

#[test]
fn absolute_paths_are_below_the_root() {
    let place = Place::new();
    let tar = Tar::default().dir("/etc").file("/etc/passwd", "mine").hardlink("/etc/link", "/etc/passwd");
    place.unpack(tar).unwrap();
    assert_eq!(fs::read_to_string(place.at("etc/link")).unwrap(), "mine");
    place.check_outside();
}

#[test]
fn symlinks_in_the_way_lead_nowhere_but_into_the_layer() {
    for target in ["../outside", "../../../../../../../../tmp", "/", "/..", "..", "../../outside/../outside"] {
        let place = Place::new();
        let tar = Tar::default().symlink("way", target).file("way/evil", "x").file("way/outside/secret", "x");
        place.unpack(tar).unwrap_or_else(|e| panic!("{target}: {e}"));
        place.check_outside();
        assert!(!Path::new("/tmp/evil").exists() && !Path::new("/evil").exists());
    }
    let place = Place::new();
    let absolute = place.outside();
    place.unpack(Tar::default().symlink("way", absolute.to_str().unwrap()).file("way/secret", "x")).unwrap();
    place.check_outside();
    assert!(place.at(absolute.strip_prefix("/").unwrap().join("secret").to_str().unwrap()).exists());
}

#[test]
fn a_symlink_to_a_directory_of_the_layer_is_followed() {
    let place = Place::new();
    place.unpack(Tar::default().dir("usr").dir("usr/lib").symlink("lib", "usr/lib").file("lib/x", "1")).unwrap();
    assert_eq!(fs::read_to_string(place.at("usr/lib/x")).unwrap(), "1");
    assert!(fs::symlink_metadata(place.at("lib")).unwrap().is_symlink());
}

#[test]
fn symlinks_in_a_circle_end() {
    assert!(refused(Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", "")).contains("too many symlinks"));
}

#[test]
fn a_file_in_place_of_a_symlink_replaces_the_link() {
    // The classic: write through a link that an earlier entry made.
    let place = Place::new();
    let secret = place.outside().join("secret");
    place.unpack(Tar::default().symlink("x", secret.to_str().unwrap()).file("x", "evil")).unwrap();
    place.check_outside();
    assert_eq!(fs::read_to_string(place.at("x")).unwrap(), "evil");
    assert!(!fs::symlink_metadata(place.at("x")).unwrap().is_symlink());
}

#[test]
fn hardlinks_stay_within_the_layer() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    // A link to a symlink links the symlink.
    place.unpack(Tar::default().symlink("s", secret.to_str().unwrap()).hardlink("h", "s")).unwrap();
    assert!(fs::symlink_metadata(place.at("h")).unwrap().is_symlink());
    place.check_outside();
    let through = Tar::default().symlink("d", "../outside").hardlink("h", "d/secret");
    assert!(refused(through).contains("does not exist"));
    assert!(refused(Tar::default().hardlink("h", "/etc/passwd")).contains("does not exist"));
    assert!(refused(Tar::default().dir("d").hardlink("h", "d")).contains("to a directory"));
    assert!(refused(Tar::default().file("h", "").hardlink("h", "h")).contains("to itself"));
    assert!(refused(Tar::default().file("h", "").hardlink("h", "./")).contains("root directory"));
}

#[test]
fn a_replaced_file_does_not_change_its_other_names() {
    let place = Place::new();
    place.unpack(Tar::default().file("a", "old").hardlink("b", "a").file("a", "new")).unwrap();
    assert_eq!(fs::read_to_string(place.at("a")).unwrap(), "new");
    assert_eq!(fs::read_to_string(place.at("b")).unwrap(), "old");
}

#[test]
fn of_two_entries_with_one_name_the_later_counts() {
    let place = Place::new();
    let tar = Tar::default()
        .dir("a")
        .file("a/x", "1")
        .dir("a/sub")
        .file("a/sub/y", "2")
        .file("a", "file now")
        .file("b", "file")
        .dir("b")
        .file("b/x", "3")
        .dir("c")
        .symlink("c", "b")
        .dir("d")
        .file("d/keep", "4")
        .dir("d");
    place.unpack(tar).unwrap();
    assert_eq!(fs::read_to_string(place.at("a")).unwrap(), "file now");
    assert_eq!(fs::read_to_string(place.at("b/x")).unwrap(), "3");
    assert_eq!(fs::read_link(place.at("c")).unwrap(), Path::new("b"));
    assert_eq!(fs::read_to_string(place.at("d/keep")).unwrap(), "4");
    assert!(refused(Tar::default().file("f", "").file("f/x", "")).contains("not a directory"));
}

#[test]
fn directories_deeper_than_files_may_be_open() {
    let path = "d/".repeat(2_000);
    let place = Place::new();
    let tar = Tar::default().pax(&[("path", path.as_bytes())]).dir("d");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    assert!(limit.is_none_or(|limit| limit > 256), "the limit of this process is too low to test with");
    place.unpack(tar).unwrap();
    super::super::remove_all(&place.root()).unwrap();
    fs::create_dir(place.root()).unwrap();
    place.check_outside();
}
