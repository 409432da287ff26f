//! Benchmarks against real peers, in one run: contenders take turns, so that a noisy machine is noisy for all of them.
//! Prints Markdown. What counts are the ratios, not the times.
//!
//! ```text
//! bench runtime [-n ROUNDS] [--only v1|v2]
//! bench shim [-n ROUNDS] [--only run|helpers|idle|execs|logs|alone]
//! bench imgtool [-n ROUNDS] [--only gzip|zstd|growth] [--ours]
//! bench build [-n ROUNDS]
//! ```

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot measure has to stop"
)]

mod build;
mod floor;
mod images;
mod processes;
mod runtime;
mod shim;
mod shim_alone;
mod table;
mod weight;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["runtime", rest @ ..] => bench(runtime::Options::parse(rest), runtime::bench),
        ["shim", rest @ ..] => bench(shim::Options::parse(rest), shim::bench),
        ["imgtool", rest @ ..] => bench(images::Options::parse(rest), images::bench),
        ["build", rest @ ..] => match *rest {
            [] => build::bench(10),
            ["-n", rounds] if rounds.parse::<u32>().is_ok_and(|n| n > 0) => build::bench(rounds.parse().unwrap_or(10)),
            _ => {
                eprintln!("bench: build takes -n ROUNDS only");
                ExitCode::from(2)
            }
        },
        // The two halves of the floor, see there.
        ["floor", rootfs] => floor::outside(rootfs),
        ["floor-init", rootfs] => floor::inside(rootfs),
        // Runs a program and says the most memory that it had.
        ["peak", program @ ..] => weight::peak(program),
        _ => {
            eprintln!("usage: bench runtime [-n ROUNDS] [--only v1|v2]");
            eprintln!("       bench build [-n ROUNDS]");
            eprintln!("       bench shim [-n ROUNDS] [--only run|helpers|idle|execs|logs|alone]");
            eprintln!("       bench imgtool [-n ROUNDS] [--only gzip|zstd|growth] [--ours]");
            ExitCode::from(2)
        }
    }
}

fn bench<Options>(options: Result<Options, String>, measure: impl Fn(&Options)) -> ExitCode {
    match options {
        Ok(options) => {
            // What fails aborts, and drops nothing: what was started and mounted is taken away here.
            let told = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                told(info);
                integration::leak::remove(&integration::case::mark());
            }));
            measure(&options);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Milliseconds from the start of the program to its end.
fn timed(command: &mut std::process::Command, who: &str) -> f64 {
    use std::process::Stdio;
    // Its messages are kept for the case that it fails; a file costs what a log costs.
    let log = std::path::Path::new("/tmp").join(format!("tare-bench-{}.err", std::process::id()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("a log"));
    let start = std::time::Instant::now();
    let status = command.spawn().expect("start").wait().expect("wait");
    let took = start.elapsed().as_secs_f64() * 1000.0;
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    assert!(status.success(), "{who}: {command:?}: {status}\n{said}");
    took
}
