//! What a runtime weighs besides time: memory, the size of its file, and whether many containers make it slow.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use integration::leak;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// How many containers are made in a row, and how many of them are the first and the last.
const ROW: usize = 200;
const ENDS: usize = 20;

/// Runs the program to its end and prints the most memory that it had, in KiB.
pub(crate) fn peak(program: &[&str]) -> ExitCode {
    let [name, args @ ..] = program else { return ExitCode::from(2) };
    let status = Command::new(name).args(args).stdin(Stdio::null()).stdout(Stdio::null()).status().expect("start");
    assert!(status.success(), "{program:?}: {status}");
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage").max_rss());
    ExitCode::SUCCESS
}

/// The figures of one runtime.
pub(crate) struct Weight {
    /// KiB.
    binary: u64,
    /// KiB, of `create`.
    peak: u64,
    /// Medians of the first and of the last, in milliseconds.
    row: (f64, f64),
}

/// Weighs a runtime with the bundle in `dir`, whose containers sleep.
pub(crate) fn weigh(binary: &Path, dir: &Path, state: &Path, base: &str) -> Weight {
    let file = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("config.json")).expect("JSON");
    let mut create = |id: &str, how: &mut Command| {
        config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        std::fs::write(&file, config.to_string()).expect("config.json");
        how.arg("--root").arg(state).arg("create").arg("--bundle").arg(dir).arg(id);
        // A container keeps its output open: it goes to a file.
        how.stdin(Stdio::null()).stdout(std::fs::File::create(dir.join("out")).expect("a file for the output"));
        let start = Instant::now();
        assert!(how.status().expect("start").success(), "{how:?}");
        start.elapsed().as_secs_f64() * 1000.0
    };
    let delete = |id: &str| {
        let mut command = Command::new(binary);
        let status = command.arg("--root").arg(state).args(["delete", "--force", id]).status();
        assert!(status.expect("start").success());
    };
    create(base, Command::new(std::env::current_exe().expect("own path")).arg("peak").arg(binary));
    let said = std::fs::read_to_string(dir.join("out")).expect("its output");
    let peak = said.trim().parse().unwrap_or_else(|e| panic!("{said:?}: {e}"));
    delete(base);

    let ids: Vec<String> = (0..ROW).map(|n| format!("{base}-{n}")).collect();
    let times: Vec<f64> = ids.iter().map(|id| create(id, &mut Command::new(binary))).collect();
    for id in &ids {
        delete(id);
    }
    while leak::reap_any() {}
    let row = (middle(&times[..ENDS]), middle(&times[ROW - ENDS..]));
    Weight { binary: std::fs::metadata(binary).expect("the binary").len() / 1024, peak, row }
}

fn middle(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// One row a figure.
pub(crate) fn print(weights: &[(String, Weight)]) {
    let names: Vec<&str> = weights.iter().map(|(name, _)| name.as_str()).collect();
    println!("\n| | {} |\n|---|{}", names.join(" | "), "---:|".repeat(names.len()));
    let row = |what: &str, figure: &dyn Fn(&Weight) -> String| {
        let cells: Vec<String> = weights.iter().map(|(_, weight)| figure(weight)).collect();
        println!("| {what} | {} |", cells.join(" | "));
    };
    row("binary, KiB (crun without its libraries)", &|it| it.binary.to_string());
    row("peak memory of create, KiB", &|it| it.peak.to_string());
    row(&format!("{ROW} creates in a row: the first {ENDS}, ms"), &|it| format!("{:.2}", it.row.0));
    row(&format!("the last {ENDS}, ms"), &|it| format!("{:.2}", it.row.1));
    row("last / first", &|it| format!("{:.2}", it.row.1 / it.row.0));
}
