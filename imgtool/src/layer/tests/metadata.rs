//! Owners, modes, times, devices and attributes.

use super::*;

#[test]
fn attributes_of_overlayfs_and_labels_of_the_host_are_not_taken() {
    let place = Place::new();
    let caps = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 8] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.whiteout", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u:object_r:bin_t:s0"),
        ("SCHILY.xattr.security.ima", b"x"),
        ("SCHILY.xattr.security.capability", &caps),
        ("SCHILY.xattr.user.note", b"a\nb"),
    ];
    let tar = Tar::default().pax(&records).file("f", "x").pax(&records).dir("d");
    place.unpack(tar).unwrap();
    for path in ["f", "d"] {
        let path = place.at(path);
        for name in [
            "trusted.overlay.redirect",
            "trusted.overlay.metacopy",
            "trusted.overlay.opaque",
            "user.overlay.whiteout",
            "security.selinux",
            "security.ima",
        ] {
            assert_eq!(xattr(&path, name), None, "{name}");
        }
        assert_eq!(xattr(&path, "user.note").unwrap(), b"a\nb");
    }
    assert_eq!(xattr(&place.at("f"), "security.capability").unwrap(), caps);
}

#[test]
fn metadata_is_kept() {
    let place = Place::new();
    let tar = Tar::default()
        .add(Spec { kind: b'5', name: b"sgid/", mode: 0o2775, owner: (7, 8), ..Spec::default() })
        .add(Spec { name: b"sgid/suid", mode: 0o4755, owner: (0, 0), data: b"x", ..Spec::default() })
        .add(Spec { name: b"owned", mode: 0o6711, owner: (1000, 2000), ..Spec::default() })
        .add(Spec { kind: b'2', name: b"link", link: b"nowhere", owner: (5, 6), ..Spec::default() })
        .add(Spec { kind: b'3', name: b"null", device: (1, 3), mode: 0o666, ..Spec::default() })
        .add(Spec { kind: b'4', name: b"disk", device: (259, 70000), mode: 0o660, owner: (0, 6), ..Spec::default() })
        .add(Spec { kind: b'6', name: b"fifo", mode: 0o622, ..Spec::default() })
        .add(Spec { kind: b'5', name: b"sealed", mode: 0o000, mtime: 5, ..Spec::default() })
        .file("sealed/x", "")
        .pax(&[("mtime", b"123.5")])
        .file("frac", "");
    place.unpack(tar).unwrap();
    let meta = |path: &str| fs::symlink_metadata(place.at(path)).unwrap();
    let of = |path: &str| (meta(path).mode() & 0o7777, meta(path).uid(), meta(path).gid());
    assert_eq!(of("sgid"), (0o2775, 7, 8));
    // A set-group-ID directory must not pass its group on to what the archive gives to another.
    assert_eq!(of("sgid/suid"), (0o4755, 0, 0));
    assert_eq!(of("owned"), (0o6711, 1000, 2000));
    assert_eq!((meta("link").uid(), meta("link").gid()), (5, 6));
    assert_eq!((of("null"), meta("null").rdev()), ((0o666, 0, 0), rustix::fs::makedev(1, 3)));
    assert!(meta("disk").file_type().is_block_device());
    assert_eq!(meta("disk").rdev(), rustix::fs::makedev(259, 70000));
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!((of("sealed"), meta("sealed").mtime()), ((0, 0, 0), 5));
    assert_eq!((meta("frac").mtime(), meta("frac").mtime_nsec()), (123, 500_000_000));
    assert_eq!(meta("link").mtime(), 1_000_000_000);
}

#[test]
fn ids_that_the_kernel_would_misread_are_refused() {
    // -1 means "leave it" to chown: the file would stay root's.
    for id in [u64::from(u32::MAX), 1 << 32, u64::MAX >> 1] {
        assert!(
            refused(Tar::default().add(Spec { name: b"f", owner: (id, 0), ..Spec::default() }))
                .contains("out of range")
        );
        assert!(
            refused(Tar::default().add(Spec { name: b"f", owner: (0, id), ..Spec::default() }))
                .contains("out of range")
        );
    }
    assert!(refused(Tar::default().pax(&[("uid", b"4294967295")]).file("f", "")).contains("out of range"));
    assert!(refused(Tar::default().pax(&[("uid", b"-1")]).file("f", "")).contains("invalid value"));
}
