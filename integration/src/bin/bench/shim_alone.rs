//! The shim alone against conmon: both over our runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration::case::Case;
use integration::command::LIMIT;
use integration::{programs, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::processes::{self, Weight};

/// How much one container writes, in MiB.
const FLOOD: u32 = 1024;
/// Longer than any of them takes.
const PATIENCE: Duration = Duration::from_mins(5);

/// Containers of one bundle that differ by name. Each is held by the shim or by conmon.
struct Fleet {
    case: Case,
}

impl Fleet {
    fn new(args: &[&str]) -> Self {
        let mut case = Case::new();
        case.args(args);
        Self { case }
    }

    fn shim(&self, words: &[&str]) -> Command {
        let mut command = Command::new(programs::ours("shim"));
        command.arg("--root").arg(self.case.dir.join("containers")).arg("--run-root").arg(self.case.dir.join("run"));
        command.arg("--runtime").arg(programs::ours("runtime")).arg("--runtime-root").arg(self.case.state_dir());
        command.args(words).env("TARE_TEST", &self.case.id).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// A bundle of its own: the cgroup is named in it.
    fn bundle(&self, name: &str) -> PathBuf {
        let bundle = self.case.dir.join(format!("bundle-{name}"));
        fs::create_dir_all(&bundle).expect("a bundle");
        let mut config = self.case.spec.clone();
        config["root"]["path"] = self.case.rootfs().to_str().unwrap().into();
        config["linux"]["cgroupsPath"] = format!("/{}-{name}", self.case.id).into();
        config["process"]["terminal"] = false.into();
        fs::write(bundle.join("config.json"), config.to_string()).expect("config.json");
        bundle
    }

    fn start_shim(&self, name: &str, flags: &[&str]) {
        let bundle = self.bundle(name);
        let words = [&["run", "-d", "--name", name][..], flags, &[bundle.to_str().unwrap()]].concat();
        assert!(self.shim(&words).status().expect("start").success(), "{words:?}");
    }

    /// Starts a container under conmon with its log in `log`.
    fn start_conmon(&self, conmon: &Path, name: &str, log: &Path) {
        let bundle = self.bundle(name);
        let runtime = programs::ours("runtime");
        let mut command = Command::new(conmon);
        command.args(["--api-version", "1", "-c", name, "-u", name, "-n", name, "-r"]).arg(&runtime);
        command.arg("-b").arg(&bundle).arg("-p").arg(bundle.join("pid"));
        command.arg("--conmon-pidfile").arg(bundle.join("conmon.pid"));
        command.arg("--exit-dir").arg(&self.case.dir).arg("--socket-dir-path").arg(&self.case.dir);
        command.arg("-l").arg(format!("k8s-file:{}", log.display()));
        command.arg("--runtime-arg").arg("--root").arg("--runtime-arg").arg(self.case.state_dir());
        command.env("TARE_TEST", &self.case.id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("start conmon").success(), "{command:?}");
        let made = wait::until(Duration::from_millis(2), LIMIT, || bundle.join("pid").exists().then_some(()));
        assert!(made.is_some(), "conmon made nothing");
        self.runtime(&["start", name]);
    }

    fn runtime(&self, words: &[&str]) {
        let mut command = Command::new(programs::ours("runtime"));
        let status = command.arg("--root").arg(self.case.state_dir()).args(words).status();
        assert!(status.expect("start the runtime").success(), "{words:?}");
    }

    fn pid(&self, name: &str, file: &str) -> i32 {
        let path = self.case.dir.join(format!("bundle-{name}")).join(file);
        fs::read_to_string(&path)
            .unwrap_or_default()
            .trim()
            .parse()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Removes a container that conmon holds.
    fn end_conmon(&self, name: &str) {
        let monitor = self.pid(name, "conmon.pid");
        let _ = kill(Pid::from_raw(self.pid(name, "pid")), Signal::SIGKILL);
        assert!(wait::exited(monitor, LIMIT), "conmon stays");
        self.runtime(&["delete", name]);
    }
}

fn conmon() -> PathBuf {
    programs::find(Path::new("conmon")).expect("conmon: run hack/setup")
}

/// Sleeping containers.
pub(crate) fn idle(number: usize, time: Duration) {
    let names: Vec<String> = (0..number).map(|n| format!("c{n}")).collect();
    println!("\n{number} sleeping containers, alone: of each monitor\n");
    println!("| | PSS KiB | RSS KiB | threads | descriptors | ticks in {time:?}, all | wakes, all |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let row = |who: &str, pids: &[i32]| {
        assert_eq!(pids.len(), number, "{who}");
        let (ticks, wakes) = processes::idle(pids, time);
        let Weight { pss, rss, threads, descriptors } = processes::mean(pids);
        println!("| {who} | {pss} | {rss} | {threads} | {descriptors} | {ticks} | {wakes} |");
    };
    let fleet = Fleet::new(&["/probe", "wait"]);
    for name in &names {
        fleet.start_shim(name, &[]);
    }
    row("tare", &processes::with(&["shim monitor", fleet.case.dir.to_str().unwrap()]));
    for name in &names {
        assert!(fleet.shim(&["rm", "-f", name]).status().expect("start").success());
    }
    let fleet = Fleet::new(&["/probe", "wait"]);
    for (who, binary) in [("conmon", conmon()), ("tare as conmon", as_conmon(&fleet))] {
        for name in &names {
            fleet.start_conmon(&binary, name, &fleet.case.dir.join("log"));
        }
        let pids: Vec<i32> = names.iter().map(|name| fleet.pid(name, "conmon.pid")).collect();
        row(who, &pids);
        for name in &names {
            fleet.end_conmon(name);
            fs::remove_dir_all(fleet.case.dir.join(format!("bundle-{name}"))).expect("remove the bundle");
        }
    }
}

/// Our shim under conmon's name.
fn as_conmon(fleet: &Fleet) -> PathBuf {
    let link = fleet.case.dir.join("conmon");
    let _ = std::os::unix::fs::symlink(programs::ours("shim"), &link);
    link
}

/// A container that writes as fast as its output is taken.
pub(crate) fn logs() {
    let line = "a line of a program that has much to say, as programs do who were told to be verbose\n";
    let lines = FLOOD as usize * 1024 * 1024 / line.len();
    let fleet = Fleet::new(&["/probe", "flood-of", &lines.to_string(), line.trim_end()]);
    println!("\n{FLOOD} MiB in {lines} lines to stdout\n");
    println!("| | seconds | MiB/s | lines in the log |\n|---|---:|---:|---:|");
    let row = |who: &str, took: f64, log: &Path| {
        let found = count_lines(log);
        println!("| {who} | {took:.2} | {:.0} | {found} |", f64::from(FLOOD) / took);
        assert_eq!(found, lines, "{who} loses output");
    };
    for (who, driver) in [("tare, json-file", "json-file"), ("tare, k8s-file", "k8s-file")] {
        let start = Instant::now();
        fleet.start_shim("flood", &["--log-driver", driver]);
        assert!(fleet.shim(&["wait", "flood"]).status().expect("start").success());
        row(who, start.elapsed().as_secs_f64(), &fleet.case.dir.join("containers/flood/log"));
        assert!(fleet.shim(&["rm", "flood"]).status().expect("start").success());
    }
    for (who, binary) in [("conmon, k8s-file", conmon()), ("tare as conmon, k8s-file", as_conmon(&fleet))] {
        let log = fleet.case.dir.join("k8s.log");
        let start = Instant::now();
        fleet.start_conmon(&binary, "flood", &log);
        assert!(wait::exited(fleet.pid("flood", "conmon.pid"), PATIENCE), "{who} hangs");
        row(who, start.elapsed().as_secs_f64(), &log);
        fleet.runtime(&["delete", "flood"]);
        fs::remove_file(&log).expect("remove the log");
        fs::remove_dir_all(fleet.case.dir.join("bundle-flood")).expect("remove the bundle");
    }
}

/// Whole lines of the container in its log. A k8s-file has lines that it read in pieces in several records, of which the
/// last is marked.
fn count_lines(path: &Path) -> usize {
    use std::io::BufRead;
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut file, mut line, mut found) = (std::io::BufReader::with_capacity(1 << 20, file), Vec::new(), 0);
    while file.read_until(b'\n', &mut line).expect("read the log") > 0 {
        let whole = line.starts_with(b"{") || line.split(|&byte| byte == b' ').nth(2) == Some(b"F");
        found += usize::from(whole);
        line.clear();
    }
    found
}
