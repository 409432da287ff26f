//! imgtool: from a registry to a bundle that can run, on a fresh file system, against the other tools of the field.
//!
//! Traps, all of them met: a file system on which trees were removed lately takes ten times longer to create files, so each
//! run has one of its own; the first touch of the machine's memory is slow, so it is touched before; what is not written
//! out yet slows the next one, so everything is synced first; and the contenders take turns.

mod contender;
mod disk;

use std::path::Path;

use integration::command::tool;
use integration::peer::image;
use integration::peer::registry::Registry;
use integration::{case, programs};

use crate::table::Samples;
use contender::{Contender, PUSH, SECOND, Setting};
use disk::Disk;

/// What was asked for on the command line.
pub(crate) struct Options {
    rounds: u32,
    compressions: Vec<&'static str>,
    growth: bool,
    only_ours: bool,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { rounds: 5, compressions: vec!["gzip", "zstd"], growth: true, only_ours: false };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "-n" => {
                    let number = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                    options.rounds = number.ok_or("-n wants a number of rounds")?;
                }
                "--only" => match words.next() {
                    Some(&"gzip") => (options.compressions, options.growth) = (vec!["gzip"], false),
                    Some(&"zstd") => (options.compressions, options.growth) = (vec!["zstd"], false),
                    Some(&"growth") => (options.compressions, options.growth) = (Vec::new(), true),
                    _ => return Err("--only wants gzip, zstd or growth".to_owned()),
                },
                "--ours" => options.only_ours = true,
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

/// Measures and prints one table a compression, and one of the growth with the image's size.
pub(crate) fn bench(options: &Options) {
    let id = case::unique();
    let dir = Path::new("/var/tmp").join(&id);
    let _guard = Guard(id.clone(), dir.clone());
    std::fs::create_dir_all(&dir).expect("a directory");
    disk::private_mounts();
    disk::touch_memory();
    println!("`hack/bench imgtool`, {} rounds after one for warming up, medians", options.rounds);
    for compression in &options.compressions {
        match image::big(compression) {
            Ok(layout) => compare(options, compression, &layout, &id, &dir),
            Err(e) => println!("\n{compression}: {e}"),
        }
    }
    if options.growth {
        match image::big("gzip") {
            Ok(layout) => growth(options.rounds, &layout, &id, &dir),
            Err(e) => println!("\ngrowth: {e}"),
        }
    }
}

/// Puts an image of a layout into the registry, byte for byte: skopeo would put layers there that it has seen in another compression.
fn publish(layout: &Path, reference: &str) {
    let source = format!("oci:{}:big", layout.display());
    let imgtool = programs::ours("imgtool").to_string_lossy().into_owned();
    tool(&imgtool, &["copy", "-q", &source, reference]).ok();
}

fn compare(options: &Options, compression: &str, layout: &Path, id: &str, dir: &Path) {
    let registry = Registry::start(id, &place(dir, compression));
    let setting = Setting { id: id.to_owned(), reference: format!("{}/big:{compression}", registry.host) };
    publish(layout, &setting.reference);
    let contenders: Vec<Contender> =
        if options.only_ours { vec![Contender::Tare] } else { Contender::all(compression) };
    let mut samples = Samples::default();
    let mut peaks: Vec<u64> = vec![0; contenders.len()];
    const BUNDLE: &str = "pull to bundle";
    for round in 0..=options.rounds {
        for turn in 0..contenders.len() {
            let at = (turn + round as usize) % contenders.len();
            let disk = Disk::new(&dir.join("disk"));
            let measured = contenders[at].measure(&setting, disk.path());
            if round > 0 {
                let name = contenders[at].name();
                samples.add(BUNDLE, name, measured.bundle);
                samples.add(SECOND, name, measured.second);
                samples.add(PUSH, name, measured.push);
                peaks[at] = peaks[at].max(measured.peak);
            }
        }
    }
    println!("\n{compression}\n");
    let names: Vec<String> = contenders.iter().map(|it| it.name().to_owned()).collect();
    samples.print(&[BUNDLE, SECOND, PUSH], &names);
    let cells: Vec<String> = peaks.iter().map(|kib| format!("{:.1}", mebibytes(*kib))).collect();
    println!("| peak memory, MiB | {} |", cells.join(" | "));
    let best = names[1..].iter().filter_map(|name| samples.median(BUNDLE, name)).min_by(f64::total_cmp);
    if let Some((best, ours)) = best.zip(samples.median(BUNDLE, "tare")) {
        println!("\nThe best of the others takes {:.2} times as long as tare.", best / ours);
    }
}

/// One layer with one, two and four copies of the same tree: time and memory.
fn growth(rounds: u32, layout: &Path, id: &str, dir: &Path) {
    const SIZES: [&str; 3] = ["1", "2", "4"];
    let registry = Registry::start(id, &place(dir, "growth"));
    let work = Disk::new(&dir.join("work"));
    contender::copies(layout, work.path(), &SIZES, &registry.host);
    drop(work);
    let mut samples = Samples::default();
    let mut peaks = [0; SIZES.len()];
    for round in 0..=rounds {
        for (at, size) in SIZES.iter().enumerate() {
            let disk = Disk::new(&dir.join("disk"));
            let setting = Setting { id: id.to_owned(), reference: format!("{}/copies:{size}", registry.host) };
            let (took, peak) = contender::bundle_of_ours(&setting, disk.path());
            if round > 0 {
                samples.add("pull to bundle", size, took);
                peaks[at] = peaks[at].max(peak);
            }
        }
    }
    println!(
        "\nGrowth: one layer with so many copies of the image's /usr\n\n| copies | ms | ms a copy | peak memory, MiB |\n|---:|---:|---:|---:|"
    );
    for (at, size) in SIZES.iter().enumerate() {
        let (took, copies) = (samples.median("pull to bundle", size).unwrap_or(f64::NAN), 1 << at);
        println!("| {size} | {took:.0} | {:.0} | {:.1} |", took / f64::from(copies), mebibytes(peaks[at]));
    }
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

fn place(dir: &Path, name: &str) -> std::path::PathBuf {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}

/// Removes what a measurement left behind, however it ended.
struct Guard(String, std::path::PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        integration::leak::remove(&self.0);
        if integration::leak::mounts(&self.0).is_empty() {
            let _ = std::fs::remove_dir_all(&self.1);
        }
    }
}
