//! An ordinary user of the machine: what our programs do without root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use crate::command::{self, Files, Out, tool};
use crate::peer::image;
use crate::place::Place;
use crate::programs::{self, Kind, Runtime};

/// The user's id: nobody's on an ordinary machine, as are the ranges.
pub const UID: u32 = 61_235;
/// The first id of the user's ranges.
pub const FIRST: u32 = 910_000;

/// A user with a home, and with or without ranges of ids. The user exists only for what is run by [`User::run`]: its mount
/// namespace has user databases of its own.
pub struct User {
    /// Where all of it is.
    pub place: Place,
    /// The home directory, which programs start in.
    pub home: PathBuf,
    programs: PathBuf,
    calls: std::cell::Cell<u32>,
}

impl User {
    /// `ranges`: the user has 65536 ids besides the own.
    #[must_use]
    pub fn new(ranges: bool) -> Self {
        let place = Place::new();
        let at = |name: &str| place.dir.join(name);
        let (home, programs) = (at("home"), at("programs"));
        fs::create_dir_all(home.join("run")).unwrap();
        fs::create_dir(&programs).unwrap();
        for dir in [home.join("run"), home.clone()] {
            chown(dir, Some(UID), Some(UID)).unwrap();
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
        more("/etc/passwd", format!("{name}:x:{UID}:{UID}::{}:/bin/sh\n", home.display()));
        more("/etc/group", format!("{name}:x:{UID}:\n"));
        for file in ["/etc/subuid", "/etc/subgid"] {
            more(file, if ranges { format!("{name}:{FIRST}:65536\n") } else { String::new() });
        }
        // On some machines only root may use it, which nobody wants.
        tool("mknod", &["-m", "666", at("tun").to_str().unwrap(), "c", "10", "200"]).ok();
        Self { place, home, programs, calls: std::cell::Cell::default() }
    }

    /// The path by which the user may execute a program of ours.
    #[must_use]
    pub fn program(&self, name: &str) -> String {
        self.programs.join(name).to_str().unwrap().to_owned()
    }

    /// Runs one of our programs as the user.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> Out {
        const SCRIPT: &str = r#"for file in passwd group subuid subgid; do mount --bind "$1/$file" /etc/$file; done
[ ! -e /dev/net/tun ] || mount --bind "$1/tun" /dev/net/tun
user=$2; shift 2; exec setpriv --reuid "$user" --regid "$user" --clear-groups -- "$@""#;
        let n = self.calls.get() + 1;
        self.calls.set(n);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-eu", "-c", SCRIPT, "sh"]);
        command.arg(&self.place.dir).arg(UID.to_string()).arg(self.program(program)).args(args);
        command.env("HOME", &self.home).env("XDG_DATA_HOME", self.home.join("data"));
        command.env("XDG_RUNTIME_DIR", self.home.join("run")).env("TARE_TEST", &self.place.id);
        command.env("TARE_RUNTIME", self.program("runtime"));
        command.stdin(std::process::Stdio::null()).current_dir(&self.home);
        command::run(&mut command, &Files::new(&self.place.dir, &format!("user{n}")))
    }

    /// `imgtool` as the user.
    #[track_caller]
    pub fn imgtool(&self, args: &[&str]) -> Out {
        self.run("imgtool", args)
    }

    /// Makes a bundle; gives its path.
    #[track_caller]
    pub fn bundle(&self, args: &[&str]) -> String {
        self.imgtool(&[&["bundle", "-q"], args].concat()).ok().stdout.trim().to_owned()
    }

    /// Runs a bundle.
    #[track_caller]
    pub fn container(&self, bundle: &str) -> Out {
        self.run("runtime", &["run", "--bundle", bundle, &self.place.id])
    }

    /// Imports a tar of a small root file system, with files of other users and a device.
    pub fn image(&self) {
        image::busybox_tar(&self.place.dir);
        let root = self.place.dir.join("small");
        fs::write(root.join("etc/of-web"), "web").unwrap();
        chown(root.join("etc/of-web"), Some(33), Some(44)).unwrap();
        tool("mknod", &[root.join("device").to_str().unwrap(), "c", "1", "3"]).ok();
        let (root, tar) = (root.to_str().unwrap().to_owned(), self.home.join("small.tar"));
        tool("tar", &["-C", &root, "-cf", tar.to_str().unwrap(), "."]).ok();
        self.imgtool(&["import", "-q", "-c", "USER web", "small.tar", "small:1"]).ok();
    }

    /// The user's images.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.home.join("data/tare/images")
    }

    /// Removes everything, and requires that nothing is left that only root could remove.
    pub fn leave(&self) {
        self.imgtool(&["fsck"]).ok();
        self.imgtool(&["prune", "--all", "--build-cache"]).ok();
        for directory in ["layers/sha256", "bundles", "tmp", "uses"] {
            let left = fs::read_dir(self.store().join(directory)).into_iter().flatten().count();
            assert_eq!(left, 0, "{directory}");
        }
    }
}

/// Why nothing of this can be tried here, if so.
#[must_use]
pub fn impossible() -> Option<&'static str> {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if limit.trim() == "0" {
        return Some("this host makes no user namespaces");
    }
    (Runtime::under_test().kind == Kind::Crun).then_some("crun of Debian 12 cannot mount on the root")
}
