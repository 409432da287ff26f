//! `imgtool build` against `buildah bud --layers`: ten steps from nothing, ten steps that are all cached, and a change of the
//! last COPY.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use integration::{case, cgroups, command, leak, peer, programs};

use crate::table::Samples;

const STEPS: [&str; 3] = ["cold, ten steps", "cached, ten steps", "last COPY changed"];

/// Ten steps: six RUN, three COPY, one WORKDIR.
const DOCKERFILE: &str = "FROM localhost/base\nWORKDIR /app\nCOPY one ./\nRUN busybox seq 1000 > 1\nRUN busybox seq 2000 > 2\nRUN cat 1 2 > 3\nCOPY two ./\nRUN busybox mkdir d && busybox cp 1 2 3 d\nRUN busybox rm 1\nRUN echo done > 4\nCOPY last ./\n";

/// Measures and prints the table.
pub(crate) fn bench(rounds: u32) -> ExitCode {
    let Some(buildah) = programs::find(Path::new("buildah")) else {
        eprintln!("bench: buildah is not here: run hack/setup");
        return ExitCode::FAILURE;
    };
    let id = case::unique();
    let dir = Path::new("/tmp").join(&id);
    fs::create_dir(&dir).expect("a directory");
    let guard = Guard(id, dir.clone());
    let context = dir.join("context");
    fs::create_dir(&context).expect("a directory");
    fs::write(context.join("Dockerfile"), DOCKERFILE).expect("the Dockerfile");
    for name in ["one", "two"] {
        fs::write(context.join(name), name.repeat(1_000)).expect("a file");
    }
    let base = peer::image::busybox_tar(&dir);
    let mut contenders = vec![Contender::ours(&dir), Contender::buildah(&dir, buildah)];
    for who in &contenders {
        who.import(&base);
    }
    let mut samples = Samples::default();
    let mut serial = 0;
    for round in 0..=rounds {
        contenders.rotate_left(1);
        for who in &contenders {
            let mut time = |step: &'static str, flags: &[&str]| {
                let mut command = who.build(&context, flags);
                let took = crate::timed(&mut command, &who.name);
                if round >= 1 {
                    samples.add(step, &who.name, took);
                }
            };
            serial += 1;
            fs::write(context.join("last"), format!("{serial}")).expect("a file");
            time(STEPS[0], &["--no-cache"]);
            time(STEPS[1], &[]);
            serial += 1;
            fs::write(context.join("last"), format!("{serial}")).expect("a file");
            time(STEPS[2], &[]);
        }
    }
    println!("`hack/bench build`, {rounds} rounds after one for warming up, medians in milliseconds\n");
    let mut names: Vec<String> = contenders.iter().map(|who| who.name.clone()).collect();
    names.sort_by_key(|name| name != "imgtool");
    samples.print(&STEPS, &names);
    drop(guard);
    ExitCode::SUCCESS
}

struct Contender {
    name: String,
    program: PathBuf,
    options: Vec<String>,
}

impl Contender {
    fn ours(dir: &Path) -> Self {
        let options = vec!["--root".to_owned(), dir.join("store").display().to_string()];
        Self { name: "imgtool".to_owned(), program: programs::ours("imgtool"), options }
    }

    fn buildah(dir: &Path, program: PathBuf) -> Self {
        let version = command::tool(program.to_str().expect("a path"), &["--version"]).ok().stdout;
        let name = version.split(' ').filter(|word| *word != "version").take(2).collect::<Vec<_>>().join(" ");
        let at = |name: &str| dir.join(name).display().to_string();
        let options = ["--root", &at("buildah"), "--runroot", &at("buildah-run"), "--storage-driver", "overlay"];
        Self { name, program, options: options.map(str::to_owned).into() }
    }

    fn is_ours(&self) -> bool {
        self.name == "imgtool"
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.options).args(args);
        command
    }

    fn import(&self, tar: &Path) {
        let tar = tar.to_str().expect("a path");
        let run = |args: &[&str]| {
            let out = self.command(args).output().expect("start");
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8_lossy(&out.stdout).trim().to_owned()
        };
        if self.is_ours() {
            run(&["import", "--quiet", tar, "localhost/base"]);
            return;
        }
        let container = run(&["from", "scratch"]);
        run(&["add", "-q", &container, tar, "/"]);
        run(&["commit", "-q", &container, "localhost/base"]);
        run(&["rm", &container]);
    }

    /// Neither gives its steps a network, and both keep every step.
    fn build(&self, context: &Path, flags: &[&str]) -> Command {
        let mut command = if self.is_ours() {
            let mut command = self.command(&["build", "--quiet", "--network", "none", "-t", "localhost/app"]);
            command.arg("--runtime").arg(programs::ours("runtime"));
            command
        } else {
            let mut command = self.command(&["bud", "-q", "--layers", "--pull-never", "--network", "none"]);
            if cgroups::mode() == cgroups::Mode::Hybrid {
                command.args(["--runtime", "runc"]); // crun knows no hybrid
            }
            command.args(["-t", "localhost/app"]);
            command
        };
        command.args(flags).arg(context);
        command
    }
}

/// Removes what the benchmark made.
struct Guard(String, PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        leak::remove(&self.0);
        if leak::mounts(&self.0).is_empty() {
            let _ = fs::remove_dir_all(&self.1);
        }
    }
}
