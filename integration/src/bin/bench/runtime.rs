//! The runtime's verbs on an ordinary container of containerd's kind: all namespaces, masked and read-only paths, the
//! engines' seccomp profile; on cgroup v2 alone and on v1 alone; records on a tmpfs, bundles on the disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use integration::programs::{self, Runtime};
use integration::{case, cgroups, leak, spec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::table::Samples;
use crate::timed;
use crate::weight::{self, Weight};

const STEPS: [&str; 7] = ["create", "start", "state", "exec /bin/true", "kill", "delete", "run /bin/true"];
const RUN: &str = "run /bin/true";

/// What was asked for on the command line.
pub(crate) struct Options {
    rounds: u32,
    modes: Vec<&'static str>,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { rounds: 40, modes: vec!["v2", "v1"] };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "-n" => {
                    let number = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                    options.rounds = number.ok_or("-n wants a number of rounds")?;
                }
                "--only" => match words.next() {
                    Some(&"v1") => options.modes = vec!["v1"],
                    Some(&"v2") => options.modes = vec!["v2"],
                    _ => return Err("--only wants v1 or v2".to_owned()),
                },
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

struct Contender {
    name: String,
    binary: PathBuf,
}

/// Ours, today's crun, runc: those that are there.
fn contenders() -> Vec<Contender> {
    let mut all = Vec::new();
    let mut add = |label: Option<&str>, binary: PathBuf| {
        let version = Runtime::at(&binary).name.replace(" version", "");
        all.push(Contender { name: label.map_or(version, str::to_owned), binary });
    };
    add(Some("tare"), programs::ours("runtime"));
    let crun = programs::cache().join("crun/crun");
    if crun.exists() {
        add(None, crun);
    } else {
        eprintln!("bench: the newest crun is not here: run hack/setup bench");
    }
    match programs::find(Path::new("runc")) {
        Some(runc) => add(None, runc),
        None => eprintln!("bench: runc is not here: run hack/setup"),
    }
    all
}

/// Measures and prints one table a cgroup version.
pub(crate) fn bench(options: &Options) {
    let contenders = contenders();
    println!("`hack/bench runtime`, {} rounds after 3 for warming up, medians in milliseconds", options.rounds);
    for mode in &options.modes {
        if *mode == "v1" && cgroups::mode() == cgroups::Mode::V2 {
            println!("\ncgroup v1: not on this machine");
            continue;
        }
        // A thread of its own: its mount namespace goes with it.
        let (samples, weights) = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    if *mode == "v2" {
                        cgroups::enter_v2();
                    } else {
                        cgroups::enter_v1();
                    }
                    measure(&contenders, options.rounds)
                })
                .join()
                .expect("the measuring thread")
        });
        println!("\ncgroup {mode} alone\n");
        let mut names: Vec<String> = contenders.iter().map(|c| c.name.clone()).collect();
        names.push("floor".to_owned());
        samples.print(&STEPS, &names);
        weight::print(&weights);
    }
}

/// A bundle whose process sleeps, or ends at once.
fn bundle(dir: &Path, id: &str, args: &[&str]) {
    let rootfs = dir.join("rootfs");
    for name in ["proc", "dev", "sys", "tmp", "etc", "bin"] {
        std::fs::create_dir_all(rootfs.join(name)).expect("a directory");
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox: run hack/setup");
    for name in ["true", "sleep"] {
        let _ = std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name));
    }
    let mut config: Value = spec::ordinary(id, args);
    if let Some(seccomp) = spec::engine_seccomp(&spec::CAPABILITIES) {
        config["linux"]["seccomp"] = seccomp;
    }
    config["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }]);
    std::fs::write(dir.join("config.json"), config.to_string()).expect("config.json");
}

fn measure(contenders: &[Contender], rounds: u32) -> (Samples, Vec<(String, Weight)>) {
    let id = case::unique();
    let dir = Path::new("/tmp").join(&id);
    let guard = Guard(id.clone(), dir.clone());
    let run = dir.join("run");
    std::fs::create_dir_all(&run).expect("a directory");
    // Where engines have it, below /run, which systemd makes a tmpfs. The mount is in this thread's namespace.
    mount(Some("tmpfs"), &run, Some("tmpfs"), MsFlags::empty(), Some("mode=700")).expect("a tmpfs");
    let (sleeper, quick) = (dir.join("sleeper"), dir.join("quick"));
    bundle(&sleeper, &id, &["/bin/sleep", "1000"]);
    bundle(&quick, &id, &["/bin/true"]);
    nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper");
    rustix::fs::sync();
    let mut samples = Samples::default();
    for round in 0..rounds + 3 {
        for turn in 0..contenders.len() {
            let who = &contenders[(turn + round as usize) % contenders.len()];
            let state = run.join(format!("state-{}", who.name.replace(' ', "-")));
            let mut time = |step: &'static str, words: &[&str]| {
                let mut command = Command::new(&who.binary);
                command.arg("--root").arg(&state).args(words);
                let took = timed(&mut command, &who.name);
                if round >= 3 {
                    samples.add(step, &who.name, took);
                }
            };
            let pid_file = dir.join("pid");
            let (bundle, pid_path) = (sleeper.to_str().unwrap(), pid_file.to_str().unwrap());
            time("create", &["create", "--bundle", bundle, "--pid-file", pid_path, &id]);
            time("start", &["start", &id]);
            time("state", &["state", &id]);
            time("exec /bin/true", &["exec", &id, "/bin/true"]);
            time("kill", &["kill", &id, "KILL"]);
            let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
            assert!(integration::wait::exited(pid, integration::command::LIMIT));
            leak::reap(pid);
            time("delete", &["delete", &id]);
            time(RUN, &["run", "--bundle", quick.to_str().unwrap(), &id]);
        }
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        let took = timed(command.arg("floor").arg(quick.join("rootfs")), "floor");
        if round >= 3 {
            samples.add(RUN, "floor", took);
        }
    }
    let weights = contenders.iter().map(|who| {
        let state = run.join("row");
        (who.name.clone(), weight::weigh(&who.binary, &sleeper, &state, &id))
    });
    let weights = weights.collect();
    drop(guard);
    (samples, weights)
}

/// Removes what a measurement that broke off left behind.
struct Guard(String, PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        leak::remove(&self.0);
        let _ = umount2(&self.1.join("run"), MntFlags::MNT_DETACH);
        if leak::mounts(&self.0).is_empty() {
            let _ = std::fs::remove_dir_all(&self.1);
        }
    }
}
