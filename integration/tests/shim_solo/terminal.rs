//! Terminals: run -it, exec -it, attach, and leaving without ending it.

use integration::command::{self, LIMIT};
use integration::console::Pty;
use integration::wait;

use crate::Solo;

#[test]
fn run_with_a_terminal_lends_ours() {
    let solo = Solo::new();
    let pty = Pty::open();
    pty.terminal.resize(40, 111);
    let mut run = pty.spawn(&mut solo.run_command(&["-it", "--rm"]), solo.name());
    let mut terminal = pty.terminal;
    terminal.sees("ready");
    terminal.resize(41, 112);
    terminal.sees("SIGWINCH");
    terminal.types("\u{3}");
    terminal.sees("SIGINT");
    assert_eq!(command::code(run.wait().unwrap()), 2);
    solo.gone();
}

#[test]
fn the_containers_terminal_has_our_size() {
    let solo = Solo::running(&["/probe", "tty"]);
    let pty = Pty::open();
    pty.terminal.resize(37, 99);
    let mut run = pty.spawn(&mut solo.run_command(&["-it", "--rm"]), solo.name());
    let mut terminal = pty.terminal;
    let seen = terminal.sees("}").to_owned();
    assert!(seen.contains("\"rows\":37") && seen.contains("\"columns\":99"), "{seen}");
    assert!(seen.contains("\"tty\":[true,true,true]"), "{seen}");
    assert_eq!(command::code(run.wait().unwrap()), 0);
}

#[test]
fn ctrl_p_ctrl_q_leaves_it_running_and_attach_comes_back() {
    let solo = Solo::new();
    let pty = Pty::open();
    let mut run = pty.spawn(&mut solo.run_command(&["-it"]), solo.name());
    let mut terminal = pty.terminal;
    terminal.sees("ready");
    terminal.types("\u{10}\u{11}");
    assert!(wait::exited(run.id() as i32, LIMIT), "it leaves");
    assert_eq!(command::code(run.wait().unwrap()), 0);
    assert!(solo.ps().unwrap().contains("Up "), "the container goes on");

    let pty = Pty::open();
    let mut attach = pty.spawn(&mut solo.command(&["attach", solo.name()]), solo.name());
    let mut terminal = pty.terminal;
    let seen = wait::until(std::time::Duration::from_millis(50), LIMIT, || {
        solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
        terminal.peek().contains("SIGUSR1").then_some(())
    });
    assert!(seen.is_some());
    terminal.types("\u{3}");
    terminal.sees("SIGINT");
    assert_eq!(command::code(attach.wait().unwrap()), 2);
}

#[test]
fn exec_with_a_terminal() {
    let solo = Solo::new();
    solo.hold();
    let pty = Pty::open();
    let mut exec = pty.spawn(&mut solo.command(&["exec", "-it", solo.name(), "/probe", "tty"]), solo.name());
    let mut terminal = pty.terminal;
    let seen = terminal.sees("}").to_owned();
    // Not its size: that comes when the shim has received the terminal, which may be after the program asked for it.
    assert!(seen.contains("\"tty\":[true,true,true]"), "{seen}");
    assert_eq!(command::code(exec.wait().unwrap()), 0);
}

#[test]
fn our_terminal_is_given_back_as_it_was() {
    let solo = Solo::running(&["/probe", "say", "done"]);
    let pty = Pty::open();
    let before = rustix::termios::tcgetattr(&pty.terminal.master).unwrap();
    let mut run = pty.spawn(&mut solo.run_command(&["-it", "--rm"]), solo.name());
    let mut terminal = pty.terminal;
    terminal.sees("done");
    assert_eq!(command::code(run.wait().unwrap()), 0);
    let after = rustix::termios::tcgetattr(&terminal.master).unwrap();
    assert_eq!((after.local_modes, after.output_modes), (before.local_modes, before.output_modes));
}
