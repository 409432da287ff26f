//! The tools of the field read what we write, and we read theirs: the same config byte for byte, and the same tree of files.
//!
//! | | layout | archive | registry |
//! |---|---|---|---|
//! | skopeo, umoci, buildah, podman, containerd | both ways | both ways | both ways |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration::command::{self, Files, Out, tool};
use integration::peer::containerd::Containerd;
use integration::peer::registry::Registry;
use integration::place::Place;
use integration::{leak, programs, skip, tree};

use crate::bundle;

type Tree = BTreeMap<String, String>;

/// Makes, with buildah, an image of two layers with whatever is hard for an unpacker. $1: a directory of its own; the image is in the
/// layout $1/layout as `hard`.
const HARD: &str = r#"
work=$1
root=$work/root
mkdir -p "$root"/bin "$root"/etc "$root"/dir/deep "$root"/gone/x "$root"/opaque/old "$root"/turns
cp /bin/busybox "$root/bin/busybox"
echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"
echo one >"$root/file"; ln "$root/file" "$root/dir/hard"; ln -s ../file "$root/dir/soft"; ln -s /etc/passwd "$root/absolute"
ln -s nowhere "$root/dangling"; mkfifo -m 622 "$root/fifo"; mknod -m 666 "$root/null" c 1 3; mknod -m 660 "$root/disk" b 7 1
echo setuid >"$root/setuid"; chown 1000:2000 "$root/setuid"; chmod 4755 "$root/setuid"
mkdir "$root/sticky" "$root/sgid"; chmod 1777 "$root/sticky"; chown 0:3000 "$root/sgid"; chmod 2775 "$root/sgid"
echo caps >"$root/caps"
python3 -c '
import os, sys
root = sys.argv[1]
os.setxattr(root + "/caps", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
os.setxattr(root + "/dir", "user.note", b"of a directory")
os.setxattr(root + "/file", "user.note", b"line\n= other \xff")
os.makedirs(root + "/" + "long" * 40 + "/" + "name" * 50)
open(root + "/" + "long" * 40 + "/" + "x" * 200, "w").write("long")
open((root + "/b").encode() + b"\xc3\xbc", "w").write("not ascii")
with open(root + "/sparse", "w") as out:
    out.seek(5 << 20); out.write("end")
' "$root"
echo big >"$root/ids"; chown 3000000:3000001 "$root/ids"
echo x >"$root/gone/x/y"; echo x >"$root/gone-file"; echo x >"$root/opaque/old/x"; echo x >"$root/turns/file"; echo x >"$root/becomes-dir"
find "$root" -exec touch -h -d '2020-02-02 02:02:02.25' {} +
tar -C "$root" --xattrs --xattrs-include='*' --format=posix --sparse -cf "$work/base.tar" .
storage="--root $work/storage --runroot $work/run --storage-driver overlay"
at=$(buildah $storage from scratch)
buildah $storage add -q "$at" "$work/base.tar" / >/dev/null
buildah $storage config --cmd '["/bin/busybox","true"]' --env KEY=value --label org.example=yes --user 0:0 "$at"
buildah $storage commit -q "$at" base >/dev/null
at=$(buildah $storage from base)
changed=$(buildah $storage mount "$at")
rm -rf "$changed/gone" "$changed/gone-file" "$changed/opaque" "$changed/turns" "$changed/becomes-dir"
mkdir "$changed/opaque" "$changed/becomes-dir"; echo new >"$changed/opaque/new"; echo file >"$changed/turns"; echo in >"$changed/becomes-dir/in"
chmod 700 "$changed/dir/deep"; echo two >"$changed/file"; rm "$changed/dangling"; ln -s elsewhere "$changed/dangling"
buildah $storage umount "$at" >/dev/null
buildah $storage commit -q --disable-compression=false "$at" "oci:$work/layout:hard" >/dev/null
buildah $storage rm --all >/dev/null
buildah $storage rmi --all --force >/dev/null
"#;

/// The layout of the hard image.
fn hard(place: &Place) -> PathBuf {
    let dir = place.dir.join("hard");
    fs::create_dir(&dir).unwrap();
    let mut sh = Command::new("sh");
    sh.args(["-eu", "-c", HARD, "sh"]).arg(&dir).stdin(Stdio::null());
    command::run(&mut sh, &Files::new(&place.dir, "hard")).ok();
    dir.join("layout")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// Runs a tool of the field. Pulls of `big` take their time.
#[track_caller]
fn theirs(line: &str) -> Out {
    let words: Vec<&str> = line.split(' ').collect();
    tool(words[0], &words[1..]).ok()
}

fn skopeo(from: &str, to: &str) {
    theirs(&format!("skopeo --insecure-policy copy -q --src-tls-verify=false --dest-tls-verify=false {from} {to}"));
}

/// The tree as umoci unpacks it from a layout.
fn umoci(place: &Place, layout: &str) -> Tree {
    let to = place.dir.join("umoci");
    let _ = fs::remove_dir_all(&to);
    theirs(&format!("umoci unpack --image {layout} {}", to.display()));
    tree::describe(&to.join("rootfs"))
}

/// The tree as podman mounts it, and the ID that it knows the image by.
fn podman(place: &Place, source: &str) -> (Tree, String) {
    let storage = place.dir.join("podman");
    let podman = format!("podman --root {0}/root --runroot {0}/run --storage-driver overlay", storage.display());
    let out = if source.contains(':') && !source.starts_with("127.") {
        theirs(&format!("{podman} load -q -i {}", source.split(':').nth(1).unwrap()))
    } else {
        theirs(&format!("{podman} pull -q --tls-verify=false {source}"))
    };
    let id = out.stdout.trim().rsplit(' ').next().unwrap().to_owned();
    let id = theirs(&format!("{podman} image inspect --format {{{{.Id}}}} {id}")).stdout.trim().to_owned();
    let at = theirs(&format!("{podman} image mount {id}")).stdout.trim().to_owned();
    let tree = tree::describe(Path::new(at.rsplit(' ').next().unwrap()));
    theirs(&format!("{podman} image umount {id}"));
    theirs(&format!("{podman} rmi -f {id}"));
    (tree, id)
}

/// The tree as buildah mounts it.
fn buildah(place: &Place, source: &str) -> Tree {
    let storage = place.dir.join("buildah");
    let buildah = format!("buildah --root {0}/root --runroot {0}/run --storage-driver overlay", storage.display());
    let at = theirs(&format!("{buildah} from -q --tls-verify=false {source}")).stdout.trim().to_owned();
    let mounted = theirs(&format!("{buildah} mount {at}")).stdout.trim().to_owned();
    let tree = tree::describe(Path::new(&mounted));
    theirs(&format!("{buildah} umount {at}"));
    theirs(&format!("{buildah} rm {at}"));
    tree
}

/// The tree as containerd mounts it, from the registry.
fn containerd(daemon: &Containerd, place: &Place, reference: &str) -> Tree {
    daemon.ctr(&["image", "pull", "--plain-http", reference]).ok();
    let at = place.dir.join("ctr");
    fs::create_dir_all(&at).unwrap();
    daemon.ctr(&["image", "mount", reference, text(&at)]).ok();
    let tree = tree::describe(&at);
    daemon.ctr(&["image", "unmount", "--rm", text(&at)]).ok();
    tree
}

/// The tree of a bundle of ours, as its container finds it.
fn ours(place: &Place, image: &str) -> Tree {
    let path = bundle(place, &["--pull", "never", image, "--", "x"]);
    let tree = tree::describe(&Path::new(&path).join("rootfs"));
    place.ours("imgtool", &["unbundle", &path]).ok();
    tree
}

/// The config's digest, which is the image's ID everywhere.
fn id_of(place: &Place, image: &str) -> String {
    let inspected = place.ours("imgtool", &["inspect", image]).ok().json();
    inspected[0]["id"].as_str().expect("an id").rsplit(':').next().unwrap().to_owned()
}

/// The root directory itself, where no layer has it, is as each tool likes.
const ROOT: [&str; 1] = [""];
/// Container tools make mount points for what they mount, and each of them its own.
const THEIR_OWN: [&str; 7] = ["", "dev", "proc", "sys", "etc", "run", "etc/resolv.conf"];

/// Reads an image of somebody else's by every way, and compares what becomes of it.
fn we_read_theirs(place: &Place, layout: &Path, name: &str) {
    let registry = Registry::start(&place.id, &place.dir);
    let reference = format!("{}/theirs:{name}", registry.host);
    let source = format!("oci:{}:{name}", layout.display());
    skopeo(&source, &format!("docker://{reference}"));
    place.ours("imgtool", &["pull", "--quiet", &reference]).ok();
    let tree = ours(place, &reference);
    let id = id_of(place, &reference);
    tree::same(&tree, &umoci(place, &format!("{}:{name}", layout.display())), &ROOT, "umoci unpack");
    let (theirs, their_id) = podman(place, &reference);
    tree::same(&tree, &theirs, &ROOT, "podman pull");
    assert_eq!(id, their_id, "podman's ID is ours");
    // By archives of both kinds. Docker's has the layers without compression, but the config's bytes.
    for kind in ["oci-archive", "docker-archive"] {
        let archive = place.dir.join(kind);
        skopeo(&source, &format!("{kind}:{}:loaded:{kind}", archive.display()));
        place.ours("imgtool", &["load", "--quiet", "-i", text(&archive), "--name", kind]).ok();
        tree::same(&tree, &ours(place, kind), &ROOT, kind);
        assert_eq!(id_of(place, kind), id, "{kind}");
    }
    let copied = place.dir.join("copied");
    place.ours("imgtool", &["copy", "--quiet", &source, &format!("oci:{}:{name}", copied.display())]).ok();
    tree::same(&tree, &umoci(place, &format!("{}:{name}", copied.display())), &ROOT, "a layout that we copied");
}

#[test]
fn we_read_what_others_write() {
    let place = Place::new();
    let layout = hard(&place);
    we_read_theirs(&place, &layout, "hard");
}

/// Each tool gets the image from the registry and gives it on in each of its own ways.
#[test]
fn what_a_tool_passes_on_is_the_image_still() {
    let place = Place::new();
    let layout = hard(&place);
    let registry = Registry::start(&place.id, &place.dir);
    let first = format!("{}/first:1", registry.host);
    skopeo(&format!("oci:{}:hard", layout.display()), &format!("docker://{first}"));
    place.ours("imgtool", &["pull", "--quiet", &first]).ok();
    let (tree, id) = (ours(&place, &first), id_of(&place, &first));
    let at = |name: &str| place.dir.join(name).to_str().unwrap().to_owned();
    let check = |image: &str, what: &str| {
        tree::same(&tree, &ours(&place, image), &ROOT, what);
        assert_eq!(id_of(&place, image), id, "{what}");
        place.ours("imgtool", &["rm", image]).ok();
    };
    let loaded = |archive: &str, what: &str| {
        place.ours("imgtool", &["load", "--quiet", "-i", archive, "--name", "loaded:1"]).ok();
        check("loaded:1", what);
    };
    let pulled = |reference: &str, what: &str| {
        place.ours("imgtool", &["pull", "--quiet", reference]).ok();
        check(reference, what);
    };

    let storage = format!("--root {0}/root --runroot {0}/run --storage-driver overlay", at("containers"));
    theirs(&format!("podman {storage} pull -q --tls-verify=false {first}"));
    for kind in ["oci-archive", "docker-archive"] {
        let archive = at(&format!("podman-{kind}"));
        theirs(&format!("podman {storage} save -q --format {kind} -o {archive} {first}"));
        loaded(&archive, &format!("podman save, {kind}"));
        let archive = at(&format!("buildah-{kind}"));
        theirs(&format!("buildah {storage} push -q {first} {kind}:{archive}:some/name:1"));
        loaded(&archive, &format!("buildah push, {kind}"));
    }
    for tool in ["podman", "buildah"] {
        let reference = format!("{}/{tool}:1", registry.host);
        theirs(&format!("{tool} {storage} push -q --tls-verify=false {first} docker://{reference}"));
        pulled(&reference, tool);
    }
    // A layout is a store that has nothing unpacked yet.
    theirs(&format!("buildah {storage} push -q {first} oci:{}:it", at("layout")));
    theirs(&format!("umoci tag --image {}:it its", at("layout")));
    for name in ["it", "its"] {
        let store = at("layout");
        let (image, bundle) = (name, at("of-layout"));
        let mut make = Command::new(programs::ours("imgtool"));
        make.args(["--root", &store, "bundle", "--quiet", "--pull", "never", image, &bundle, "--", "x"]);
        command::run(make.env("TARE_TEST", &place.id).stdin(Stdio::null()), &Files::new(&place.dir, "layout")).ok();
        tree::same(&tree, &tree::describe(&Path::new(&bundle).join("rootfs")), &ROOT, "a layout as a store");
        place.ours("imgtool", &["unbundle", &bundle]).ok();
    }
    theirs(&format!("umoci stat --image {}:its", at("layout")));
    theirs(&format!("buildah {storage} rmi -f {first}"));

    let daemon = Containerd::start(&place.id, &place.dir);
    daemon.ctr(&["image", "pull", "--plain-http", &first]).ok();
    daemon.ctr(&["image", "export", &at("ctr.tar"), &first]).ok();
    loaded(&at("ctr.tar"), "ctr image export");
    let reference = format!("{}/ctr:1", registry.host);
    daemon.ctr(&["image", "tag", &first, &reference]).ok();
    daemon.ctr(&["image", "push", "--plain-http", &reference]).ok();
    pulled(&reference, "ctr image push");
    drop(daemon);
    for mount in leak::mounts(&place.id) {
        theirs(&format!("umount -l {}", mount.display()));
    }
}

#[test]
fn the_image_of_the_benchmark_comes_out_as_others_unpack_it() {
    let layout = programs::cache().join("big/gzip");
    if !layout.join("index.json").exists() {
        skip!("hack/bench imgtool has not made the image `big` yet");
    }
    we_read_theirs(&Place::new(), &layout, "big");
}

#[test]
fn others_read_what_we_write() {
    let place = Place::new();
    let layout = hard(&place);
    let registry = Registry::start(&place.id, &place.dir);
    let base = format!("{}/base:1", registry.host);
    skopeo(&format!("oci:{}:hard", layout.display()), &format!("docker://{base}"));
    // A layer of our own above theirs, with all that a layer of changes can say.
    let path = bundle(&place, &[&base, "--", "x"]);
    let root = Path::new(&path).join("rootfs");
    fs::remove_file(root.join("setuid")).unwrap();
    fs::remove_dir_all(root.join("sticky")).unwrap();
    fs::create_dir(root.join("sticky")).unwrap();
    fs::remove_dir_all(root.join("opaque")).unwrap();
    fs::create_dir(root.join("opaque")).unwrap();
    fs::write(root.join("opaque/ours"), "ours").unwrap();
    fs::hard_link(root.join("opaque/ours"), root.join("dir/ours")).unwrap();
    fs::rename(root.join("caps"), root.join("moved-caps")).unwrap();
    std::os::unix::fs::symlink("ours", root.join("our-link")).unwrap();
    let long = root.join("l".repeat(150)).join("m".repeat(150));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("\u{fc}"), "x").unwrap();
    std::os::unix::fs::chown(root.join("our-link"), Some(5_000_000), Some(7)).unwrap_or(());
    std::os::unix::fs::lchown(root.join("our-link"), Some(5_000_000), Some(7)).unwrap();
    rustix::fs::setxattr(long.join("\u{fc}"), "user.note", b"a\nb", rustix::fs::XattrFlags::empty()).unwrap();
    let tree = tree::describe(&root);
    place.ours("imgtool", &["commit", "--compression", "gzip", &path, "made:1"]).ok();
    place.ours("imgtool", &["commit", "--compression", "zstd", "--compression-level", "9", &path, "made:zstd"]).ok();
    place.ours("imgtool", &["unbundle", &path]).ok();
    for image in ["made:1", "made:zstd"] {
        tree::same(&tree, &ours(&place, image), &ROOT, image);
    }
    let id = id_of(&place, "made:1");
    // The registry.
    let (reference, zstd) = (format!("{}/made:1", registry.host), format!("{}/made:zstd", registry.host));
    place.ours("imgtool", &["push", "--quiet", "made:1", &reference]).ok();
    place.ours("imgtool", &["push", "--quiet", "made:zstd", &zstd]).ok();
    for reference in [&reference, &zstd] {
        let (theirs, _) = podman(&place, reference);
        tree::same(&tree, &theirs, &ROOT, "podman pull");
    }
    assert_eq!(podman(&place, &reference).1, id);
    tree::same(&tree, &buildah(&place, &reference), &THEIR_OWN, "buildah from");
    let daemon = Containerd::start(&place.id, &place.dir);
    tree::same(&tree, &containerd(&daemon, &place, &reference), &ROOT, "ctr image pull");
    // The layout: the store itself, and a copy.
    let name = "docker.io/library/made:1";
    let store = format!("oci:{}:{name}", place.dir.join("store").display());
    let to = place.dir.join("from-store");
    skopeo(&store, &format!("oci:{}:it", to.display()));
    tree::same(&tree, &umoci(&place, &format!("{}:it", to.display())), &ROOT, "the store by skopeo and umoci");
    let raw = |source: &str| theirs(&format!("skopeo inspect --tls-verify=false --config --raw {source}")).stdout;
    assert_eq!(raw(&format!("docker://{reference}")), raw(&store), "the config, byte for byte");
    // Archives.
    for kind in ["oci-archive", "docker-archive"] {
        let archive = place.dir.join(format!("saved-{kind}"));
        place.ours("imgtool", &["save", "--quiet", "--format", kind, "-o", text(&archive), "made:1"]).ok();
        let (theirs, their_id) = podman(&place, &format!("{kind}:{}", archive.display()));
        tree::same(&tree, &theirs, &ROOT, kind);
        assert_eq!(their_id, id, "{kind}");
        daemon.ctr(&["image", "import", "--no-unpack", text(&archive)]).ok();
    }
    drop(daemon);
    for mount in leak::mounts(&place.id) {
        theirs(&format!("umount -l {}", mount.display()));
    }
}
