//! The archive itself: names, sizes, sparse files, damage and bombs.

use super::*;

#[test]
fn long_names_of_both_kinds_are_read() {
    let deep = "d/".repeat(150) + "file";
    let link = "t".repeat(300);
    let place = Place::new();
    let tar = Tar::default()
        .add(Spec { kind: b'L', name: b"././@LongLink", data: format!("{deep}\0").as_bytes(), ..Spec::default() })
        .file("short", "gnu")
        .add(Spec { kind: b'K', name: b"././@LongLink", data: format!("{link}\0").as_bytes(), ..Spec::default() })
        .symlink("link", "short")
        .pax(&[("path", ("p/".to_owned() + &deep).as_bytes()), ("linkpath", b"unused")])
        .file("short", "pax");
    place.unpack(tar).unwrap();
    assert_eq!(fs::read_to_string(place.at(&deep)).unwrap(), "gnu");
    assert_eq!(fs::read_to_string(place.at(&("p/".to_owned() + &deep))).unwrap(), "pax");
    assert_eq!(fs::read_link(place.at("link")).unwrap(), Path::new(&link));
    let too_long = "x".repeat(5000);
    assert!(refused(Tar::default().pax(&[("path", too_long.as_bytes())]).file("f", "")).contains("at most 4096"));
    assert!(
        refused(Tar::default().pax(&[("path", "x".repeat(300).as_bytes())]).file("f", "")).contains("name too long")
    );
}

#[test]
fn the_size_that_pax_gives_frames_the_entry() {
    // CVE-2025-62518: a reader that goes by the header's size of 0 takes the file's content for entries.
    let inner = Tar::default().file("smuggled", "evil").0;
    let place = Place::new();
    let size = inner.len().to_string();
    let tar = Tar::default().pax(&[("size", size.as_bytes())]).file("carrier", "").data(&inner).file("next", "1");
    place.unpack(tar).unwrap();
    assert_eq!(fs::metadata(place.at("carrier")).unwrap().len(), inner.len() as u64);
    assert!(!place.at("smuggled").exists());
    assert!(place.at("next").exists());
}

#[test]
fn links_and_directories_have_no_data() {
    // Their size field, if any, does not count: the next header follows at once.
    let mut tar = Tar::default().file("target", "1").0;
    let mut link = Tar::default().hardlink("link", "target").0;
    let mut header = Header::from_byte_slice(&link[..512]).clone();
    header.set_size(512);
    header.set_cksum();
    link[..512].copy_from_slice(header.as_bytes());
    tar.extend(link);
    let place = Place::new();
    place.unpack(Tar(tar).file("next", "2")).unwrap();
    assert!(place.at("next").exists());
}

#[test]
fn broken_archives_are_refused() {
    let whole = Tar::default().file("a", &"x".repeat(2000)).file("b", "y").bytes();
    for cut in [100, 511, 513, 1024, 2000, 2600, 3100] {
        let place = Place::new();
        let error = place.apply(&whole[..cut], Limits::default(), None).expect_err("cut").to_string();
        assert!(error.contains("ends in the middle"), "{cut}: {error}");
    }
    let mut altered = whole.clone();
    altered[3] ^= 1;
    assert!(Place::new().apply(&altered, Limits::default(), None).unwrap_err().to_string().contains("checksum"));
    assert!(refused(Tar::default().pax(&[("path", b"x")])).contains("ends after an extension"));
    assert!(
        refused(Tar::default().add(Spec { kind: b'V', name: b"v", ..Spec::default() }))
            .contains("unsupported entry type")
    );
    assert!(
        Place::new()
            .apply(b"no tar at all, but long enough to be one ".repeat(40).as_slice(), Limits::default(), None)
            .is_err()
    );
}

#[test]
fn extension_headers_have_a_limit() {
    // A few kilobytes of gzip can hold a name of gigabytes.
    for kind in [b'x', b'g', b'L', b'K'] {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(8 << 30);
        header.set_cksum();
        assert!(refused(Tar(header.as_bytes().to_vec())).contains("extension header of"), "{}", char::from(kind));
    }
}

#[test]
fn bombs_are_stopped() {
    let small = Limits { bytes: 1000, entries: 10, ratio: None };
    let big = Tar::default().file("f", &"x".repeat(1001)).bytes();
    assert!(Place::new().apply(&big, small, None).unwrap_err().to_string().contains("--max-layer-size"));
    let many = (0..11).fold(Tar::default(), |tar, n| tar.file(&n.to_string(), "")).bytes();
    assert!(Place::new().apply(&many, small, None).unwrap_err().to_string().contains("more than 10 entries"));
    // A gigabyte and more of zeros from a megabyte of gzip.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(2 << 30);
    header.as_gnu_mut().unwrap().name[0] = b'f';
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(header.as_bytes()).unwrap();
    gz.write_all(&vec![0; 1 << 20]).unwrap();
    let gz = gz.finish().unwrap();
    let place = Place::new();
    assert!(place.apply(&gz, Limits::default(), None).unwrap_err().to_string().contains("unpacks to more than"));
}

#[test]
fn sparse_files_of_all_forms_have_their_holes() {
    let place = Place::new();
    let (real, data) = (1 << 20, "x".repeat(512) + &"y".repeat(512));
    let pax_01: [(&str, &[u8]); 3] =
        [("GNU.sparse.size", b"1048576"), ("GNU.sparse.map", b"4096,512,8192,512"), ("GNU.sparse.name", b"pax01")];
    let pax_10: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"1048576"),
        ("GNU.sparse.name", b"pax10"),
    ];
    let mut map = b"2\n4096\n512\n8192\n512\n".to_vec();
    map.resize(512, 0);
    let mut old = Header::new_gnu();
    {
        let gnu = old.as_gnu_mut().unwrap();
        gnu.name[..3].copy_from_slice(b"old");
        gnu.sparse[0].offset[..11].copy_from_slice(b"00000010000");
        gnu.sparse[0].numbytes[..11].copy_from_slice(b"00000001000");
        gnu.sparse[1].offset[..11].copy_from_slice(b"00000020000");
        gnu.sparse[1].numbytes[..11].copy_from_slice(b"00000001000");
        gnu.realsize[..11].copy_from_slice(b"00004000000");
    }
    old.set_entry_type(EntryType::GNUSparse);
    old.set_size(1024);
    old.set_mode(0o644);
    old.set_uid(0);
    old.set_gid(0);
    old.set_mtime(0);
    old.set_cksum();
    let mut tar = Tar::default().pax(&pax_01).file("x", &data).pax(&pax_10);
    tar = tar.file("x", &(String::from_utf8(map).unwrap() + &data));
    tar.0.extend_from_slice(old.as_bytes());
    place.unpack(tar.data(data.as_bytes())).unwrap();
    for name in ["pax01", "pax10", "old"] {
        let content = fs::read(place.at(name)).unwrap();
        assert_eq!(content.len(), real, "{name}");
        assert_eq!(
            (&content[4096..4608], &content[8192..8704]),
            (&data.as_bytes()[..512], &data.as_bytes()[512..]),
            "{name}"
        );
        assert!(content[8704..].iter().all(|&b| b == 0));
        assert!(fs::metadata(place.at(name)).unwrap().blocks() < 100, "{name} has holes");
    }
    let overlap: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"0,10,5,10")];
    assert!(refused(Tar::default().pax(&overlap).file("x", "")).contains("overlap"));
    let beyond: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"90,20")];
    assert!(refused(Tar::default().pax(&beyond).file("x", "")).contains("leave the file"));
    let missing: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"0,20")];
    assert!(refused(Tar::default().pax(&missing).file("x", "short")).contains("sparse map has 20 bytes"));
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let place = Place::new();
    let tar = Tar::default().file("x", "1").bytes();
    let wrong = crate::digest::Digest::of(b"other");
    let job = Job {
        diff_id: Some(&wrong),
        root: open_root(&place.root()).unwrap(),
        powers: Powers::ROOT,
        limits: Limits::default(),
        compressed: None,
        lower: None,
    };
    assert!(unpack(tar.as_slice(), job, None).unwrap_err().to_string().contains("the image config says"));
}
