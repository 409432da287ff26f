//! SIGKILL to the caller or the monitor before any of their steps, a full disk, peers that mean harm, and many at once: the
//! container lives or its end is recorded, and nothing is left after it is removed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use integration::command::{LIMIT, Out};
use integration::processor::used_in_a_second;
use integration::{programs, wait};

use crate::Solo;

/// Kills `side` of `shim run -d` before its step `n`. `None` where it has fewer.
fn stalked(solo: &Solo, side: &str, n: usize) -> Option<Out> {
    let ours = solo.run_command(&["-d"]);
    let mut command = Command::new(programs::stalk());
    command.arg(side).arg(n.to_string()).arg("--").arg(ours.get_program()).args(ours.get_args());
    command.env("TARE_TEST", &solo.case.id).stdin(solo.case.stdin());
    let out = solo.case.finish(&mut command, &solo.case.files());
    (!out.stdout.contains("not reached")).then_some(out)
}

#[test]
fn a_container_that_closes_its_streams_costs_nothing() {
    for flags in [&["-d", "-i"][..], &["-d", "-it"]] {
        let solo = Solo::running(&["/probe", "aloof"]);
        solo.run(flags).ok();
        solo.logged("ready");
        let used = used_in_a_second(solo.monitor());
        assert!(used < 10, "{flags:?}: {used} hundredths of a second");
    }
}

/// Every `stride`-th step of the side, one container each.
fn killed_at_each_step(side: &str, stride: usize) {
    let solo = Solo::new();
    for n in (0..10_000).step_by(stride) {
        let Some(out) = stalked(&solo, side, n) else {
            assert!(n > 1, "no step was found");
            println!("{side} of run: fewer than {} steps", n + 1);
            solo.shim(&["rm", "-f", solo.name()]).ok();
            solo.gone();
            return;
        };
        // Whoever lists containers sees it or not, but is not confused.
        solo.shim(&["ps", "-a"]).ok();
        if solo.ps().is_some_and(|line| line.contains("Up ") && !line.contains("monitor lost")) {
            if solo.shim(&["exec", solo.name(), "/probe", "say", "there"]).code == 0 {
                // It lives: all works as if nobody had been killed.
                solo.shim(&["stop", solo.name()]).ok();
                assert_eq!(solo.exit_json()["code"], 0, "step {n}: {out}");
            } else {
                // It was the container's own init that was killed.
                assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "137\n", "step {n}: {out}");
            }
        }
        let removed = solo.shim(&["rm", "-f", solo.name()]);
        assert!(removed.code == 0 || removed.stderr.contains("no such container"), "step {n}: {out}\n{removed}");
        if solo.ps().is_none() && removed.code != 0 {
            // Killed before it had a name: what it had begun is swept by the next who looks for it by nobody's name.
            fs::read_dir(solo.case.dir.join("containers")).into_iter().flatten().flatten().for_each(|entry| {
                assert!(entry.file_name().to_string_lossy().starts_with('.'), "step {n}: {entry:?}");
                fs::remove_dir_all(entry.path()).unwrap();
            });
        }
        solo.gone();
    }
    panic!("no end of steps");
}

#[test]
fn the_caller_is_killed() {
    killed_at_each_step("outside", 1);
}

/// And whatever it makes: the runtime at its work, the container's init.
#[test]
fn the_monitor_is_killed() {
    killed_at_each_step("inside", 5);
}

#[test]
fn a_client_in_the_foreground_is_killed() {
    let solo = Solo::new();
    let files = solo.case.files();
    let mut command = solo.run_command(&["-i"]);
    files.attach(&mut command);
    let mut client = command.spawn().unwrap();
    solo.logged("ready");
    client.kill().unwrap();
    client.wait().unwrap();
    solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
    solo.logged("SIGUSR1");
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 0);
}

/// A small file system over the container directories.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(solo: &Solo, size: &str) -> Self {
        let at = solo.case.dir.join("containers");
        fs::create_dir_all(&at).unwrap();
        let options = format!("size={size},mode=700");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_costs_output_and_says_so() {
    let solo = Solo::running(&["/probe", "flood", "200000"]);
    let small = Small::mount(&solo, "2m");
    solo.run(&["-d"]).ok();
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "0\n", "the container does not notice");
    assert_eq!(solo.exit_json()["code"], 0, "its end is recorded");
    let log = fs::read_to_string(solo.case.dir.join("containers").join(solo.name()).join("log")).unwrap();
    // The next line's number, how much of the output came before it, and how much of that the log lacks and says so.
    let (mut next, mut lost, mut kept) = (0_u32, 0, 0);
    for record in log.lines() {
        let record: serde_json::Value = serde_json::from_str(record).expect("what is kept is whole");
        let text = record["log"].as_str().unwrap();
        if record["stream"] == "stderr" {
            let bytes = text.strip_prefix("[log: ").and_then(|text| text.split(' ').next()).unwrap();
            lost += bytes.parse::<usize>().unwrap();
            continue;
        }
        let number: u32 = text.strip_prefix("line ").and_then(|text| text.trim_end().parse().ok()).unwrap();
        let missing: usize = (next..number).map(|number| format!("line {number}\n").len()).sum();
        assert_eq!(
            lost, missing,
            "before line {number}: what is told is what is missing, and comes before what follows"
        );
        (next, lost, kept) = (number + 1, 0, kept + 1);
    }
    assert!(kept > 1000, "{kept} lines");
    // What came at last may be told of, if there was room for that.
    let missing: usize = (next..200_000).map(|number| format!("line {number}\n").len()).sum();
    assert!(lost == 0 || lost == missing, "{lost} told, {missing} missing");
    let said = solo.shim(&["logs", solo.name()]).ok().stdout;
    assert!(said.starts_with("line 0\nline 1\n") && said.lines().count() == kept);
    solo.shim(&["rm", solo.name()]).ok();
    drop(small);
}

#[test]
fn a_disk_with_room_again_tells_what_was_lost() {
    let solo = Solo::new();
    let small = Small::mount(&solo, "1m");
    let ballast = solo.case.dir.join("containers/.ballast");
    solo.hold();
    // All that is left, to the last byte.
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0; 1]).is_ok() {}
    drop(file);
    for _ in 0..150 {
        solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
    }
    fs::remove_file(&ballast).unwrap();
    solo.shim(&["kill", "-s", "USR2", solo.name()]).ok();
    solo.logged("SIGUSR2");
    let log = solo.shim(&["logs", solo.name()]).ok();
    assert!(log.stderr.contains("lost"), "{log}");
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 0);
    solo.shim(&["rm", solo.name()]).ok();
    drop(small);
}

#[test]
fn hostile_peers_harm_nobody() {
    let solo = Solo::new();
    solo.hold();
    let socket = solo.case.dir.join("run").join(solo.name()).join("attach");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(socket.parent().unwrap()).unwrap().permissions());
    assert_eq!(mode & 0o77, 0, "only its owner reaches the socket");
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    };
    for hostile in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        // Frames that are too large, or of no known type, or come without a greeting.
        &[0x01, 0xff, 0xff, 0xff, 0xff],
        &[0x02, 1, 0, 1, 0],
        &[0x7f, 0, 0, 0, 0],
        &[0x04, 4, 0, 0, 0, 1, 0, 1, 0],
        &[0x01, 1, 0, 0, 0, 1, 0x01, 1, 0, 0, 0, 1],
        &[0x01, 1, 0, 0, 0, 1, 0x81, 1, 0, 0, 0, 1],
        &[0x01, 1, 0, 0, 0, 1, 0x05, 1, 0, 0, 0, 200],
    ] {
        let mut stream = connect();
        stream.write_all(hostile).unwrap();
        let mut rest = Vec::new();
        // It is disconnected, at once or after what it may still see.
        let end = stream.read_to_end(&mut rest);
        assert!(end.is_ok() || end.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset, "{hostile:?}");
    }
    // These say nothing, or half of something, or do not read.
    let silent: Vec<_> = (0..50).map(|_| connect()).collect();
    let mut half = connect();
    half.write_all(&[0x01, 1, 0]).unwrap();
    let mut deaf = connect();
    deaf.write_all(&[0x01, 1, 0, 0, 0, 1]).unwrap();
    let start = Instant::now();
    for n in 0..20 {
        assert_eq!(solo.shim(&["exec", solo.name(), "/probe", "say", &n.to_string()]).ok().stdout, format!("{n}\n"));
        solo.shim(&["kill", "-s", "USR1", solo.name()]).ok();
    }
    assert!(start.elapsed() < LIMIT);
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(solo.exit_json()["code"], 0);
    drop((silent, half, deaf));
}

#[test]
fn who_goes_on_writing_for_a_container_that_has_ended_is_not_waited_for() {
    let solo = Solo::new();
    let flags = ["-d", "--log-opt", "max-size=1m"];
    solo.run(&flags).ok();
    let state = fs::read_to_string(solo.case.dir.join("containers").join(solo.name()).join("state.json")).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&state).unwrap()["pid"].as_i64().unwrap();
    // Somebody outside, as another container that was passed the descriptor.
    let mut output = fs::File::options().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
    let text = vec![b'x'; 1 << 16];
    let writer = std::thread::spawn(move || while output.write_all(&text).is_ok() {});
    solo.shim(&["kill", "-s", "KILL", solo.name()]).ok();
    assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, "137\n");
    solo.shim(&["rm", solo.name()]).ok();
    solo.gone();
    writer.join().unwrap();
}

/// How many rounds each of the containers gets: 5, or as many as `TARE_TEST_ROUNDS` says in all.
fn rounds(containers: usize) -> usize {
    std::env::var("TARE_TEST_ROUNDS").ok().and_then(|all| all.parse::<usize>().ok()).map_or(5, |all| all / containers)
}

#[test]
fn many_rounds_of_start_exec_and_kill_at_once() {
    const CONTAINERS: usize = 20;
    let rounds = rounds(CONTAINERS);
    let name = |n: usize| format!("c{n}");
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..CONTAINERS)
            .map(|n| {
                scope.spawn(move || {
                    let solo = Solo::new();
                    solo.hold();
                    for round in 0..rounds {
                        let said = solo.shim(&["exec", solo.name(), "/probe", "say", &name(n)]).ok().stdout;
                        assert_eq!(said, format!("{}\n", name(n)), "round {round}");
                        solo.shim(&["exec", solo.name(), "/probe", "exit", "3"]).is(3);
                        let (signal, code) = if round % 2 == 0 { ("KILL", 137) } else { ("INT", 2) };
                        // Before it has said so it may not heed a signal yet.
                        let said = || solo.shim(&["logs", solo.name()]).ok().stdout.matches("ready").count() > round;
                        let ready = wait::until(Duration::from_millis(5), LIMIT, || said().then_some(()));
                        assert!(ready.is_some(), "round {round}");
                        solo.shim(&["kill", "-s", signal, solo.name()]).ok();
                        assert_eq!(solo.shim(&["wait", solo.name()]).ok().stdout, format!("{code}\n"), "round {round}");
                        solo.shim(&["start", solo.name()]).ok();
                    }
                    let pid = solo.monitor();
                    let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
                    assert!(open <= 16, "{open} descriptors");
                    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
                    assert!(children.split_whitespace().count() <= 1, "children of the monitor: {children}");
                    solo.shim(&["rm", "-f", solo.name()]).ok();
                    solo.gone();
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
    });
}
