//! An ordinary user's images and bundles: with ranges of ids by newuidmap, and with the user's own id alone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::command::{self, Files, Out, tool};
use integration::place::Place;
use integration::programs::{self, Kind, Runtime};
use integration::{peer::image, skip};

/// Nobody's id on an ordinary machine, and nobody's ranges.
const USER: u32 = 61_235;
const FIRST: u32 = 910_000;

/// A user with a home, and with or without ranges of ids. The user exists only for what is run by [`User::run`]: its mount
/// namespace has user databases of its own.
struct User {
    place: Place,
    home: PathBuf,
    programs: PathBuf,
    calls: std::cell::Cell<u32>,
}

impl User {
    fn new(ranges: bool) -> Self {
        let place = Place::new();
        let at = |name: &str| place.dir.join(name);
        let (home, programs) = (at("home"), at("programs"));
        fs::create_dir_all(home.join("run")).unwrap();
        fs::create_dir(&programs).unwrap();
        for dir in [home.join("run"), home.clone()] {
            chown(dir, Some(USER), Some(USER)).unwrap();
        }
        let copy = |from: PathBuf, name: &str| {
            fs::copy(from, programs.join(name)).unwrap();
            fs::set_permissions(programs.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        };
        copy(programs::ours("imgtool"), "imgtool");
        copy(programs::ours("shim"), "shim");
        copy(programs::on_path(&Runtime::under_test().binary), "runtime");
        let more = |of: &str, line: String| {
            let text = fs::read_to_string(of).unwrap_or_default();
            fs::write(at(of.rsplit('/').next().unwrap()), text + &line).unwrap();
        };
        let name = "tare-tester";
        more("/etc/passwd", format!("{name}:x:{USER}:{USER}::{}:/bin/sh\n", home.display()));
        more("/etc/group", format!("{name}:x:{USER}:\n"));
        for file in ["/etc/subuid", "/etc/subgid"] {
            more(file, if ranges { format!("{name}:{FIRST}:65536\n") } else { String::new() });
        }
        // On some machines only root may use it, which nobody wants.
        tool("mknod", &["-m", "666", at("tun").to_str().unwrap(), "c", "10", "200"]).ok();
        Self { place, home, programs, calls: std::cell::Cell::default() }
    }

    fn program(&self, name: &str) -> String {
        self.programs.join(name).to_str().unwrap().to_owned()
    }

    /// Runs one of our programs as the user.
    #[track_caller]
    fn run(&self, program: &str, args: &[&str]) -> Out {
        const SCRIPT: &str = r#"for file in passwd group subuid subgid; do mount --bind "$1/$file" /etc/$file; done
[ ! -e /dev/net/tun ] || mount --bind "$1/tun" /dev/net/tun
user=$2; shift 2; exec setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@""#;
        let n = self.calls.get() + 1;
        self.calls.set(n);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-eu", "-c", SCRIPT, "sh"]);
        command.arg(&self.place.dir).arg(USER.to_string()).arg(self.program(program)).args(args);
        command.env("HOME", &self.home).env("XDG_DATA_HOME", self.home.join("data"));
        command.env("XDG_RUNTIME_DIR", self.home.join("run")).env("TARE_TEST", &self.place.id);
        command.env("TARE_RUNTIME", self.program("runtime"));
        command.stdin(std::process::Stdio::null()).current_dir(&self.home);
        command::run(&mut command, &Files::new(&self.place.dir, &format!("user{n}")))
    }

    #[track_caller]
    fn imgtool(&self, args: &[&str]) -> Out {
        self.run("imgtool", args)
    }

    #[track_caller]
    fn bundle(&self, args: &[&str]) -> String {
        self.imgtool(&[&["bundle", "-q"], args].concat()).ok().stdout.trim().to_owned()
    }

    #[track_caller]
    fn container(&self, bundle: &str) -> Out {
        self.run("runtime", &["run", "--bundle", bundle, &self.place.id])
    }

    /// Imports a tar of a small root file system, with files of other users and a device.
    fn image(&self) {
        image::busybox_tar(&self.place.dir);
        let root = self.place.dir.join("small");
        fs::write(root.join("etc/of-web"), "web").unwrap();
        chown(root.join("etc/of-web"), Some(33), Some(44)).unwrap();
        tool("mknod", &[root.join("device").to_str().unwrap(), "c", "1", "3"]).ok();
        let (root, tar) = (root.to_str().unwrap().to_owned(), self.home.join("small.tar"));
        tool("tar", &["-C", &root, "-cf", tar.to_str().unwrap(), "."]).ok();
        self.imgtool(&["import", "-q", "-c", "USER web", "small.tar", "small:1"]).ok();
    }

    fn store(&self) -> PathBuf {
        self.home.join("data/tare/images")
    }

    /// Removes everything, and requires that nothing is left that only root could remove.
    fn leave(&self) {
        self.imgtool(&["fsck"]).ok();
        self.imgtool(&["prune", "--all"]).ok();
        for directory in ["layers/sha256", "bundles", "tmp", "uses"] {
            let left = fs::read_dir(self.store().join(directory)).into_iter().flatten().count();
            assert_eq!(left, 0, "{directory}");
        }
    }
}

fn impossible() -> Option<&'static str> {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if limit.trim() == "0" {
        return Some("this host makes no user namespaces");
    }
    (Runtime::under_test().kind == Kind::Crun).then_some("crun of Debian 12 cannot mount on the root")
}

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
    assert_eq!(fs::metadata(layer.join("diff/etc/of-web")).unwrap().uid(), USER);
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
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port();
    let published = format!("127.0.0.1:{port}:80");
    let serve = "mkdir /tmp/www; echo over pasta >/tmp/www/index.html; exec /bin/busybox httpd -f -h /tmp/www";
    let path = user.bundle(&["-u", "0", "-p", &published, "small:1", "--", "/bin/sh", "-c", serve]);
    // It goes on in the background, with its output in a file.
    user.run("runtime", &["run", "--detach", "--bundle", &path, &user.place.id]).ok();
    let url = format!("http://127.0.0.1:{port}/");
    let answer = integration::wait::until(std::time::Duration::from_millis(50), command::LIMIT / 2, || {
        let out = tool("busybox", &["wget", "-q", "-O", "-", &url]);
        (out.code == 0).then_some(out.stdout)
    });
    assert_eq!(answer.as_deref(), Some("over pasta\n"));
    user.run("runtime", &["delete", "--force", &user.place.id]).ok();
    user.imgtool(&["unbundle", &path]).ok();
    user.leave();
}

#[test]
fn what_needs_root_says_so() {
    let user = User::new(false);
    user.image();
    let out = user.imgtool(&["bundle", "-q", "--network", "bridge", "small:1", "--", "x"]);
    out.refused(&["--network pasta"]);
    let path = user.bundle(&["small:1", "--", "x"]);
    user.imgtool(&["mount", &path]).refused(&["root", "runtime"]);
    user.imgtool(&["unbundle", &path]).ok();
    user.leave();
}
