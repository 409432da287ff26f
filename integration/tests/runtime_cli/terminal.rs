//! Terminals: made in the container, handed to the caller over the console socket.

use std::os::fd::AsFd;

use integration::case::Case;
use integration::console::{Pty, Socket, Terminal};
use integration::{command, not_on, wait};
use serde_json::{Value, json};

/// Creates the container with a terminal and takes the terminal.
fn with_terminal(case: &mut Case) -> Terminal {
    case.spec["process"]["terminal"] = json!(true);
    let socket = Socket::new(&case.dir);
    case.create_with(&["--console-socket", socket.path.to_str().unwrap()]).ok();
    socket.receive()
}

fn answer(terminal: &mut Terminal) -> Value {
    let text = terminal.sees("}").to_owned();
    let start = text.find('{').unwrap();
    serde_json::from_str(&text[start..=text.rfind('}').unwrap()]).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn the_process_has_the_terminal_that_the_caller_gets() {
    let mut case = Case::new();
    case.args(&["/probe", "tty"]);
    let mut terminal = with_terminal(&mut case);
    case.start().ok();
    let tty = answer(&mut terminal);
    assert_eq!(tty["tty"], json!([true, true, true]));
    assert_eq!(tty["controlling"], true, "it is the controlling terminal");
    assert_eq!(tty["leader"], true);
    assert_eq!(tty["console"], tty["stdin"], "/dev/console is the same terminal");
    assert!(tty["name"] == "/dev/pts/0" || tty["name"] == "/dev/console", "{tty}");
    assert_eq!(case.wait(), 0);
}

#[test]
fn the_terminal_has_the_size_that_was_asked() {
    let mut case = Case::new();
    case.args(&["/probe", "tty"]);
    case.spec["process"]["consoleSize"] = json!({ "height": 40, "width": 120 });
    let mut terminal = with_terminal(&mut case);
    case.start().ok();
    let tty = answer(&mut terminal);
    assert_eq!((&tty["rows"], &tty["columns"]), (&json!(40), &json!(120)));
}

#[test]
fn what_the_caller_types_arrives() {
    let mut case = Case::new();
    case.args(&["/probe", "cat"]);
    let mut terminal = with_terminal(&mut case);
    case.start().ok();
    terminal.types("hello\n");
    // Once as the echo, once as cat's answer.
    terminal.sees_times("hello", 2);
    // End of file is a character on a terminal.
    terminal.types("\u{4}");
    assert_eq!(case.wait(), 0);
}

#[test]
fn interrupts_and_resizes_reach_the_process() {
    let mut case = Case::new();
    let mut terminal = with_terminal(&mut case);
    case.start().ok();
    terminal.sees("ready");
    terminal.resize(50, 100);
    terminal.sees("SIGWINCH");
    terminal.types("\u{3}");
    terminal.sees("SIGINT");
    assert_eq!(case.wait(), 2);
}

#[test]
fn the_terminal_hangs_up_when_the_process_ends() {
    let mut case = Case::new();
    let mut terminal = with_terminal(&mut case);
    case.start().ok();
    terminal.sees("ready");
    case.kill("KILL").ok();
    case.wait();
    // What it said last may come before the end.
    loop {
        assert!(wait::readable(terminal.master.as_fd(), command::LIMIT));
        match std::io::Read::read(&mut terminal.master, &mut [0; 64]) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
}

#[test]
fn the_terminal_belongs_to_the_containers_user() {
    let mut case = Case::new();
    case.user_namespace();
    case.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    case.args(&["/probe", "tty"]);
    let mut terminal = with_terminal(&mut case);
    case.start().ok();
    let tty = answer(&mut terminal);
    assert_eq!(tty["tty"], json!([true, true, true]));
    assert_eq!(tty["controlling"], true);
}

#[test]
fn exec_gets_a_terminal_of_its_own() {
    let case = Case::new();
    case.hold();
    let socket = Socket::new(&case.dir);
    let pid_file = case.dir.join("exec.pid");
    let flags = [
        "--tty",
        "--detach",
        "--console-socket",
        socket.path.to_str().unwrap(),
        "--pid-file",
        pid_file.to_str().unwrap(),
    ];
    case.exec_with(&flags, &["/probe", "tty"]).ok();
    let mut terminal = socket.receive();
    let tty = answer(&mut terminal);
    assert_eq!(tty["tty"], json!([true, true, true]));
    assert_eq!(tty["controlling"], true);
    assert_eq!(tty["leader"], true);
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert!(wait::exited(pid, command::LIMIT));
    integration::leak::reap(pid);
}

#[test]
fn run_in_the_foreground_lends_its_own_terminal() {
    // The runtime sits on the slave of a terminal that the test holds, as it does in a shell.
    let mut case = Case::new();
    case.spec["process"]["terminal"] = json!(true);
    case.write();
    let pty = Pty::open();
    pty.terminal.resize(33, 77);
    let mut command = case.command();
    command.args(["run", "--bundle"]).arg(case.bundle()).arg(&case.id);
    let mut run = pty.spawn(&mut command, &case.id);
    let mut terminal = pty.terminal;
    terminal.sees("ready");
    terminal.resize(34, 78);
    terminal.sees("SIGWINCH");
    let mut tty = case.command();
    tty.args(["exec", &case.id, "/probe", "say", "beside"]);
    assert_eq!(command::run(&mut tty, &case.files()).ok().stdout, "beside\n");
    terminal.types("\u{3}");
    terminal.sees("SIGINT");
    assert_eq!(command::code(run.wait().unwrap()), 2);
    case.nothing_left();
}

#[test]
fn the_end_of_a_file_on_stdin_ends_what_reads_the_terminal() {
    let mut case = Case::new();
    not_on!(case, "runc", "wants a terminal of its own for it");
    not_on!(case, "crun", "does not tell the container");
    case.spec["process"]["terminal"] = json!(true);
    case.args(&["/probe", "cat"]);
    for (typed, shown) in [("", ""), ("a line\n", "a line\na line\n"), ("half", "halfhalf")] {
        std::fs::write(case.dir.join("stdin"), typed).unwrap();
        assert_eq!(case.run().ok().stdout, shown, "{typed:?}");
    }
}
