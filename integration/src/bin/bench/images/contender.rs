//! The tools that are compared, each with everything it keeps on the disk that it is given.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration::command::tool;
use integration::{programs, wait};

pub(super) const SECOND: &str = "second bundle";
pub(super) const PUSH: &str = "push of the unchanged image";

/// What all of them are given.
pub(super) struct Setting {
    pub(super) id: String,
    pub(super) reference: String,
}

/// Milliseconds, and the peak memory of the largest process in KiB.
pub(super) struct Measured {
    pub(super) bundle: f64,
    pub(super) second: f64,
    pub(super) push: f64,
    pub(super) peak: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Contender {
    Tare,
    Podman,
    SkopeoUmoci,
    Containerd,
}

impl Contender {
    /// Those that are here. umoci of Debian 12 refuses zstd.
    pub(super) fn all(compression: &str) -> Vec<Self> {
        let mut all = vec![Self::Tare];
        let here = |name: &str| {
            let found = programs::find(Path::new(name)).is_some();
            if !found {
                eprintln!("bench: {name} is not here: run hack/setup");
            }
            found
        };
        if here("podman") {
            all.push(Self::Podman);
        }
        if compression == "gzip" && here("skopeo") && here("umoci") {
            all.push(Self::SkopeoUmoci);
        }
        if here("containerd") && here("ctr") {
            all.push(Self::Containerd);
        }
        all
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tare => "tare",
            Self::Podman => "podman",
            Self::SkopeoUmoci => "skopeo+umoci",
            Self::Containerd => "ctr",
        }
    }

    pub(super) fn measure(self, setting: &Setting, disk: &Path) -> Measured {
        let mut run = Run { setting, disk, peak: 0 };
        let reference = &setting.reference;
        let at = |name: &str| disk.join(name).to_string_lossy().into_owned();
        let (bundle, second, push) = match self {
            Self::Tare => {
                let program = programs::ours("imgtool").to_string_lossy().into_owned();
                let store = at("store");
                let ours = |words: &[&str]| [&[program.as_str(), "--root", &store], words].concat().join(" ");
                let bundle = run.time(&ours(&["bundle", "-q", reference, &at("one")]));
                let second = run.time(&ours(&["bundle", "-q", reference, &at("two")]));
                (bundle, second, run.time(&ours(&["push", "-q", reference])))
            }
            Self::Podman => {
                let podman =
                    format!("podman --root {} --runroot {} --storage-driver overlay", at("storage"), at("run"));
                let bundle = run.time(&format!("{podman} pull -q --tls-verify=false {reference}"));
                // A container has its root file system once it is mounted.
                let create = format!("{podman} create --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 --name two");
                let second = run.time(&format!("{create} --network none {reference} true"));
                let second = second + run.time(&format!("{podman} mount two"));
                let push = run.time(&format!("{podman} push -q --tls-verify=false {reference}"));
                run.untimed(&format!("{podman} umount two"));
                (bundle, second, push)
            }
            Self::SkopeoUmoci => {
                let layout = at("layout");
                let copy = "skopeo --insecure-policy copy -q";
                let bundle = run.time(&format!("{copy} --src-tls-verify=false docker://{reference} oci:{layout}:big"))
                    + run.time(&format!("umoci unpack --image {layout}:big {}", at("one")));
                let second = run.time(&format!("umoci unpack --image {layout}:big {}", at("two")));
                let push = run.time(&format!("{copy} --dest-tls-verify=false oci:{layout}:big docker://{reference}"));
                (bundle, second, push)
            }
            Self::Containerd => {
                let daemon = Daemon::start(setting, disk);
                let ctr = format!("ctr --address {} --namespace bench", at("sock"));
                let bundle = run.time(&format!("{ctr} image pull --plain-http {reference}"));
                let second = run.time(&format!("{ctr} containers create {reference} two"));
                let push = run.time(&format!("{ctr} image push --plain-http {reference}"));
                run.peak = run.peak.max(daemon.peak());
                (bundle, second, push)
            }
        };
        Measured { bundle, second, push, peak: run.peak }
    }
}

/// Pulls and makes a bundle with ours: milliseconds and KiB.
pub(super) fn bundle_of_ours(setting: &Setting, disk: &Path) -> (f64, u64) {
    let mut run = Run { setting, disk, peak: 0 };
    let (store, one) = (disk.join("store"), disk.join("one"));
    let program = programs::ours("imgtool");
    let line =
        format!("{} --root {} bundle -q {} {}", program.display(), store.display(), setting.reference, one.display());
    (run.time(&format!("{line} -- true")), run.peak)
}

/// Publishes `copies:N` for each of `sizes`: one layer with so many copies of the image's /usr.
pub(super) fn copies(layout: &Path, work: &Path, sizes: &[&str], host: &str) {
    let (image, tar) = (work.join("image"), work.join("copies.tar"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    tool("umoci", &["unpack", "--image", &format!("{}:big", layout.display()), &text(&image)]).ok();
    let imgtool = text(&programs::ours("imgtool"));
    let store = text(&work.join("store"));
    for size in sizes {
        let copies: usize = size.parse().expect("a number");
        for n in 0..copies {
            let rename = format!("--transform=s,^,copy{n}/,S");
            let usr = text(&image.join("rootfs"));
            // Hardlinks in the copies lead within the copy: names of links are renamed too.
            let how = if n == 0 { "-cf" } else { "-rf" };
            tool("tar", &["-C", &usr, &rename, how, &text(&tar), "usr"]).ok();
        }
        let reference = format!("{host}/copies:{size}");
        tool(&imgtool, &["--root", &store, "import", "-q", "--compression-level", "1", &text(&tar), &reference]).ok();
        tool(&imgtool, &["--root", &store, "push", "-q", &reference]).ok();
    }
}

struct Run<'a> {
    setting: &'a Setting,
    disk: &'a Path,
    peak: u64,
}

impl Run<'_> {
    /// Milliseconds of a command, by a process beside it that tells its memory.
    fn time(&mut self, line: &str) -> f64 {
        let out = self.disk.join("peak");
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command.arg("peak").args(line.split(' '));
        command.stdout(std::fs::File::create(&out).expect("a file for the output"));
        let took = self.timed(&mut command, line);
        let said = std::fs::read_to_string(&out).expect("its output");
        let peak = said.trim().parse().unwrap_or_else(|e| panic!("{said:?}: {e}"));
        self.peak = self.peak.max(peak);
        took
    }

    fn untimed(&self, line: &str) {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().expect("a program"));
        self.timed(command.args(words).stdout(Stdio::null()), line);
    }

    fn timed(&self, command: &mut Command, line: &str) -> f64 {
        let log = self.disk.join("log");
        command.env("TARE_TEST", &self.setting.id).stdin(Stdio::null());
        command.stderr(std::fs::File::create(&log).expect("a log"));
        let start = Instant::now();
        let status = command.status().expect("start");
        let took = start.elapsed().as_secs_f64() * 1000.0;
        assert!(status.success(), "{line}: {status}\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        took
    }
}

/// containerd with everything it keeps on the disk.
struct Daemon(Child);

impl Daemon {
    fn start(setting: &Setting, disk: &Path) -> Self {
        let config = disk.join("config.toml");
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = \"{0}/sock\"\n[ttrpc]\n  address = \"{0}/sock.ttrpc\"\n",
            disk.display()
        );
        std::fs::write(&config, text).expect("its configuration");
        let log = || std::fs::File::create(disk.join("containerd.log")).expect("a log");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config).env("TARE_TEST", &setting.id);
        let child = command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().expect("containerd");
        let sock = disk.join("sock");
        let ready = || {
            let mut ctr = Command::new("ctr");
            ctr.arg("--address").arg(&sock).arg("version").stdout(Stdio::null()).stderr(Stdio::null());
            ctr.status().is_ok_and(|status| status.success()).then_some(())
        };
        wait::until(Duration::from_millis(20), Duration::from_secs(30), ready).expect("an answer of containerd");
        Self(child)
    }

    /// The most memory that it had, in KiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
