//! What systemd hands to a service goes on to the container: listening sockets, and the socket to say that it is ready.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use integration::case::Case;
use integration::{command, not_on};

/// Stands for systemd: takes what is sent to its socket, but for the barrier.
struct Manager {
    path: PathBuf,
    heard: Receiver<String>,
}

impl Manager {
    fn new(case: &mut Case) -> Self {
        let path = case.dir.join("manager");
        case.env.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        let socket = UnixDatagram::bind(&path).unwrap();
        let (tell, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            loop {
                // The barrier's descriptor has nowhere to go, which closes it: that is the answer.
                let length = socket.recv(&mut message).unwrap();
                match String::from_utf8_lossy(&message[..length]).into_owned() {
                    barrier if barrier.starts_with("BARRIER=1") => {}
                    end if end == "end" => return,
                    text => tell.send(text).unwrap(),
                }
            }
        });
        Self { path, heard }
    }

    fn next(&self) -> String {
        self.heard.recv_timeout(command::LIMIT).unwrap()
    }

    /// What else was heard.
    fn rest(self) -> Vec<String> {
        UnixDatagram::unbound().unwrap().send_to(b"end", &self.path).unwrap();
        self.heard.iter().collect()
    }
}

#[test]
fn start_waits_until_the_program_is_ready_and_tells_who_it_is() {
    let mut case = Case::new();
    not_on!(case, "crun", "start does not wait");
    // Two that say more than they may, as the host would understand it.
    case.args(&["/probe", "notify", "MAINPID=1", "STOPPING=1", "READY=1", "hold"]);
    case.write();
    let manager = Manager::new(&mut case);
    case.create().ok();
    case.start().ok();
    let init = case.state()["pid"].as_i64().unwrap();
    assert_eq!(manager.rest(), ["READY=1\n".to_owned(), format!("MAINPID={init}\n")]);
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    case.nothing_left();
}

#[test]
fn start_does_not_wait_for_a_program_that_ended() {
    let mut case = Case::new();
    not_on!(case, "crun", "start does not wait");
    not_on!(case, "runc", "waits until it is reaped");
    case.args(&["/probe", "exit", "0"]);
    case.write();
    let manager = Manager::new(&mut case);
    case.create().ok();
    case.start().ok();
    assert_eq!(manager.rest(), [""; 0]);
    case.wait();
    case.delete().ok();
}

#[test]
fn run_tells_that_the_program_is_ready() {
    let mut case = Case::new();
    not_on!(case, "crun", "tells it in words of its own");
    case.args(&["/probe", "notify", "READY=1", "cat"]);
    case.write();
    let manager = Manager::new(&mut case);
    let mut command = case.command();
    command.args(["run", "--bundle"]).arg(case.bundle()).arg(&case.id);
    // The program goes on when the manager has heard of it.
    let (reader, mut writer) = std::io::pipe().unwrap();
    command.stdin(reader);
    let types = std::thread::spawn(move || {
        let heard = [manager.next(), manager.next()];
        writer.write_all(b"go\n").unwrap();
        heard
    });
    let out = command::run(&mut command, &case.files()).ok();
    assert_eq!(out.stdout, "go\n", "{out}");
    let heard = types.join().unwrap();
    assert_eq!(heard[0], "READY=1\n");
    assert!(heard[1].starts_with("MAINPID="), "{heard:?}");
}

#[test]
fn listening_sockets_are_passed_to_whom_they_are_meant_for() {
    let mut case = Case::new();
    case.args(&["/probe", "report"]).write();
    let run = |prefix: &str| {
        let mut command = std::process::Command::new("/bin/sh");
        let script = format!("exec 3</dev/null 4</dev/null; {prefix}; exec \"$@\"");
        let runtime = case.command();
        command.args(["-c", &script, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
        command.args(["run", "--bundle"]).arg(case.bundle()).arg(&case.id);
        command::run(command.stdin(case.stdin()), &case.files()).ok().report()
    };
    let report = run("export LISTEN_FDS=2 LISTEN_PID=$$");
    assert_eq!(report.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4], "{:?}", report.fds);
    not_on!(case, "crun", "passes them without a word, and to anybody");
    assert_eq!(report.env.get("LISTEN_FDS").map(String::as_str), Some("2"));
    assert_eq!(report.env.get("LISTEN_PID").map(String::as_str), Some("1"));
    let report = run("export LISTEN_FDS=2 LISTEN_PID=1");
    assert_eq!(report.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{:?}", report.fds);
    assert_eq!(report.env.get("LISTEN_FDS"), None);
}

#[test]
fn while_start_waits_others_may_change_the_container() {
    let mut case = Case::new();
    not_on!(case, "crun", "start does not wait");
    case.args(&["/probe", "hold"]);
    let manager = Manager::new(&mut case);
    case.create().ok();
    let mut start = case.command();
    let mut start = start.args(["start", &case.id]).spawn().unwrap();
    case.says("ready");
    for verb in ["pause", "resume"] {
        case.call(&[verb, &case.id]).ok();
    }
    assert!(start.try_wait().unwrap().is_none(), "it waits for READY=1");
    case.call(&["delete", "--force", &case.id]).ok();
    case.wait();
    start.wait().unwrap();
    assert_eq!(manager.rest(), [""; 0]);
}

#[test]
fn what_a_start_left_that_was_killed_is_in_nobodys_way() {
    let mut case = Case::new();
    not_on!(case, "runc", "the address is in use");
    not_on!(case, "crun", "start does not wait");
    case.args(&["/probe", "notify", "READY=1", "hold"]);
    let manager = Manager::new(&mut case);
    case.create().ok();
    let directory = case.state_dir().join(&case.id).join("notify");
    drop(UnixDatagram::bind(directory.join("notify.sock")).unwrap());
    case.start().ok();
    assert_eq!(manager.next(), "READY=1\n");
    assert!(case.start().stderr.contains("cannot start an already running container"));
    // What a container with every privilege may come to write there.
    let mut deep = directory.clone();
    for _ in 0..100 {
        deep.push("d");
        std::fs::create_dir(&deep).unwrap();
    }
    std::os::unix::fs::symlink("/tmp", directory.join("link")).unwrap();
    case.kill("KILL").ok();
    case.wait();
    case.delete().ok();
    case.nothing_left();
}
