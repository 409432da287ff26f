//! Podman 4.3 with the runtime under test, and its own conmon or the shim between them.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use integration::command::{self, Files, LIMIT, Out};
use integration::console::Pty;
use integration::place::Place;
use integration::programs::{Runtime, ours};
use integration::user::User;
use integration::{skip, wait};

/// `podman` with everything below the test's directory.
struct Podman<'a>(&'a Place, Cell<u32>, Option<PathBuf>);

impl<'a> Podman<'a> {
    /// With the small image in it.
    #[track_caller]
    fn new(place: &'a Place) -> Self {
        place.small_image();
        let archive = place.dir.join("small.tar");
        place.ours("imgtool", &["save", "--quiet", "-o", archive.to_str().unwrap(), "small:1"]).ok();
        let podman = Self(place, Cell::new(0), None);
        podman.podman(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
        podman
    }

    /// With the shim in conmon's place.
    #[track_caller]
    fn with_shim(place: &'a Place) -> Self {
        let mut podman = Self::new(place);
        let conmon = place.dir.join("conmon");
        std::os::unix::fs::symlink(ours("shim"), &conmon).unwrap();
        podman.2 = Some(conmon);
        podman
    }

    fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.0.dir.join("podman").join(name);
        let mut command = Command::new("podman");
        command.arg("--root").arg(at("data")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "overlay"]);
        if let Some(conmon) = &self.2 {
            command.arg("--conmon").arg(conmon);
        }
        command.arg("--runtime").arg(&Runtime::under_test().binary).args(args);
        command.env("TARE_TEST", &self.0.id).stdin(std::process::Stdio::null());
        command
    }

    fn files(&self) -> Files {
        self.1.set(self.1.get() + 1);
        Files::new(&self.0.dir, &format!("podman{}", self.1.get()))
    }

    #[track_caller]
    fn podman(&self, args: &[&str]) -> Out {
        command::run(&mut self.command(args), &self.files())
    }

    /// The words of `run` without what a test machine may not give: a network, and limits above its own.
    fn words<'b>(parent: &'b str, args: &[&'b str]) -> Vec<&'b str> {
        let mut all = vec!["run", parent, "--network", "none", "--ulimit", "nofile=1024:1024"];
        all.extend(["--ulimit", "nproc=1000:1000"]);
        all.extend(args);
        all
    }

    fn parent(&self) -> String {
        format!("--cgroup-parent=/{}", self.0.id)
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Out {
        self.podman(&Self::words(&self.parent(), args))
    }

    /// Removes what would outlive the test.
    #[track_caller]
    fn done(self) {
        self.podman(&["rmi", "-a", "-f"]).ok();
        // conmon's clean-up may still be at work when the container is gone already.
        let quiet = wait::until(Duration::from_millis(20), LIMIT, || {
            integration::leak::processes(&self.0.id).is_empty().then_some(())
        });
        assert!(quiet.is_some(), "left behind: {:?}", integration::leak::processes(&self.0.id));
        // The parent that was asked for by name is ours to remove, with what Podman put beside the containers.
        integration::leak::remove(&self.0.id);
    }
}

#[test]
fn a_container_lives_under_podman() {
    let place = Place::new();
    if integration::programs::find("podman".as_ref()).is_none() {
        skip!("podman is not installed");
    }
    let podman = Podman::new(&place);
    lives(&podman);
    podman.done();
}

#[test]
fn the_same_with_the_shim_for_conmon() {
    let place = Place::new();
    if integration::programs::find("podman".as_ref()).is_none() {
        skip!("podman is not installed");
    }
    let podman = Podman::with_shim(&place);
    lives(&podman);
    podman.done();
}

#[test]
fn an_ordinary_user_runs_a_container_under_podman() {
    if let Some(reason) = integration::user::impossible() {
        skip!("{reason}");
    }
    if integration::programs::find("podman".as_ref()).is_none() {
        skip!("podman is not installed");
    }
    let user = User::new(true);
    user.image();
    user.imgtool(&["save", "--quiet", "-o", "small.oci.tar", "small:1"]).ok();
    let runtime = user.program("runtime");
    let podman = |args: &[&str]| {
        let flags = ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs"];
        user.run("/usr/bin/podman", &[&flags[..], &["--runtime", &runtime], args].concat())
    };
    podman(&["load", "-q", "-i", "small.oci.tar"]).ok();
    let run = Podman::words("--rm", &["small:1", "/bin/sh", "-c", "id -u; echo >/dev/null; ls -l /dev/zero"]);
    let out = podman(&run).ok();
    assert!(out.stdout.starts_with("33\ncrw-rw-rw-"), "{out}");
    let out = podman(&Podman::words("--rm", &["-i", "-u", "0", "--read-only", "small:1", "/bin/sh", "-c", "exit 7"]));
    out.is(7);
    podman(&["rmi", "-a", "-f"]).ok();
    // Its process that keeps the user namespace.
    podman(&["system", "migrate"]).ok();
}

fn lives(podman: &Podman<'_>) {
    assert_eq!(podman.run(&["--rm", "small:1", "/probe", "say", "hello"]).ok().stdout, "hello\n");
    podman.run(&["--rm", "small:1", "/probe", "exit", "42"]).is(42);
    let out = podman.run(&["--rm", "small:1", "/no/such/program"]);
    assert!(out.code == 127 && out.stderr.contains("/no/such/program"), "{out}");
    let report = podman.run(&[
        "--rm",
        "-m",
        "64m",
        "--read-only",
        "--hostname",
        "named",
        "-u",
        "web",
        "small:1",
        "/probe",
        "report",
    ]);
    let report = report.ok().report();
    assert_eq!((report.hostname.as_str(), report.uid[0], report.seccomp), ("named", 33, 2));
    assert!(report.mount("/").unwrap().has("ro"));

    podman.run(&["-d", "--name", "web", "small:1"]).ok();
    assert_eq!(podman.podman(&["exec", "web", "/probe", "say", "inside"]).ok().stdout, "inside\n");
    podman.podman(&["exec", "web", "/probe", "exit", "9"]).is(9);
    podman.podman(&["pause", "web"]).ok();
    podman.podman(&["unpause", "web"]).ok();
    podman.podman(&["stop", "-t", "5", "web"]).ok();
    let state = podman.podman(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"]).ok().stdout;
    assert_eq!(state, "exited 0\n");
    assert_eq!(podman.podman(&["logs", "web"]).ok().stdout, "ready\nSIGTERM\n");
    podman.podman(&["rm", "web"]).ok();
}

#[test]
fn the_shim_for_conmon_with_terminals() {
    let place = Place::new();
    if integration::programs::find("podman".as_ref()).is_none() {
        skip!("podman is not installed");
    }
    let podman = Podman::with_shim(&place);
    let pty = Pty::open();
    let parent = podman.parent();
    let words = Podman::words(&parent, &["--rm", "-it", "small:1"]);
    let mut run = pty.spawn(&mut podman.command(&words), &place.id);
    let mut terminal = pty.terminal;
    terminal.sees("ready");
    terminal.types("\u{3}");
    terminal.sees("SIGINT");
    assert_eq!(command::code(run.wait().unwrap()), 2);

    podman.run(&["-d", "--name", "web", "small:1"]).ok();
    let pty = Pty::open();
    let mut exec = pty.spawn(&mut podman.command(&["exec", "-it", "web", "/probe", "tty"]), &place.id);
    let mut terminal = pty.terminal;
    let seen = terminal.sees("}").to_owned();
    assert!(seen.contains("\"tty\":[true,true,true]"), "{seen}");
    assert_eq!(command::code(exec.wait().unwrap()), 0);
    podman.podman(&["rm", "-f", "-t", "5", "web"]).ok();
    podman.done();
}

#[test]
fn the_shim_for_conmon_attaches_follows_and_restarts() {
    let place = Place::new();
    if integration::programs::find("podman".as_ref()).is_none() {
        skip!("podman is not installed");
    }
    let podman = Podman::with_shim(&place);
    let words = place.dir.join("words");
    std::fs::write(&words, "through stdin\n").unwrap();
    let parent = podman.parent();
    let mut cat = podman.command(&Podman::words(&parent, &["--rm", "-i", "small:1", "/probe", "cat"]));
    cat.stdin(std::fs::File::open(&words).unwrap());
    assert_eq!(command::run(&mut cat, &podman.files()).ok().stdout, "through stdin\n");
    let flood = podman.run(&["--rm", "small:1", "/probe", "flood", "100000"]).ok().stdout;
    assert_eq!((flood.lines().count(), flood.lines().last()), (100_000, Some("line 99999")));

    podman.run(&["-d", "--name", "web", "small:1"]).ok();
    let (attached, followed) = (podman.files(), podman.files());
    let mut attach = podman.command(&["attach", "--sig-proxy=false", "--no-stdin", "web"]);
    attached.attach(&mut attach);
    let mut attach = attach.spawn().unwrap();
    let mut follow = podman.command(&["logs", "-f", "web"]);
    followed.attach(&mut follow);
    let mut follow = follow.spawn().unwrap();
    assert!(wait::file(&followed.stdout, LIMIT, |text| text.contains("ready")), "logs -f");
    // Nothing tells when somebody is attached: signals until one is seen.
    let seen = wait::until(Duration::from_millis(50), LIMIT, || {
        podman.podman(&["kill", "-s", "USR1", "web"]).ok();
        std::fs::read_to_string(&attached.stdout).unwrap().contains("SIGUSR1").then_some(())
    });
    assert!(seen.is_some(), "attach");
    podman.podman(&["stop", "-t", "5", "web"]).ok();
    assert_eq!(command::code(attach.wait().unwrap()), 0);
    assert_eq!(command::code(follow.wait().unwrap()), 0);
    assert!(std::fs::read_to_string(&followed.stdout).unwrap().ends_with("SIGTERM\n"));
    podman.podman(&["start", "web"]).ok();
    podman.podman(&["restart", "-t", "5", "web"]).ok();
    podman.podman(&["rm", "-f", "-t", "5", "web"]).ok();

    podman.run(&["-d", "--restart", "on-failure:2", "--name", "again", "small:1", "/probe", "exit", "3"]).ok();
    let inspect = || podman.podman(&["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "again"]).ok().stdout;
    let twice = wait::until(Duration::from_millis(50), LIMIT, || (inspect() == "exited 2\n").then_some(()));
    assert!(twice.is_some(), "{}", inspect());
    podman.podman(&["rm", "-f", "again"]).ok();

    podman.run(&["-d", "--log-opt", "max-size=2kb", "--name", "full", "small:1", "/probe", "flood", "1000"]).ok();
    podman.podman(&["wait", "full"]).ok();
    let log = podman.podman(&["inspect", "-f", "{{.HostConfig.LogConfig.Path}}", "full"]).ok().stdout;
    let log = std::fs::read_to_string(log.trim()).unwrap();
    assert!(log.len() <= 2048 && log.ends_with("stdout F line 999\n"), "{} bytes: {log}", log.len());
    podman.podman(&["rm", "full"]).ok();
    podman.done();
}

#[test]
fn the_shim_for_conmon_tells_of_a_kill_for_memory() {
    let place = Place::new();
    if integration::programs::find("podman".as_ref()).is_none() {
        skip!("podman is not installed");
    }
    if !integration::cgroups::has("memory") {
        skip!("there is no memory controller");
    }
    let podman = Podman::with_shim(&place);
    let hungry = ["small:1", "/bin/sh", "-c", "x=a; while :; do x=$x$x; done"];
    podman.run(&[&["-d", "--name", "hungry", "-m", "16m", "--memory-swap", "16m"][..], &hungry].concat()).ok();
    assert_eq!(podman.podman(&["wait", "hungry"]).ok().stdout, "137\n");
    let killed = podman.podman(&["inspect", "-f", "{{.State.OOMKilled}}", "hungry"]).ok().stdout;
    assert_eq!(killed, "true\n");
    podman.podman(&["rm", "hungry"]).ok();
    podman.done();
}
