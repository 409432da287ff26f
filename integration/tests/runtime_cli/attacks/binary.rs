//! Ways to the runtime's own binary, which runs on the host as root (CVE-2019-5736).
//!
//! One container lies in wait, and shares its processes with the one that the runtime under test makes or enters, as the
//! containers of a pod can. The runtime's binary comes to be executed in there, where the first one takes a descriptor of it.
//! When nobody executes it any more, neither inside nor on the host, the descriptor is opened again for writing. So that
//! nothing else keeps it busy, the container in wait is run by another file than the one under attack, which is a copy.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::case::Case;
use integration::command::LIMIT;
use integration::programs::{Kind, Runtime};
use serde_json::json;

/// Where the runtime as the container's program waits, so that it is found there.
struct Stall {
    arguments: [&'static str; 4],
    fifo: &'static str,
    /// What the other side of the fifo does.
    other: &'static str,
    /// The option that a script adds: the kernel puts the script's own path behind it.
    option: &'static str,
}

impl Stall {
    fn of(kind: Kind) -> Self {
        if kind == Kind::Crun {
            // It does not wait for who reads its log.
            let arguments = ["--root", "/tmp/state", "state", "nobody"];
            return Self { arguments, fifo: "/tmp/state/nobody/status", other: "write", option: "--log" };
        }
        let arguments = ["--log", "/tmp/log", "start", "nobody"];
        Self { arguments, fifo: "/tmp/log", other: "read", option: "--root" }
    }
}

/// What a container gives as its program, to have the runtime execute itself.
const PROGRAMS: [&str; 3] = ["/proc/self/exe", "/link", "/script"];

/// A container that lies in wait, and the copy of the runtime that it waits for.
struct Ambush {
    lair: Case,
    copy: PathBuf,
    before: Vec<u8>,
    stall: Stall,
}

impl Ambush {
    /// Waits for a runtime that stalls as the container's program, or for one that merely comes by.
    fn with(capabilities: &[&str], stalls: bool) -> Self {
        let mut lair = Case::new();
        let stall = Stall::of(lair.runtime.kind);
        for set in ["bounding", "effective", "permitted"] {
            lair.spec["process"]["capabilities"][set]
                .as_array_mut()
                .unwrap()
                .extend(capabilities.iter().map(|c| json!(c)));
        }
        let copy = lair.dir.join("runtime-copy");
        // Not by this process: what another test starts just then would inherit the descriptor, and make the copy busy.
        assert!(Command::new("cp").arg(&lair.runtime.binary).arg(&copy).status().unwrap().success());
        let root = lair.rootfs();
        give_libraries(&copy, &root);
        symlink("/proc/self/exe", root.join("link")).unwrap();
        fs::write(root.join("script"), format!("#!/proc/self/exe {}\n", stall.option)).unwrap();
        fs::set_permissions(root.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        let fifo = root.join(&stall.fifo[1..]);
        fs::create_dir_all(fifo.parent().unwrap()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, fifo, rustix::fs::Mode::from_bits_truncate(0o666)).unwrap();
        let how = if stalls { stall.other } else { "leave" };
        lair.args(&["/probe", "ambush", how, stall.fifo]);
        lair.create().ok();
        lair.start().ok();
        lair.says("waiting");
        let before = fs::read(&copy).unwrap();
        Self { lair, copy, before, stall }
    }

    /// Another container with the same root and processes, over the copy, with this as its program.
    fn neighbour(&self, program: &str) -> Case {
        let mut case = Case::with(self.runtime());
        case.spec["root"]["path"] = json!(self.lair.rootfs());
        case.spec["process"]["capabilities"] = self.lair.spec["process"]["capabilities"].clone();
        case.namespace("pid", Some(&format!("/proc/{}/ns/pid", self.lair.pid())));
        case.args(&self.stalled(program));
        case
    }

    fn stalled<'a>(&self, program: &'a str) -> Vec<&'a str> {
        [&[program], &self.stall.arguments[..]].concat()
    }

    fn runtime(&self) -> Runtime {
        Runtime { binary: self.copy.clone(), ..self.lair.runtime.clone() }
    }

    /// Runs `exec` of the copy in the container that waits.
    fn enter(&mut self, args: &[&str]) {
        let copy = self.runtime();
        let own = std::mem::replace(&mut self.lair.runtime, copy);
        let _ = self.lair.exec(args);
        self.lair.runtime = own;
    }

    /// Requires that the binary was seen in the container, could not be written when it was idle, and is what it was.
    #[track_caller]
    fn failed(self, how: &str) {
        self.lair.wait();
        let said = self.lair.output();
        assert!(fs::read(&self.copy).unwrap() == self.before, "{how}: the runtime's binary was changed: {said}");
        assert!(said.contains("refused"), "{how}: the attack was not made: {said}");
    }
}

/// What a program that is not static needs, at the same places in this root.
fn give_libraries(program: &Path, root: &Path) {
    let listed = Command::new("ldd").arg(program).output().unwrap();
    for library in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let library = library.trim_end_matches(':');
        let inside = root.join(&library[1..]);
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(library, inside).unwrap();
    }
}

#[test]
fn cve_2019_5736_by_the_program_of_exec() {
    for program in PROGRAMS {
        let mut ambush = Ambush::with(&[], true);
        ambush.enter(&ambush.stalled(program));
        ambush.failed(program);
    }
}

#[test]
fn cve_2019_5736_with_the_right_to_change_mounts() {
    // What makes the file safe must not be a flag of a mount that the container can change.
    let mut ambush = Ambush::with(&["CAP_SYS_ADMIN"], true);
    ambush.enter(&ambush.stalled("/link"));
    ambush.failed("/link");
}

#[test]
fn cve_2019_5736_by_the_containers_own_program() {
    for program in PROGRAMS {
        let ambush = Ambush::with(&[], true);
        let case = ambush.neighbour(program);
        case.create().ok();
        case.start().ok();
        case.wait();
        finish(ambush, case, program);
    }
}

#[test]
fn cve_2019_5736_by_the_program_of_run() {
    for program in PROGRAMS {
        let ambush = Ambush::with(&[], true);
        let case = ambush.neighbour(program);
        let _ = case.run();
        finish(ambush, case, program);
    }
}

/// The neighbour is deleted by a file that the attack cannot have spoilt.
#[track_caller]
fn finish(ambush: Ambush, mut case: Case, how: &str) {
    case.runtime = ambush.lair.runtime.clone();
    drop(case);
    ambush.failed(how);
}

#[test]
fn cve_2019_5736_by_what_enters_before_it_is_the_containers_program() {
    // Who may trace it finds the runtime's binary in a process that is only just coming in, whatever it will execute.
    let mut ambush = Ambush::with(&["CAP_SYS_PTRACE"], false);
    let end = std::time::Instant::now() + LIMIT;
    while !ambush.lair.output().contains("seen") && std::time::Instant::now() < end {
        ambush.enter(&["/probe", "exit", "0"]);
    }
    ambush.failed("exec");
}
