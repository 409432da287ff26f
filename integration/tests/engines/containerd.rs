//! containerd 1.6 with `io.containerd.tare.v2`.

use std::path::PathBuf;
use std::time::Duration;

use integration::command::{self, Files, LIMIT};
use integration::console::Pty;
use integration::peer::containerd::Containerd;
use integration::wait;

use integration::place::Place;

pub(crate) const IMAGE: &str = "docker.io/library/small:1";

/// containerd with the small image in it.
pub(crate) fn containerd(place: &Place) -> Containerd {
    place.small_image();
    let archive = place.dir.join("small.oci.tar");
    place.ours("imgtool", &["save", "--quiet", "-o", archive.to_str().unwrap(), "small:1"]).ok();
    let containerd = Containerd::start(&place.id, &place.dir);
    containerd.ctr(&["images", "import", archive.to_str().unwrap()]).ok();
    containerd
}

/// A running container named `web` that waits for signals. One that does not yet would never get what is sent to it now: the
/// kernel drops signals to the init of a pid namespace that it has no answer to.
pub(crate) fn web(containerd: &Containerd) {
    let log = containerd.dir().join("web.log");
    containerd
        .ctr(&[
            "run",
            "-d",
            "--runtime",
            &Containerd::runtime(),
            "--env",
            &format!("TARE_TEST={}", containerd.id),
            "--log-uri",
            &format!("file://{}", log.display()),
            IMAGE,
            "web",
        ])
        .ok();
    assert_eq!(status(containerd, "web"), "RUNNING");
    assert!(wait::file(&log, LIMIT, |text| text.contains("ready")));
}

/// The pid of a container's init.
pub(crate) fn pid(containerd: &Containerd, name: &str) -> Option<i32> {
    row(containerd, name)?.get(1)?.parse().ok()
}

pub(crate) fn status(containerd: &Containerd, name: &str) -> String {
    row(containerd, name).and_then(|row| row.get(2).cloned()).unwrap_or_default()
}

/// What containerd lists of a task: its name, the pid of its init, its status.
fn row(containerd: &Containerd, name: &str) -> Option<Vec<String>> {
    let table = containerd.ctr(&["tasks", "ls"]).ok().stdout;
    let mut rows = table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.find(|row| row.first().is_some_and(|first| first == name))
}

#[test]
fn run_in_the_foreground_gives_output_and_status() {
    let place = Place::new();
    let containerd = containerd(&place);
    let out = containerd
        .ctr(&["run", "--rm", "--runtime", &Containerd::runtime(), IMAGE, "one", "/probe", "say", "hello"])
        .ok();
    assert_eq!(out.stdout, "hello\n");
    let out = containerd
        .ctr(&["run", "--rm", "--runtime", &Containerd::runtime(), IMAGE, "two", "/probe", "complain", "hello"])
        .ok();
    assert_eq!(out.stderr, "hello\n");
    containerd
        .ctr(&["run", "--rm", "--runtime", &Containerd::runtime(), IMAGE, "three", "/probe", "exit", "42"])
        .is(42);
    let report = containerd
        .ctr(&["run", "--rm", "--runtime", &Containerd::runtime(), IMAGE, "four", "/probe", "report"])
        .ok()
        .report();
    assert_eq!(report.pid, 1);
    assert_eq!(report.processes.len(), 1);
    assert_eq!(containerd.ctr(&["tasks", "ls", "-q"]).ok().stdout, "");
}

#[test]
fn nothing_is_lost_of_a_flood() {
    let place = Place::new();
    let containerd = containerd(&place);
    let out = containerd
        .ctr(&["run", "--rm", "--runtime", &Containerd::runtime(), IMAGE, "flood", "/probe", "flood", "100000"])
        .ok();
    assert_eq!(out.stdout.lines().count(), 100_000);
    assert_eq!(out.stdout.lines().last(), Some("line 99999"));
}

/// A program that logs to a file; `ready` is how it says that it is ready. It ends with its input.
fn logger(place: &Place, ready: &str) -> (PathBuf, PathBuf) {
    let (logger, log) = (place.dir.join("logger"), place.dir.join("logged"));
    let script = format!(
        "#!/bin/sh\necho \"$1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE\" >{0}\n{ready}\ncat <&3 >>{0}\ncat <&4 >>{0}\necho end >>{0}\n",
        log.display()
    );
    std::fs::write(&logger, script).unwrap();
    std::fs::set_permissions(&logger, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (logger, log)
}

#[test]
fn a_program_that_logs_has_to_say_that_it_is_ready_where_that_was_agreed() {
    let place = Place::new();
    let containerd = containerd(&place);
    let (program, _) = logger(&place, "exec 5>&-");
    let uri = format!("binary-v2://{}", program.display());
    let run = |id| {
        containerd.ctr(&[
            "run",
            "-d",
            "--runtime",
            &Containerd::runtime(),
            "--log-uri",
            &uri,
            IMAGE,
            id,
            "/probe",
            "say",
            "heard",
        ])
    };
    run("mute").refused(&["logging binary did not call ready"]);
    containerd.ctr(&["containers", "delete", "mute"]).ok();
    let (_, log) = logger(&place, "printf r >&5; exec 5>&-");
    run("web").ok();
    assert!(wait::file(&log, LIMIT, |text| text.ends_with("heard\nend\n")), "{}", containerd.said());
    containerd.ctr(&["tasks", "delete", "--force", "web"]).ok();
    containerd.ctr(&["containers", "delete", "web"]).ok();
}

#[test]
fn output_goes_to_a_program_that_logs() {
    let place = Place::new();
    let containerd = containerd(&place);
    // Closing the descriptor is enough here.
    let (logger, log) = logger(&place, "exec 5>&-");
    let uri = format!("binary://{}?key=value", logger.display());
    let run = ["run", "-d", "--runtime", &Containerd::runtime(), "--log-uri", &uri, IMAGE, "web"];
    let flood = ["/probe", "flood", "1000", "both"];
    containerd.ctr(&[&run[..], &flood].concat()).ok();
    let whole = |text: &str| text.ends_with("end\n");
    assert!(wait::file(&log, LIMIT, whole), "{:?}\n{}", std::fs::read_to_string(&log), containerd.said());
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().next(), Some(format!("key value web {}", containerd.id).as_str()));
    let count = |prefix| text.lines().filter(|line| line.starts_with(prefix)).count();
    assert_eq!((count("line "), count("error ")), (1000, 1000));
    containerd.ctr(&["tasks", "delete", "--force", "web"]).ok();
    containerd.ctr(&["containers", "delete", "web"]).ok();
}

#[test]
fn output_goes_to_whatever_a_file_uri_names() {
    let place = Place::new();
    let containerd = containerd(&place);
    let run = |id: &str, uri: &str| {
        let run = ["run", "-d", "--runtime", &Containerd::runtime(), "--log-uri", uri, IMAGE, id, "/probe", "say", id];
        containerd.ctr(&run)
    };
    run("nowhere", "file:///dev/null").ok();
    let fifo = place.dir.join("fifo");
    command::tool("mkfifo", &[&fifo]).ok();
    let uri = format!("file://{}", fifo.display());
    run("deaf", &uri).refused(&["nobody reads there"]);
    containerd.ctr(&["containers", "delete", "deaf"]).ok();
    // With a reader it is as good as a file.
    let reader = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    run("heard", &uri).ok();
    let mut heard = [0_u8; 6];
    assert!(wait::readable(std::os::fd::AsFd::as_fd(&reader), LIMIT));
    std::io::Read::read_exact(&mut &reader, &mut heard).unwrap();
    assert_eq!(&heard, b"heard\n");
    for id in ["nowhere", "heard"] {
        containerd.ctr(&["tasks", "delete", "--force", id]).ok();
        containerd.ctr(&["containers", "delete", id]).ok();
    }
}

#[test]
fn the_whole_life_of_a_detached_container() {
    let place = Place::new();
    let containerd = containerd(&place);
    web(&containerd);

    let exec = |id: &str, words: &[&str]| {
        let mut args = vec!["tasks", "exec", "--exec-id", id, "web"];
        args.extend(words);
        containerd.ctr(&args)
    };
    assert_eq!(exec("e1", &["/probe", "say", "inside"]).ok().stdout, "inside\n");
    exec("e2", &["/probe", "exit", "7"]).is(7);
    let report = exec("e3", &["/probe", "report"]).ok().report();
    assert_eq!(report.processes.get(&1).map(String::as_str), Some("probe"));

    containerd.ctr(&["tasks", "pause", "web"]).ok();
    assert_eq!(status(&containerd, "web"), "PAUSED");
    containerd.ctr(&["tasks", "resume", "web"]).ok();
    assert_eq!(status(&containerd, "web"), "RUNNING");

    let metrics = containerd.ctr(&["tasks", "metrics", "web"]).ok().stdout;
    assert!(metrics.contains("memory") && metrics.contains("pids"), "{metrics}");
    let pids = containerd.ctr(&["tasks", "ps", "web"]).ok().stdout;
    assert_eq!(pids.lines().count(), 2, "{pids}");

    // ctr tells the status of a detached task's end only as an event.
    let events = Files::new(&place.dir, "events");
    let mut listen = containerd.ctr_command(&["events"]);
    events.attach(&mut listen);
    let mut listen = listen.spawn().unwrap();
    let mut n = 10;
    let listens = wait::until(Duration::from_millis(20), LIMIT, || {
        n += 1;
        exec(&format!("e{n}"), &["/probe", "exit", "0"]).ok();
        std::fs::read_to_string(&events.stdout).unwrap().contains("/tasks/exec-started").then_some(())
    });
    assert!(listens.is_some());
    containerd.ctr(&["tasks", "kill", "-s", "SIGINT", "web"]).ok();
    let told = wait::file(&events.stdout, LIMIT, |text| {
        text.lines()
            .any(|l| l.contains("/tasks/exit") && l.contains("\"id\":\"web\"") && l.contains("\"exit_status\":2"))
    });
    let _ = listen.kill();
    let _ = listen.wait();
    assert!(told, "{}", std::fs::read_to_string(&events.stdout).unwrap());
    let stopped =
        wait::until(Duration::from_millis(20), LIMIT, || (status(&containerd, "web") == "STOPPED").then_some(()));
    assert!(stopped.is_some(), "{}", containerd.said());
    containerd.ctr(&["tasks", "delete", "web"]).ok();
    containerd.ctr(&["containers", "delete", "web"]).ok();
    let quiet = || {
        integration::leak::processes(&place.id).iter().all(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !String::from_utf8_lossy(&line).contains("shim-tare")
        })
    };
    let gone = wait::until(Duration::from_millis(20), LIMIT, || quiet().then_some(()));
    assert!(gone.is_some(), "the shim ends with its container");
}

#[test]
fn a_terminal_in_the_foreground() {
    let place = Place::new();
    let containerd = containerd(&place);
    let pty = Pty::open();
    pty.terminal.resize(35, 95);
    let args = ["run", "--rm", "-t", "--runtime", &Containerd::runtime(), IMAGE, "tty", "/probe", "tty"];
    let mut run = pty.spawn(&mut containerd.ctr_command(&args), &place.id);
    let mut terminal = pty.terminal;
    let seen = terminal.sees("}").to_owned();
    assert!(seen.contains("\"tty\":[true,true,true]"), "{seen}");
    assert_eq!(command::code(run.wait().unwrap()), 0);
}

#[test]
fn a_terminal_takes_what_is_typed_and_resizes() {
    let place = Place::new();
    let containerd = containerd(&place);
    let pty = Pty::open();
    let args = ["run", "--rm", "-t", "--runtime", &Containerd::runtime(), IMAGE, "tty"];
    let mut run = pty.spawn(&mut containerd.ctr_command(&args), &place.id);
    let mut terminal = pty.terminal;
    terminal.sees("ready");
    // ctr asks for the size first and listens for changes after that: one that comes in between is lost to it.
    let mut rows = 30;
    let resized = wait::until(Duration::from_millis(100), LIMIT, || {
        rows += 1;
        terminal.resize(rows, 96);
        terminal.peek().contains("SIGWINCH").then_some(())
    });
    assert!(resized.is_some(), "{}", terminal.peek());
    terminal.types("\u{3}");
    terminal.sees("SIGINT");
    assert_eq!(command::code(run.wait().unwrap()), 2);
}

#[test]
fn containers_go_on_when_containerd_dies_and_comes_back() {
    let place = Place::new();
    let mut containerd = containerd(&place);
    web(&containerd);
    containerd.crash();
    containerd.up();
    assert_eq!(status(&containerd, "web"), "RUNNING");
    let out = containerd.ctr(&["tasks", "exec", "--exec-id", "e", "web", "/probe", "say", "still here"]).ok();
    assert_eq!(out.stdout, "still here\n");
    containerd.ctr(&["tasks", "kill", "-s", "SIGTERM", "web"]).ok();
    let stopped =
        wait::until(Duration::from_millis(20), LIMIT, || (status(&containerd, "web") == "STOPPED").then_some(()));
    assert!(stopped.is_some());
    containerd.ctr(&["tasks", "delete", "web"]).ok();
    containerd.ctr(&["containers", "delete", "web"]).ok();
}

#[test]
fn an_end_while_containerd_is_away_is_not_lost() {
    let place = Place::new();
    let mut containerd = containerd(&place);
    web(&containerd);
    let pid = pid(&containerd, "web").unwrap();
    containerd.crash();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(wait::exited(pid, LIMIT));
    containerd.up();
    let stopped =
        wait::until(Duration::from_millis(20), LIMIT, || (status(&containerd, "web") == "STOPPED").then_some(()));
    assert!(stopped.is_some(), "{}", containerd.said());
    containerd.ctr(&["tasks", "delete", "web"]).ok();
    containerd.ctr(&["containers", "delete", "web"]).ok();
}

#[test]
fn what_the_runtime_refuses_is_told() {
    let place = Place::new();
    let containerd = containerd(&place);
    let out = containerd.ctr(&["run", "--rm", "--runtime", &Containerd::runtime(), IMAGE, "none", "/no/such/program"]);
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("/no/such/program"), "{out}");
    assert_eq!(containerd.ctr(&["tasks", "ls", "-q"]).ok().stdout, "");
    let _ = containerd.ctr(&["containers", "delete", "none"]);
}

#[test]
fn ten_at_once() {
    let place = Place::new();
    let containerd = containerd(&place);
    let mut running = Vec::new();
    for n in 0..10 {
        let name = format!("c{n}");
        let args = ["run", "--rm", "--runtime", &Containerd::runtime(), IMAGE, &name, "/probe", "exit", &n.to_string()];
        let mut command = containerd.ctr_command(&args);
        let files = Files::new(&place.dir, &name);
        files.attach(&mut command);
        running.push((command.spawn().unwrap(), files));
    }
    for (n, (child, files)) in running.iter_mut().enumerate() {
        assert!(wait::exited(child.id() as i32, LIMIT), "c{n} hangs");
        let said = std::fs::read_to_string(&files.stderr).unwrap();
        assert_eq!(command::code(child.wait().unwrap()), n as i32, "c{n}: {said}");
    }
    assert_eq!(containerd.ctr(&["tasks", "ls", "-q"]).ok().stdout, "");
}

#[test]
fn a_kill_for_memory_is_told() {
    let place = Place::new();
    if !integration::cgroups::has("memory") {
        integration::skip!("there is no memory controller");
    }
    let containerd = containerd(&place);
    let events = Files::new(&place.dir, "events");
    let mut listen = containerd.ctr_command(&["events"]);
    events.attach(&mut listen);
    let mut listen = listen.spawn().unwrap();
    let runtime = Containerd::runtime();
    let told = |words: &str| std::fs::read_to_string(&events.stdout).unwrap().contains(words);
    // ctr does not say when it listens: a container until one is heard of.
    let mut n = 0;
    let listens = wait::until(Duration::from_millis(20), LIMIT, || {
        n += 1;
        containerd.ctr(&["run", "--rm", "--runtime", &runtime, IMAGE, &format!("c{n}"), "/probe", "exit", "0"]).ok();
        told("/tasks/start").then_some(())
    });
    assert!(listens.is_some());
    let hungry = "x=a; while :; do x=$x$x; done";
    let limit = ["run", "--rm", "--memory-limit", "16777216", "--runtime", &runtime, IMAGE, "hungry"];
    containerd.ctr(&[&limit[..], &["/bin/sh", "-c", hungry]].concat()).is(137);
    let heard = wait::file(&events.stdout, LIMIT, |text| {
        text.lines().any(|line| line.contains("/tasks/oom") && line.contains("\"container_id\":\"hungry\""))
    });
    let _ = listen.kill();
    let _ = listen.wait();
    assert!(heard, "{}", std::fs::read_to_string(&events.stdout).unwrap());
}
