//! An ordinary user's images and bundles: with ranges of ids by newuidmap, and with the user's own id alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use integration::command::{self, tool};
use integration::programs;
use integration::skip;
use integration::user::{FIRST, UID, User, impossible};

#[test]
fn with_ranges_files_keep_their_owners_and_the_process_is_who_it_should_be() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    let user = User::new(true);
    user.image();
    let path =
        user.bundle(&["small:1", "--", "/bin/sh", "-c", "ls -ln /etc/of-web; echo mine >/tmp/mine; id -u; id -g"]);
    assert!(Path::new(&path).starts_with(user.store()), "{path}");
    // As root of the user namespace, so that /tmp can be written.
    user.imgtool(&["unbundle", &path]).ok();
    let script = "ls -ln /etc/of-web; echo mine >/etc/mine; rm /etc/group; mkdir /etc/new; id -u; ls /";
    let path = user.bundle(&["-u", "0", "small:1", "--", "/bin/sh", "-c", script]);
    let out = user.container(&path).ok();
    let words: Vec<&str> = out.stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(&words[2..4], ["33", "44"], "{out}");
    assert!(out.stdout.lines().any(|line| line == "0"), "{out}");
    assert!(!out.stdout.contains("device"), "devices are left out: {out}");
    // What the image gives to others is others' outside, too.
    let layer = fs::read_dir(user.store().join("layers/sha256")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(layer.join("diff/etc/of-web")).unwrap().uid(), FIRST + 32);
    let diff = user.imgtool(&["diff", &path]).ok().stdout;
    assert!(diff.contains("A /etc/mine") && diff.contains("D /etc/group"), "{diff}");
    user.imgtool(&["commit", "-c", "USER web", &path, "second:1"]).ok();
    user.imgtool(&["export", "-o", "exported.tar", &path]).ok();
    let listed = tool("tar", &["-tvf", user.home.join("exported.tar").to_str().unwrap()]).ok().stdout;
    assert!(listed.contains("etc/mine") && !listed.contains("etc/group"), "{listed}");
    assert!(listed.lines().any(|line| line.contains("33/44") && line.contains("of-web")), "{listed}");
    user.imgtool(&["unbundle", &path]).ok();
    let path = user.bundle(&["second:1", "--", "/bin/sh", "-c", "cat /etc/mine; ls /etc/group; id -u"]);
    let out = user.container(&path);
    assert_eq!(out.stdout, "mine\n33\n", "{out}");
    user.imgtool(&["unbundle", &path]).ok();
    user.leave();
}

#[test]
fn without_ranges_all_belongs_to_the_user() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    let user = User::new(false);
    user.image();
    let out = user
        .imgtool(&["bundle", "small:1", "--", "/bin/sh", "-c", "ls -ln /etc/of-web; id -u; echo x >/etc/mine"])
        .ok();
    assert!(out.stderr.contains("/etc/subuid") && out.stderr.contains("not as 33:33"), "{out}");
    let path = out.stdout.trim().to_owned();
    let out = user.container(&path).ok();
    let words: Vec<&str> = out.stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!((&words[2..4], out.stdout.lines().nth(1)), (&["0", "0"][..], Some("0")), "{out}");
    let layer = fs::read_dir(user.store().join("layers/sha256")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(layer.join("diff/etc/of-web")).unwrap().uid(), UID);
    user.imgtool(&["unbundle", &path]).ok();
    user.leave();
}

#[test]
fn a_copy_needs_no_overlay() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    let user = User::new(true);
    user.image();
    let path = user.bundle(&["--copy", "small:1", "copied", "--", "/bin/sh", "-c", "id -u; ls -ln /etc/of-web"]);
    let config: serde_json::Value = serde_json::from_slice(&fs::read(format!("{path}/config.json")).unwrap()).unwrap();
    assert!(!config.to_string().contains("overlay"), "{config}");
    let out = user.container(&path).ok();
    assert!(out.stdout.starts_with("33\n") && out.stdout.contains(" 33 "), "{out}");
    user.imgtool(&["unbundle", &path]).ok();
    assert!(!Path::new(&path).exists());
    user.leave();
}

#[test]
fn the_shim_holds_a_users_container_and_the_bundle_is_not_removed_under_it() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    let user = User::new(true);
    user.image();
    let path = user.bundle(&["small:1", "--", "/bin/sh", "-c", "echo up; sleep 1000"]);
    user.run("shim", &["run", "-d", "--name", "web", &path]).ok();
    let out = user.run("shim", &["exec", "web", "/bin/id", "-u"]).ok();
    assert_eq!(out.stdout.trim(), "33", "{out}");
    let out = user.imgtool(&["unbundle", &path]);
    assert!(out.code == 1 && out.stderr.contains("still uses it"), "{out}");
    user.run("shim", &["rm", "--force", "web"]).ok();
    user.imgtool(&["unbundle", &path]).ok();
    user.leave();
}

#[test]
fn a_port_is_published_by_pasta() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    if programs::find(Path::new("pasta")).is_none() {
        skip!("pasta is not installed");
    }
    let user = User::new(true);
    user.image();
    // Root's, as soon as it has published one: nothing for a user to look into.
    let roots = Path::new("/run/imgtool/ports");
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .recursive(true)
        .create(roots)
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port();
    let published = format!("127.0.0.1:{port}:80");
    let serve = "mkdir /tmp/www; echo over pasta >/tmp/www/index.html; exec /bin/busybox httpd -f -h /tmp/www";
    // One that the user chose, and whichever is free.
    for publish in [&["-p", &published][..], &["-P", "--expose", "80"]] {
        let path = user.bundle(&[publish, &["-u", "0", "small:1", "--", "/bin/sh", "-c", serve]].concat());
        let address = user.imgtool(&["port", &path, "80"]).ok().stdout;
        let port = address.trim().rsplit(':').next().unwrap();
        // It goes on in the background, with its output in a file.
        user.run("runtime", &["run", "--detach", "--bundle", &path, &user.place.id]).ok();
        let url = format!("http://127.0.0.1:{port}/");
        let answer = integration::wait::until(std::time::Duration::from_millis(50), command::LIMIT / 2, || {
            let out = tool("busybox", &["wget", "-q", "-O", "-", &url]);
            (out.code == 0).then_some(out.stdout)
        });
        assert_eq!(answer.as_deref(), Some("over pasta\n"), "{publish:?}");
        user.run("runtime", &["delete", "--force", &user.place.id]).ok();
        assert_eq!(user.imgtool(&["unbundle", &path]).ok().stderr, "");
    }
    user.leave();
}

#[test]
fn a_user_shares_the_hosts_namespaces() {
    if let Some(why) = impossible() {
        skip!("{why}");
    }
    let user = User::new(true);
    user.image();
    let look = "for kind in pid ipc uts; do /bin/busybox readlink /proc/self/ns/$kind; done; hostname; ls -d /dev/shm";
    let options =
        ["-u", "0", "--pid", "host", "--ipc", "host", "--uts", "host", "small:1", "--", "/bin/sh", "-c", look];
    let path = user.bundle(&options);
    let out = user.container(&path).ok();
    let mut want: String = ["pid", "ipc", "uts"]
        .map(|kind| format!("{}\n", std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display()))
        .concat();
    want.extend([tool("uname", &["-n"]).ok().stdout.as_str(), "/dev/shm\n"]);
    assert_eq!(out.stdout, want);
    user.imgtool(&["unbundle", &path]).ok();
    user.leave();
}

#[test]
fn what_needs_root_says_so() {
    let user = User::new(false);
    user.image();
    let out = user.imgtool(&["bundle", "-q", "--network", "bridge", "small:1", "--", "x"]);
    out.refused(&["--network pasta"]);
    user.imgtool(&["bundle", "-q", "--pid", "container:x", "small:1", "--", "x"]).refused(&["pid", "needs root"]);
    user.imgtool(&["bundle", "-q", "--ipc", "shareable", "small:1", "--", "x"])
        .refused(&["--ipc shareable", "needs root"]);
    let path = user.bundle(&["small:1", "--", "x"]);
    user.imgtool(&["mount", &path]).refused(&["root", "runtime"]);
    user.imgtool(&["unbundle", &path]).ok();
    user.leave();
}
