//! The log: everything that was written, in order, whenever it is asked for.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use integration::command::{self, LIMIT};
use integration::wait;

use crate::Solo;

#[test]
fn both_streams_are_kept_apart() {
    let solo = Solo::running(&["/probe", "flood", "3", "both"]);
    solo.run(&["-d"]).ok();
    solo.shim(&["wait", solo.name()]).ok();
    let out = solo.shim(&["logs", solo.name()]).ok();
    assert_eq!(out.stdout, "line 0\nline 1\nline 2\n");
    assert_eq!(out.stderr, "error 0\nerror 1\nerror 2\n");
}

#[test]
fn nothing_is_lost_of_a_flood() {
    let solo = Solo::running(&["/probe", "flood", "500000"]);
    solo.run(&["-d"]).ok();
    solo.shim(&["wait", solo.name()]).ok();
    let out = solo.shim(&["logs", solo.name()]).ok().stdout;
    let mut lines = out.lines();
    for n in 0..500_000 {
        assert_eq!(lines.next(), Some(format!("line {n}").as_str()));
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn a_last_line_without_its_end_is_kept() {
    let solo = Solo::running(&["/probe", "try", "kill 1"]);
    let whole = solo.run(&["--rm"]).ok().stdout;
    let solo = Solo::running(&["/probe", "whisper", "no newline"]);
    solo.run(&["-d"]).ok();
    solo.shim(&["wait", solo.name()]).ok();
    assert_eq!(solo.shim(&["logs", solo.name()]).ok().stdout.trim_end_matches('\n'), "no newline");
    assert!(whole.ends_with('\n'));
}

#[test]
fn followed_it_comes_as_it_is_written_and_ends_with_the_container() {
    let solo = Solo::new();
    solo.hold();
    let files = solo.case.files();
    let mut command = solo.command(&["logs", "-f", solo.name()]);
    files.attach(&mut command);
    let mut follow = command.spawn().unwrap();
    assert!(wait::file(&files.stdout, LIMIT, |t| t == "ready\n"));
    for signal in ["USR1", "USR2", "HUP"] {
        solo.shim(&["kill", "-s", signal, solo.name()]).ok();
        assert!(wait::file(&files.stdout, LIMIT, |t| t.ends_with(&format!("SIG{signal}\n"))), "{signal}");
    }
    solo.shim(&["stop", solo.name()]).ok();
    assert!(wait::exited(follow.id() as i32, LIMIT), "it ends");
    assert_eq!(command::code(follow.wait().unwrap()), 0);
    let seen = std::fs::read_to_string(&files.stdout).unwrap();
    assert_eq!(seen, "ready\nSIGUSR1\nSIGUSR2\nSIGHUP\nSIGTERM\n");
}

#[test]
fn a_reader_that_does_not_read_does_not_keep_the_container_alive() {
    let solo = Solo::running(&["/probe", "flood", "3000000"]);
    let mut command = solo.run_command(&[]);
    // Nobody ever reads this pipe, so the flood stands still at some point, as it does on any pipe.
    let mut run = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    solo.logged("line 100\n");
    solo.shim(&["stop", "-t", "0", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 137);
    // Somebody who reads late gets what was there, and the end.
    let mut seen = String::new();
    std::io::Read::read_to_string(run.stdout.as_mut().unwrap(), &mut seen).unwrap();
    assert!(seen.starts_with("line 0\nline 1\n"));
    assert_eq!(command::code(run.wait().unwrap()), 137);
}

#[test]
fn attach_shows_what_comes_and_ends_with_the_container() {
    let solo = Solo::new();
    solo.hold();
    let files = solo.case.files();
    let mut command = solo.command(&["attach", solo.name()]);
    files.attach(&mut command);
    let mut attached = command.spawn().unwrap();
    let seen = wait::until(std::time::Duration::from_millis(50), LIMIT, || {
        solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
        std::fs::read_to_string(&files.stdout).unwrap().contains("SIGUSR1").then_some(())
    });
    assert!(seen.is_some());
    solo.shim(&["kill", "-s", "INT", solo.name()]).ok();
    assert!(wait::exited(attached.id() as i32, LIMIT));
    assert_eq!(command::code(attached.wait().unwrap()), 2, "it ends with the container's status");
}

#[test]
fn stdin_is_passed_on_when_asked() {
    let solo = Solo::running(&["/probe", "cat"]);
    std::fs::write(solo.case.dir.join("words"), "some words\n").unwrap();
    let mut command = solo.run_command(&["-i", "--rm"]);
    command.stdin(std::fs::File::open(solo.case.dir.join("words")).unwrap());
    assert_eq!(command::run(&mut command, &solo.case.files()).ok().stdout, "some words\n");
    // Without -i there is nothing to read.
    let solo = Solo::running(&["/probe", "cat"]);
    let mut command = solo.run_command(&["--rm"]);
    std::fs::write(solo.case.dir.join("words"), "some words\n").unwrap();
    command.stdin(std::fs::File::open(solo.case.dir.join("words")).unwrap());
    assert_eq!(command::run(&mut command, &solo.case.files()).ok().stdout, "");
}

/// A journal of the test's own, which nobody else sees. It listens, and reads only when it is told to.
fn journal() -> UnixDatagram {
    integration::cgroups::leave_shared_mounts();
    let usual = Path::new("/run/systemd/journal");
    let at = if usual.is_dir() { usual } else { Path::new("/run") };
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, None::<&str>).unwrap();
    std::fs::create_dir_all(usual).unwrap();
    let journal = UnixDatagram::bind(usual.join("socket")).unwrap();
    journal.set_read_timeout(Some(LIMIT)).unwrap();
    journal
}

/// The container's next line in the journal.
fn received(journal: &UnixDatagram) -> String {
    let mut record = vec![0; 64 * 1024];
    let length = journal.recv(&mut record).unwrap();
    let record = String::from_utf8(record[..length].to_vec()).unwrap();
    record.lines().find_map(|line| line.strip_prefix("MESSAGE=")).unwrap().to_owned()
}

#[test]
fn a_slow_journal_gets_every_line() {
    const LINES: usize = 30_000;
    let journal = journal();
    let solo = Solo::running(&["/probe", "flood", &LINES.to_string()]);
    solo.run(&["-d", "--log-driver", "journald"]).ok();
    assert_eq!(received(&journal), "line 0");
    // The container has to wait now, and nobody else has.
    assert_eq!(solo.shim(&["exec", solo.name(), "/probe", "say", "there"]).ok().stdout, "there\n");
    for n in 1..LINES {
        assert_eq!(received(&journal), format!("line {n}"));
    }
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "0\n");
}

#[test]
fn a_journal_that_is_stuck_keeps_no_container_alive() {
    let journal = journal();
    let solo = Solo::running(&["/probe", "flood", "3000000"]);
    solo.run(&["-d", "--log-driver", "journald"]).ok();
    assert_eq!(received(&journal), "line 0");
    solo.shim(&["stop", "-t", "0", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 137);
}
