//! A tree written as a layer and unpacked again is the same tree.

use super::super::{TreeForm, write_tree};
use super::*;

/// All that can be said of a tree.
pub(super) fn describe(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let link = fs::read_link(&path).ok();
            all.push(format!(
                "{:?} {:o} {}:{} {}.{} {} {} {link:?} {content:?} {:?} {:?}",
                path.strip_prefix(root).unwrap(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                // A whiteout's time says nothing.
                if meta.mode() == 0o20000 { 0 } else { meta.mtime() },
                if meta.mode() == 0o20000 { 0 } else { meta.mtime_nsec() },
                meta.rdev(),
                if meta.is_dir() { 0 } else { meta.nlink() },
                xattr(&path, "user.note"),
                xattr(&path, "trusted.overlay.opaque"),
            ));
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_layer_comes_back_as_it_was() {
    let long = "n".repeat(200);
    let tar = Tar::default()
        .pax(&[("mtime", b"1234567890.123456789"), ("SCHILY.xattr.user.note", b"kept\n=x")])
        .add(Spec { kind: b'5', name: b"dir", mode: 0o1777, owner: (3, 4), ..Spec::default() })
        .pax(&[("path", format!("dir/{long}").as_bytes())])
        .file("x", "long name")
        .file("dir/\u{fc}", "not ascii")
        .symlink("soft", "/etc/passwd")
        .add(Spec { kind: b'3', name: b"null", mode: 0o666, device: (1, 3), ..Spec::default() })
        .add(Spec { kind: b'6', name: b"fifo", ..Spec::default() })
        .pax(&[("uid", b"3000000"), ("gid", b"3000001")])
        .add(Spec { name: b"setuid", mode: 0o4755, data: b"#!", ..Spec::default() })
        .dir("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file(".wh.gone", "")
        .file("twice", "2")
        .hardlink("again", "twice");
    let first = Place::new();
    first.unpack(tar).unwrap();
    assert_eq!(describe(&first.root()).len(), 11);
    let mut written = Vec::new();
    write_tree(&open_root(&first.root()).unwrap(), TreeForm::Changes, false, &mut written).unwrap();
    let second = Place::new();
    second.apply(&written, Limits::default(), Some(&LowerStack::default())).unwrap();
    assert_eq!(describe(&first.root()), describe(&second.root()));
    let mut again = Vec::new();
    write_tree(&open_root(&second.root()).unwrap(), TreeForm::Changes, false, &mut again).unwrap();
    assert_eq!(written, again, "the same tree gives the same bytes");
}
