//! Layers as an attacker or an odd tool writes them, unpacked for real.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::apply::{Limits, OverlayForm, Unpacked};
use super::{Job, LowerStack, open_root, unpack};
use crate::error::Result;

/// A tar that is written byte by byte, so that it may hold what no honest tool writes.
#[derive(Default)]
struct Tar(Vec<u8>);

#[derive(Clone, Copy)]
struct Spec<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    device: (u32, u32),
    data: &'a [u8],
}

impl Default for Spec<'_> {
    fn default() -> Self {
        Spec {
            kind: b'0',
            name: b"",
            link: b"",
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_000_000_000,
            device: (0, 0),
            data: b"",
        }
    }
}

impl Tar {
    fn add(mut self, spec: Spec<'_>) -> Self {
        let mut header = Header::new_gnu();
        {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.name[..spec.name.len()].copy_from_slice(spec.name);
            gnu.linkname[..spec.link.len()].copy_from_slice(spec.link);
        }
        header.set_entry_type(EntryType::new(spec.kind));
        header.set_mode(spec.mode);
        header.set_uid(spec.owner.0);
        header.set_gid(spec.owner.1);
        header.set_mtime(spec.mtime);
        header.set_device_major(spec.device.0).unwrap();
        header.set_device_minor(spec.device.1).unwrap();
        header.set_size(spec.data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.data(spec.data)
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        let padded = self.0.len().next_multiple_of(512);
        self.0.resize(padded, 0);
        self
    }

    fn dir(self, name: &str) -> Self {
        self.add(Spec {
            kind: b'5',
            name: name.as_bytes(),
            mode: 0o755,
            ..Spec::default()
        })
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.add(Spec {
            name: name.as_bytes(),
            data: data.as_bytes(),
            ..Spec::default()
        })
    }

    fn symlink(self, name: &str, link: &str) -> Self {
        self.add(Spec {
            kind: b'2',
            name: name.as_bytes(),
            link: link.as_bytes(),
            ..Spec::default()
        })
    }

    fn hardlink(self, name: &str, link: &str) -> Self {
        self.add(Spec {
            kind: b'1',
            name: name.as_bytes(),
            link: link.as_bytes(),
            ..Spec::default()
        })
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let len = (rest..rest + 20)
                .find(|len| len - rest == len.to_string().len())
                .unwrap();
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.add(Spec {
            kind: b'x',
            name: b"pax",
            data: &data,
            ..Spec::default()
        })
    }

    fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A directory for a layer, with something beside it that no layer may reach.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn apply(&self, tar: &[u8], limits: Limits, lower: Option<&LowerStack>) -> Result<Unpacked> {
        let job = Job {
            diff_id: None,
            root: open_root(&self.root()).unwrap(),
            form: OverlayForm::Trusted,
            limits,
            compressed: Some(tar.len() as u64),
            lower,
        };
        unpack(tar, job, None)
    }

    fn unpack(&self, tar: Tar) -> Result<Unpacked> {
        self.apply(
            &tar.bytes(),
            Limits::default(),
            Some(&LowerStack::default()),
        )
    }

    /// Nothing but the secret is outside, unchanged.
    fn check_outside(&self) {
        let names: Vec<_> = fs::read_dir(self.outside())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(
            fs::read_to_string(self.outside().join("secret")).unwrap(),
            "secret"
        );
        assert_eq!(
            fs::metadata(self.outside().join("secret")).unwrap().nlink(),
            1
        );
        let above: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert_eq!(above.len(), 2);
    }
}

fn refused(tar: Tar) -> String {
    let place = Place::new();
    let error = place.unpack(tar).expect_err("must be refused").to_string();
    place.check_outside();
    error
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

#[test]
fn paths_that_leave_the_root_are_refused() {
    for name in ["../evil", "a/../../evil", "/../evil", "a/b/../../../evil"] {
        assert!(
            refused(Tar::default().file(name, "x")).contains("leaves the layer's root"),
            "{name}"
        );
        assert!(
            refused(Tar::default().hardlink("x", name)).contains("leaves the layer's root"),
            "{name}"
        );
        assert!(
            refused(
                Tar::default()
                    .pax(&[("path", name.as_bytes())])
                    .file("x", "x")
            )
            .contains("leaves"),
            "{name}"
        );
    }
    assert!(refused(Tar::default().symlink("./", "/etc")).contains("root must be a directory"));
    assert!(refused(Tar::default().file(".", "x")).contains("root must be a directory"));
}

#[test]
fn absolute_paths_are_below_the_root() {
    let place = Place::new();
    let tar = Tar::default()
        .dir("/etc")
        .file("/etc/passwd", "mine")
        .hardlink("/etc/link", "/etc/passwd");
    place.unpack(tar).unwrap();
    assert_eq!(fs::read_to_string(place.at("etc/link")).unwrap(), "mine");
    place.check_outside();
}

#[test]
fn symlinks_in_the_way_lead_nowhere_but_into_the_layer() {
    for target in [
        "../outside",
        "../../../../../../../../tmp",
        "/",
        "/..",
        "..",
        "../../outside/../outside",
    ] {
        let place = Place::new();
        let tar = Tar::default()
            .symlink("way", target)
            .file("way/evil", "x")
            .file("way/outside/secret", "x");
        place
            .unpack(tar)
            .unwrap_or_else(|e| panic!("{target}: {e}"));
        place.check_outside();
        assert!(!Path::new("/tmp/evil").exists() && !Path::new("/evil").exists());
    }
    let place = Place::new();
    let absolute = place.outside();
    place
        .unpack(
            Tar::default()
                .symlink("way", absolute.to_str().unwrap())
                .file("way/secret", "x"),
        )
        .unwrap();
    place.check_outside();
    assert!(
        place
            .at(absolute
                .strip_prefix("/")
                .unwrap()
                .join("secret")
                .to_str()
                .unwrap())
            .exists()
    );
}

#[test]
fn a_symlink_to_a_directory_of_the_layer_is_followed() {
    let place = Place::new();
    place
        .unpack(
            Tar::default()
                .dir("usr")
                .dir("usr/lib")
                .symlink("lib", "usr/lib")
                .file("lib/x", "1"),
        )
        .unwrap();
    assert_eq!(fs::read_to_string(place.at("usr/lib/x")).unwrap(), "1");
    assert!(fs::symlink_metadata(place.at("lib")).unwrap().is_symlink());
}

#[test]
fn symlinks_in_a_circle_end() {
    assert!(
        refused(
            Tar::default()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", "")
        )
        .contains("too many symlinks")
    );
}

#[test]
fn a_file_in_place_of_a_symlink_replaces_the_link() {
    // The classic: write through a link that an earlier entry made.
    let place = Place::new();
    let secret = place.outside().join("secret");
    place
        .unpack(
            Tar::default()
                .symlink("x", secret.to_str().unwrap())
                .file("x", "evil"),
        )
        .unwrap();
    place.check_outside();
    assert_eq!(fs::read_to_string(place.at("x")).unwrap(), "evil");
    assert!(!fs::symlink_metadata(place.at("x")).unwrap().is_symlink());
}

#[test]
fn hardlinks_stay_within_the_layer() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    // A link to a symlink links the symlink.
    place
        .unpack(
            Tar::default()
                .symlink("s", secret.to_str().unwrap())
                .hardlink("h", "s"),
        )
        .unwrap();
    assert!(fs::symlink_metadata(place.at("h")).unwrap().is_symlink());
    place.check_outside();
    let through = Tar::default()
        .symlink("d", "../outside")
        .hardlink("h", "d/secret");
    assert!(refused(through).contains("does not exist"));
    assert!(refused(Tar::default().hardlink("h", "/etc/passwd")).contains("does not exist"));
    assert!(refused(Tar::default().dir("d").hardlink("h", "d")).contains("to a directory"));
    assert!(refused(Tar::default().file("h", "").hardlink("h", "h")).contains("to itself"));
    assert!(refused(Tar::default().file("h", "").hardlink("h", "./")).contains("root directory"));
}

#[test]
fn a_replaced_file_does_not_change_its_other_names() {
    let place = Place::new();
    place
        .unpack(
            Tar::default()
                .file("a", "old")
                .hardlink("b", "a")
                .file("a", "new"),
        )
        .unwrap();
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
    assert_eq!(
        xattr(&place.at("o"), "trusted.overlay.opaque").unwrap(),
        b"y"
    );
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
        assert_eq!(
            xattr(&place.at(dir), "trusted.overlay.opaque").unwrap(),
            b"y",
            "{dir}"
        );
        assert!(place.at(dir).join("x").exists());
    }
    assert!(
        unpacked.self_contained,
        "what was hidden below cannot matter"
    );
}

#[test]
fn hostile_whiteouts_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh...", "d/.wh.."] {
        assert!(
            refused(Tar::default().dir("d").file(name, "")).contains("whiteout"),
            "{name}"
        );
    }
    assert!(refused(Tar::default().file(".wh.d/x", "")).contains("whiteout"));
    // A whiteout through a symlink hides nothing outside.
    let place = Place::new();
    place
        .unpack(
            Tar::default()
                .symlink("way", "../outside")
                .file("way/.wh.secret", ""),
        )
        .unwrap();
    place.check_outside();
    place
        .unpack(
            Tar::default()
                .symlink("way2", "/../../outside")
                .file("way2/.wh..wh..opq", ""),
        )
        .unwrap();
    place.check_outside();
    assert_eq!(xattr(&place.outside(), "trusted.overlay.opaque"), None);
}

#[test]
fn an_opaque_root_is_reported() {
    // overlayfs does not look at the attribute there, so the bundle leaves the lower layers out.
    assert!(
        Place::new()
            .unpack(Tar::default().file(".wh..wh..opq", ""))
            .unwrap()
            .opaque_root
    );
}

#[test]
fn attributes_of_overlayfs_and_labels_of_the_host_are_not_taken() {
    let place = Place::new();
    let caps = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 8] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.whiteout", b"y"),
        (
            "SCHILY.xattr.security.selinux",
            b"system_u:object_r:bin_t:s0",
        ),
        ("SCHILY.xattr.security.ima", b"x"),
        ("SCHILY.xattr.security.capability", &caps),
        ("SCHILY.xattr.user.note", b"a\nb"),
    ];
    let tar = Tar::default()
        .pax(&records)
        .file("f", "x")
        .pax(&records)
        .dir("d");
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
        .add(Spec {
            kind: b'5',
            name: b"sgid/",
            mode: 0o2775,
            owner: (7, 8),
            ..Spec::default()
        })
        .add(Spec {
            name: b"sgid/suid",
            mode: 0o4755,
            owner: (0, 0),
            data: b"x",
            ..Spec::default()
        })
        .add(Spec {
            name: b"owned",
            mode: 0o6711,
            owner: (1000, 2000),
            ..Spec::default()
        })
        .add(Spec {
            kind: b'2',
            name: b"link",
            link: b"nowhere",
            owner: (5, 6),
            ..Spec::default()
        })
        .add(Spec {
            kind: b'3',
            name: b"null",
            device: (1, 3),
            mode: 0o666,
            ..Spec::default()
        })
        .add(Spec {
            kind: b'4',
            name: b"disk",
            device: (259, 70000),
            mode: 0o660,
            owner: (0, 6),
            ..Spec::default()
        })
        .add(Spec {
            kind: b'6',
            name: b"fifo",
            mode: 0o622,
            ..Spec::default()
        })
        .add(Spec {
            kind: b'5',
            name: b"sealed",
            mode: 0o000,
            mtime: 5,
            ..Spec::default()
        })
        .file("sealed/x", "")
        .pax(&[("mtime", b"123.5")])
        .file("frac", "");
    place.unpack(tar).unwrap();
    let meta = |path: &str| fs::symlink_metadata(place.at(path)).unwrap();
    let of = |path: &str| {
        (
            meta(path).mode() & 0o7777,
            meta(path).uid(),
            meta(path).gid(),
        )
    };
    assert_eq!(of("sgid"), (0o2775, 7, 8));
    // A set-group-ID directory must not pass its group on to what the archive gives to another.
    assert_eq!(of("sgid/suid"), (0o4755, 0, 0));
    assert_eq!(of("owned"), (0o6711, 1000, 2000));
    assert_eq!((meta("link").uid(), meta("link").gid()), (5, 6));
    assert_eq!(
        (of("null"), meta("null").rdev()),
        ((0o666, 0, 0), rustix::fs::makedev(1, 3))
    );
    assert!(meta("disk").file_type().is_block_device());
    assert_eq!(meta("disk").rdev(), rustix::fs::makedev(259, 70000));
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!((of("sealed"), meta("sealed").mtime()), ((0, 0, 0), 5));
    assert_eq!(
        (meta("frac").mtime(), meta("frac").mtime_nsec()),
        (123, 500_000_000)
    );
    assert_eq!(meta("link").mtime(), 1_000_000_000);
}

#[test]
fn ids_that_the_kernel_would_misread_are_refused() {
    // -1 means "leave it" to chown: the file would stay root's.
    for id in [u64::from(u32::MAX), 1 << 32, u64::MAX >> 1] {
        assert!(
            refused(Tar::default().add(Spec {
                name: b"f",
                owner: (id, 0),
                ..Spec::default()
            }))
            .contains("out of range")
        );
        assert!(
            refused(Tar::default().add(Spec {
                name: b"f",
                owner: (0, id),
                ..Spec::default()
            }))
            .contains("out of range")
        );
    }
    assert!(
        refused(Tar::default().pax(&[("uid", b"4294967295")]).file("f", ""))
            .contains("out of range")
    );
    assert!(refused(Tar::default().pax(&[("uid", b"-1")]).file("f", "")).contains("invalid value"));
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let deep = "d/".repeat(150) + "file";
    let link = "t".repeat(300);
    let place = Place::new();
    let tar = Tar::default()
        .add(Spec {
            kind: b'L',
            name: b"././@LongLink",
            data: format!("{deep}\0").as_bytes(),
            ..Spec::default()
        })
        .file("short", "gnu")
        .add(Spec {
            kind: b'K',
            name: b"././@LongLink",
            data: format!("{link}\0").as_bytes(),
            ..Spec::default()
        })
        .symlink("link", "short")
        .pax(&[
            ("path", ("p/".to_owned() + &deep).as_bytes()),
            ("linkpath", b"unused"),
        ])
        .file("short", "pax");
    place.unpack(tar).unwrap();
    assert_eq!(fs::read_to_string(place.at(&deep)).unwrap(), "gnu");
    assert_eq!(
        fs::read_to_string(place.at(&("p/".to_owned() + &deep))).unwrap(),
        "pax"
    );
    assert_eq!(fs::read_link(place.at("link")).unwrap(), Path::new(&link));
    let too_long = "x".repeat(5000);
    assert!(
        refused(
            Tar::default()
                .pax(&[("path", too_long.as_bytes())])
                .file("f", "")
        )
        .contains("at most 4096")
    );
    assert!(
        refused(
            Tar::default()
                .pax(&[("path", "x".repeat(300).as_bytes())])
                .file("f", "")
        )
        .contains("name too long")
    );
}

#[test]
fn the_size_that_pax_gives_frames_the_entry() {
    // CVE-2025-62518: a reader that goes by the header's size of 0 takes the file's content for entries.
    let inner = Tar::default().file("smuggled", "evil").0;
    let place = Place::new();
    let size = inner.len().to_string();
    let tar = Tar::default()
        .pax(&[("size", size.as_bytes())])
        .file("carrier", "")
        .data(&inner)
        .file("next", "1");
    place.unpack(tar).unwrap();
    assert_eq!(
        fs::metadata(place.at("carrier")).unwrap().len(),
        inner.len() as u64
    );
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
    let whole = Tar::default()
        .file("a", &"x".repeat(2000))
        .file("b", "y")
        .bytes();
    for cut in [100, 511, 513, 1024, 2000, 2600, 3100] {
        let place = Place::new();
        let error = place
            .apply(&whole[..cut], Limits::default(), None)
            .expect_err("cut")
            .to_string();
        assert!(error.contains("ends in the middle"), "{cut}: {error}");
    }
    let mut altered = whole.clone();
    altered[3] ^= 1;
    assert!(
        Place::new()
            .apply(&altered, Limits::default(), None)
            .unwrap_err()
            .to_string()
            .contains("checksum")
    );
    assert!(refused(Tar::default().pax(&[("path", b"x")])).contains("ends after an extension"));
    assert!(
        refused(Tar::default().add(Spec {
            kind: b'V',
            name: b"v",
            ..Spec::default()
        }))
        .contains("unsupported entry type")
    );
    assert!(
        Place::new()
            .apply(
                b"no tar at all, but long enough to be one "
                    .repeat(40)
                    .as_slice(),
                Limits::default(),
                None
            )
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
        assert!(
            refused(Tar(header.as_bytes().to_vec())).contains("extension header of"),
            "{}",
            char::from(kind)
        );
    }
}

#[test]
fn bombs_are_stopped() {
    let small = Limits {
        bytes: 1000,
        entries: 10,
        ratio: None,
    };
    let big = Tar::default().file("f", &"x".repeat(1001)).bytes();
    assert!(
        Place::new()
            .apply(&big, small, None)
            .unwrap_err()
            .to_string()
            .contains("--max-layer-size")
    );
    let many = (0..11)
        .fold(Tar::default(), |tar, n| tar.file(&n.to_string(), ""))
        .bytes();
    assert!(
        Place::new()
            .apply(&many, small, None)
            .unwrap_err()
            .to_string()
            .contains("more than 10 entries")
    );
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
    assert!(
        place
            .apply(&gz, Limits::default(), None)
            .unwrap_err()
            .to_string()
            .contains("unpacks to more than")
    );
}

#[test]
fn sparse_files_of_all_forms_have_their_holes() {
    let place = Place::new();
    let (real, data) = (1 << 20, "x".repeat(512) + &"y".repeat(512));
    let pax_01: [(&str, &[u8]); 3] = [
        ("GNU.sparse.size", b"1048576"),
        ("GNU.sparse.map", b"4096,512,8192,512"),
        ("GNU.sparse.name", b"pax01"),
    ];
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
        assert!(
            fs::metadata(place.at(name)).unwrap().blocks() < 100,
            "{name} has holes"
        );
    }
    let overlap: [(&str, &[u8]); 2] = [
        ("GNU.sparse.size", b"100"),
        ("GNU.sparse.map", b"0,10,5,10"),
    ];
    assert!(refused(Tar::default().pax(&overlap).file("x", "")).contains("overlap"));
    let beyond: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"90,20")];
    assert!(refused(Tar::default().pax(&beyond).file("x", "")).contains("leave the file"));
    let missing: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"0,20")];
    assert!(
        refused(Tar::default().pax(&missing).file("x", "short"))
            .contains("sparse map has 20 bytes")
    );
}

/// A layer below, for those that lean on one.
fn below() -> Place {
    let lower = Place::new();
    let tar = Tar::default()
        .dir("usr")
        .add(Spec {
            kind: b'5',
            name: b"usr/lib",
            mode: 0o1751,
            owner: (3, 4),
            ..Spec::default()
        })
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .add(Spec {
            name: b"usr/lib/so",
            data: b"lib",
            mode: 0o4750,
            owner: (9, 9),
            ..Spec::default()
        })
        .dir("hidden")
        .file(".wh.gone", "");
    lower.unpack(tar).unwrap();
    lower
}

#[test]
fn a_layer_that_stands_alone_says_so() {
    let place = Place::new();
    let tar = || {
        Tar::default()
            .dir("usr")
            .dir("usr/lib")
            .file("usr/lib/x", "")
    };
    assert!(
        place
            .apply(&tar().bytes(), Limits::default(), None)
            .unwrap()
            .self_contained
    );
    let leaning = Place::new()
        .apply(
            &Tar::default().file("usr/x", "").bytes(),
            Limits::default(),
            None,
        )
        .unwrap();
    assert!(leaning.needs_lower && !leaning.self_contained);
    let linked = Place::new()
        .apply(
            &Tar::default().hardlink("x", "y").bytes(),
            Limits::default(),
            None,
        )
        .unwrap();
    assert!(linked.needs_lower);
}

#[test]
fn directories_without_an_entry_look_as_they_do_below() {
    let lower = below();
    let stack = LowerStack::new(vec![open_root(&lower.root()).unwrap()]);
    let place = Place::new();
    let tar = Tar::default()
        .file("usr/lib/new", "1")
        .file("lib/through", "2")
        .file("abs/too", "3")
        .file("fresh/x", "4");
    place
        .apply(&tar.bytes(), Limits::default(), Some(&stack))
        .unwrap();
    let meta = fs::metadata(place.at("usr/lib")).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o1751, 3, 4)
    );
    // As on the mounted image: `lib` is a link below, and stays one.
    assert!(!place.at("lib").exists() && !place.at("abs").exists());
    assert_eq!(
        fs::read_to_string(place.at("usr/lib/through")).unwrap(),
        "2"
    );
    assert_eq!(fs::read_to_string(place.at("usr/lib/too")).unwrap(), "3");
    assert_eq!(
        fs::metadata(place.at("fresh")).unwrap().mode() & 0o7777,
        0o755
    );
}

#[test]
fn hardlinks_to_files_below_are_copies() {
    let lower = below();
    let stack = LowerStack::new(vec![open_root(&lower.root()).unwrap()]);
    let place = Place::new();
    let tar = Tar::default()
        .hardlink("copy", "usr/lib/so")
        .hardlink("again", "lib/so");
    place
        .apply(&tar.bytes(), Limits::default(), Some(&stack))
        .unwrap();
    for name in ["copy", "again"] {
        let meta = fs::metadata(place.at(name)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o4750, 9));
        assert_eq!(fs::read_to_string(place.at(name)).unwrap(), "lib");
    }
    assert_eq!(fs::metadata(lower.at("usr/lib/so")).unwrap().nlink(), 1);
    for (name, target) in [("h", "gone"), ("h", "nothing"), ("h", "usr/lib/so/x")] {
        let tar = Tar::default().hardlink(name, target).bytes();
        assert!(
            Place::new()
                .apply(&tar, Limits::default(), Some(&stack))
                .is_err(),
            "{target}"
        );
    }
    // What this layer has removed is no target.
    let tar = Tar::default()
        .dir("usr")
        .file("usr/.wh.lib", "")
        .hardlink("h", "usr/lib/so")
        .bytes();
    assert!(
        Place::new()
            .apply(&tar, Limits::default(), Some(&stack))
            .is_err()
    );
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let place = Place::new();
    let tar = Tar::default().file("x", "1").bytes();
    let wrong = crate::digest::Digest::of(b"other");
    let job = Job {
        diff_id: Some(&wrong),
        root: open_root(&place.root()).unwrap(),
        form: OverlayForm::Trusted,
        limits: Limits::default(),
        compressed: None,
        lower: None,
    };
    assert!(
        unpack(tar.as_slice(), job, None)
            .unwrap_err()
            .to_string()
            .contains("the image config says")
    );
}
