//! The shim under containerd against containerd's own, over runc and over our runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration::command;
use integration::peer::containerd::Containerd;
use integration::place::Place;
use integration::programs::{self, Runtime};
use integration::{spec, wait};

use crate::processes::{self, Weight};
use crate::shim_alone;
use crate::table::Samples;

const IMAGE: &str = "docker.io/library/small:1";
const PARTS: [&str; 6] = ["run", "helpers", "idle", "execs", "logs", "alone"];
/// How long nothing happens while idle processes are watched.
const IDLE: Duration = Duration::from_secs(10);
/// How many commands are run in one container.
const EXECS: usize = 1000;

/// What was asked for on the command line.
pub(crate) struct Options {
    rounds: u32,
    parts: Vec<&'static str>,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { rounds: 20, parts: PARTS.to_vec() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "-n" => {
                    let number = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                    options.rounds = number.ok_or("-n wants a number of rounds")?;
                }
                "--only" => {
                    let part = words.next().and_then(|word| PARTS.into_iter().find(|part| part == word));
                    options.parts = vec![part.ok_or_else(|| format!("--only wants one of {}", PARTS.join(", ")))?];
                }
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }

    fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }
}

/// A shim and the runtime below it.
struct Contender {
    name: &'static str,
    /// What containerd is asked for.
    shim: &'static str,
    runtime: PathBuf,
}

impl Contender {
    fn is_ours(&self) -> bool {
        self.shim.ends_with("tare.v2")
    }

    /// `ctr run` up to the image.
    fn run(&self, flags: &[&str]) -> Vec<String> {
        let mut words = vec!["run", "--runtime", self.shim];
        if !self.is_ours() {
            words.extend(["--runc-binary", self.runtime.to_str().unwrap()]);
        }
        words.extend(flags);
        words.push(IMAGE);
        words.into_iter().map(str::to_owned).collect()
    }
}

fn contenders() -> Vec<Contender> {
    let runc = programs::find(Path::new("runc")).expect("runc: run hack/setup");
    let runtime = programs::ours("runtime");
    vec![
        Contender { name: "tare", shim: "io.containerd.tare.v2", runtime: runtime.clone() },
        Contender { name: "Go shim + runc", shim: "io.containerd.runc.v2", runtime: runc },
        Contender { name: "Go shim + our runtime", shim: "io.containerd.runc.v2", runtime },
    ]
}

/// Measures and prints.
pub(crate) fn bench(options: &Options) {
    println!("`hack/bench shim`, {} rounds after 2 for warming up, medians in milliseconds", options.rounds);
    println!("containerd and its shim: {}", command::tool("containerd", &["--version"]).stdout.trim());
    let contenders = contenders();
    if ["run", "helpers", "idle", "execs"].iter().any(|part| options.has(part)) {
        let place = Place::new();
        place.small_image();
        let archive = place.dir.join("small.oci.tar");
        place.ours("imgtool", &["save", "--quiet", "-o", archive.to_str().unwrap(), "small:1"]).ok();
        let containerd = Containerd::start(&place.id, &place.dir);
        containerd.ctr(&["images", "import", archive.to_str().unwrap()]).ok();
        if options.has("run") {
            run(&containerd, &contenders, options.rounds);
        }
        if options.has("helpers") {
            helpers(&place, options.rounds);
        }
        if options.has("idle") {
            idle(&containerd, &contenders[..2], 20);
            idle(&containerd, &contenders[..2], 200);
        }
        if options.has("execs") {
            execs(&containerd, &contenders[0]);
        }
    }
    if options.has("alone") {
        shim_alone::idle(20, IDLE);
        shim_alone::idle(200, IDLE);
    }
    if options.has("logs") {
        shim_alone::logs();
    }
}

fn timed(command: &mut Command, who: &str) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.spawn().expect("start").wait().expect("wait");
    let took = start.elapsed().as_secs_f64() * 1000.0;
    assert!(status.success(), "{who}: {command:?}: {status}");
    took
}

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// `ctr run --rm` of a command that ends at once.
fn run(containerd: &Containerd, contenders: &[Contender], rounds: u32) {
    const STEP: &str = "ctr run --rm /bin/true";
    let mut samples = Samples::default();
    for round in 0..rounds + 2 {
        for turn in 0..contenders.len() {
            let who = &contenders[(turn + round as usize) % contenders.len()];
            let mut words = who.run(&["--rm"]);
            words.extend([format!("run-{round}-{turn}"), "/bin/true".to_owned()]);
            let took = timed(&mut containerd.ctr_command(&strings(&words)), who.name);
            if round >= 2 {
                samples.add(STEP, who.name, took);
            }
        }
        if round >= 2 {
            samples.add("ctr version", "tare", timed(&mut containerd.ctr_command(&["version"]), "ctr"));
        }
    }
    println!();
    let names: Vec<String> = contenders.iter().map(|who| who.name.to_owned()).collect();
    samples.print(&[STEP, "ctr version"], &names);
}

/// The calls by which containerd has a shim started and cleaned up after, without containerd.
fn helpers(place: &Place, rounds: u32) {
    let ours = place.dir.join("containerd/bin/containerd-shim-tare-v2");
    let stock = programs::find(Path::new("containerd-shim-runc-v2")).expect("containerd's shim: run hack/setup");
    let config = spec::ordinary(&place.id, &["/bin/true"]).to_string();
    let mut samples = Samples::default();
    for round in 0..rounds + 2 {
        for (name, binary) in [("tare", &ours), ("Go shim", &stock)] {
            // containerd's shim finds the bundle by the container's id, and wants to be told the runtime.
            let bundle = place.dir.join(format!("h{round}"));
            fs::create_dir_all(&bundle).expect("a bundle");
            fs::write(bundle.join("config.json"), &config).expect("config.json");
            fs::write(bundle.join("runtime"), "runc").expect("the runtime's name");
            let call = |verb: &str| {
                let mut command = Command::new(binary);
                // The socket's name depends on all of them, so it is this round's own.
                command.args(["-namespace", &place.id, "-id", &format!("h{round}"), "-address", "/nowhere"]);
                command.args(["-publish-binary", "/bin/true", verb]).current_dir(&bundle);
                command.env("TARE_RUNTIME", &Runtime::under_test().binary).env("TARE_TEST", &place.id);
                command
            };
            let start = timed(&mut call("start"), name);
            for pid in processes::with(&["-namespace", &place.id, &format!("-id h{round} ")]) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                assert!(wait::exited(pid, command::LIMIT));
            }
            let delete = timed(&mut call("delete"), name);
            if round >= 2 {
                samples.add("start", name, start);
                samples.add("delete", name, delete);
            }
            let address = fs::read_to_string(bundle.join("address")).unwrap_or_default();
            let _ = fs::remove_file(address.trim_start_matches("unix://"));
        }
    }
    println!();
    samples.print(&["start", "delete"], &["tare".to_owned(), "Go shim".to_owned()]);
}

/// Sleeping containers.
fn idle(containerd: &Containerd, contenders: &[Contender], number: usize) {
    println!("\n{number} sleeping containers: of each shim\n");
    println!("| | PSS KiB | RSS KiB | threads | descriptors | ticks in {IDLE:?}, all | wakes, all |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for who in contenders {
        let names: Vec<String> = (0..number).map(|n| format!("idle-{n}")).collect();
        for name in &names {
            let mut words = who.run(&["-d"]);
            words.push(name.clone());
            let out = containerd.ctr(&strings(&words));
            assert_eq!(out.code, 0, "{}: {out}\n{}", who.name, containerd.said());
        }
        let pids = processes::with(&["containerd-shim-", "-namespace", &containerd.id]);
        assert_eq!(pids.len(), number, "{}", who.name);
        let (ticks, wakes) = processes::idle(&pids, IDLE);
        let Weight { pss, rss, threads, descriptors } = processes::mean(&pids);
        println!("| {} | {pss} | {rss} | {threads} | {descriptors} | {ticks} | {wakes} |", who.name);
        for name in &names {
            containerd.ctr(&["tasks", "delete", "--force", name]).ok();
            containerd.ctr(&["containers", "delete", name]).ok();
        }
        let gone = || processes::with(&["containerd-shim-", "-namespace", &containerd.id]).is_empty().then_some(());
        assert!(wait::until(Duration::from_millis(50), command::LIMIT, gone).is_some(), "shims stay");
    }
}

/// Whether a shim grows with what it has done.
fn execs(containerd: &Containerd, who: &Contender) {
    let mut words = who.run(&["-d"]);
    words.push("execs".to_owned());
    containerd.ctr(&strings(&words)).ok();
    let pids = processes::with(&["containerd-shim-", "-namespace", &containerd.id]);
    let exec = |id: &str| {
        let mut command = containerd.ctr_command(&["tasks", "exec", "--exec-id", id, "execs", "/bin/true"]);
        timed(&mut command, who.name);
    };
    (0..10).for_each(|n| exec(&format!("warm-{n}")));
    let before = processes::mean(&pids);
    (0..EXECS).for_each(|n| exec(&format!("e{n}")));
    let after = processes::mean(&pids);
    println!("\n{}: {EXECS} execs in one container\n", who.name);
    println!("| | PSS KiB | RSS KiB | threads | descriptors |\n|---|---:|---:|---:|---:|");
    for (when, it) in [("after 10", before), ("after all", after)] {
        println!("| {when} | {} | {} | {} | {} |", it.pss, it.rss, it.threads, it.descriptors);
    }
    containerd.ctr(&["tasks", "delete", "--force", "execs"]).ok();
    containerd.ctr(&["containers", "delete", "execs"]).ok();
}
