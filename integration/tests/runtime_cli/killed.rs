//! SIGKILL to the runtime, or to what it makes, before any of their steps: the next `delete --force` leaves nothing, the
//! container's id is free again, and who lives on says in one line what happened. And several creators of one id.

use std::process::Command;

use integration::case::Case;
use integration::command::{LIMIT, Out};
use integration::programs::{self, Kind};
use integration::{leak, not_on, skip, wait};

/// Steps there are, at the most: the count ends where a run is over before its step comes.
const ENDLESS: u64 = 10_000;

/// Runs the verb and kills `side` before its step `n`; `flags` are stalk's. None where it has fewer.
fn stalk(case: &Case, side: &str, n: u64, flags: &[&str], verb: &[&str]) -> Option<Out> {
    let ours = case.command();
    let mut command = Command::new(programs::stalk());
    command.arg(side).arg(n.to_string()).args(flags);
    if verb[0] == "exec" {
        // What it makes ends by itself, and has to be reaped: until then the kernel keeps the container's PID 1 waiting.
        command.arg("--all");
    }
    command.arg("--").arg(ours.get_program()).args(ours.get_args()).args(verb);
    command.env("TARE_TEST", &case.id).stdin(case.stdin());
    let out = case.finish(&mut command, &case.files());
    if out.stdout.contains("not reached") {
        assert_eq!(out.code, 0, "the verb works when nobody is killed: {out}");
        return None;
    }
    // 137 is the status of the process itself, from when it may be the program: nothing else happened then.
    if side == "inside" && out.code != 0 && out.code != 137 {
        assert_eq!(out.stderr.lines().count(), 1, "one line says what happened: {out}");
    }
    Some(out)
}

/// Kills before every step (or each of a `stride`), one run each; `before` puts in place what the verb needs and returns init
/// if that is stalked, `after` cleans up and looks.
fn each_step(
    case: &Case,
    (side, stride): (&str, usize),
    verb: &[&str],
    before: impl Fn() -> Option<i32>,
    after: impl Fn(&Out),
) {
    for n in (0..ENDLESS).step_by(stride) {
        let init = before().map(|pid| pid.to_string());
        let flags: &[&str] = if let Some(init) = &init { &["--init", init] } else { &[] };
        let Some(out) = stalk(case, side, n, flags, verb) else {
            assert!(n > 0, "no step was found on the {side} of {verb:?}");
            println!("{side} of {}: fewer than {} steps", verb[0], n + 1);
            // What is there now is whole: it is deleted as any container.
            gone(case, &format!("{verb:?} whole"));
            return;
        };
        after(&out);
    }
    panic!("no end of steps");
}

/// Deletes by force, and requires that nothing is left.
fn gone(case: &Case, what: &str) {
    let out = case.call(&["delete", "--force", &case.id]);
    assert_eq!((out.code, &*out.stderr), (0, ""), "{what}: {out}");
    for pid in leak::processes(&case.id) {
        // One that nobody could know of yet ends by itself, when it learns that its maker is dead.
        assert!(wait::exited(pid, LIMIT), "{what}: process {pid} lives on");
        leak::reap(pid);
    }
    let left: Vec<String> = leak::find(&case.id);
    assert!(left.is_empty(), "{what}: left behind:\n{}", left.join("\n"));
    let mut files: Vec<_> =
        std::fs::read_dir(case.state_dir()).into_iter().flatten().flatten().map(|e| e.path()).collect();
    // crun keeps one there for masks, which belongs to no container.
    files.retain(|path| !path.ends_with(".empty-directory"));
    assert!(files.is_empty(), "{what}: {files:?}");
}

macro_rules! ours_alone {
    ($case:expr) => {
        if $case.runtime.kind != Kind::Tare {
            skip!("{}: its steps are not counted, it has threads or leaves cgroups behind", $case.runtime.name);
        }
    };
}

/// Of a creation: what init does is the same whoever makes the cgroup.
fn sides() -> &'static [&'static str] {
    if integration::cgroups::by_systemd() { &["outside"] } else { &["outside", "inside"] }
}

fn bundle(case: &Case) -> String {
    case.bundle().to_str().unwrap().to_owned()
}

#[test]
fn create_killed_at_any_step() {
    let case = Case::new();
    ours_alone!(case);
    case.subreaper();
    case.write();
    let verb = ["create", "--bundle", &bundle(&case), &case.id];
    for &side in sides() {
        each_step(&case, (side, 1), &verb, || None, |out| gone(&case, &format!("create, {side} killed: {out}")));
    }
}

#[test]
fn create_with_a_user_namespace_killed_at_any_step() {
    let mut case = Case::new();
    ours_alone!(case);
    case.user_namespace();
    // With a namespace to join there is a waypoint as well.
    case.namespace("uts", Some(&format!("/proc/{}/ns/uts", std::process::id())));
    case.spec["hostname"] = serde_json::Value::Null;
    case.subreaper();
    case.write();
    let verb = ["create", "--bundle", &bundle(&case), &case.id];
    for &side in sides() {
        each_step(&case, (side, 3), &verb, || None, |out| gone(&case, &format!("create, {side} killed: {out}")));
    }
}

#[test]
fn start_killed_at_any_step() {
    let case = Case::new();
    ours_alone!(case);
    let verb = ["start", &case.id];
    for side in ["outside", "inside"] {
        let create = || {
            case.create().ok();
            Some(case.pid())
        };
        each_step(&case, (side, 1), &verb, create, |out| {
            match (side, &*case.status()) {
                // It can be started still, unless it just starts.
                ("outside", "created") => {
                    let again = case.start();
                    let late = ["already running", "no longer waits"].iter().any(|text| again.stderr.contains(text));
                    assert!(again.code == 0 || late, "{again}");
                    case.says("ready");
                }
                ("outside", "running") => case.says("ready"),
                ("inside", "stopped") => {}
                (_, status) => panic!("{status}: {out}"),
            }
            gone(&case, &format!("start, {side} killed: {out}"));
        });
    }
}

#[test]
fn exec_killed_at_any_step() {
    let case = Case::new();
    ours_alone!(case);
    case.hold();
    let verb = ["exec", &case.id, "/probe", "exit", "0"];
    for side in ["outside", "inside"] {
        for n in 0..ENDLESS {
            let Some(out) = stalk(&case, side, n, &[], &verb) else {
                assert!(n > 0, "no step was found on the {side} of exec");
                println!("{side} of exec: {n} steps");
                break;
            };
            assert!(out.code != 0, "{out}");
            assert_eq!(case.status(), "running", "{out}");
        }
    }
    gone(&case, "after exec");
}

#[test]
fn exec_into_a_container_that_is_killed_meanwhile() {
    let case = Case::new();
    ours_alone!(case);
    let verb = ["exec", &case.id, "/probe", "exit", "0"];
    for n in 0..ENDLESS {
        case.hold();
        let init = case.pid().to_string();
        let out = stalk(&case, "outside", n, &["--instead", &init], &verb);
        let Some(out) = out else {
            assert!(n > 0, "no step was found");
            gone(&case, "after exec");
            return;
        };
        // It came before the end, or ended with the container, or was too late.
        let late = out.code == 255 && out.stderr.ends_with(": cannot exec in a stopped container\n");
        assert!(late || matches!(out.code, 0 | 137), "{out}");
        gone(&case, "exec into what is killed");
    }
}

#[test]
fn delete_killed_at_any_step() {
    let case = Case::new();
    ours_alone!(case);
    let verb = ["delete", "--force", &case.id];
    let run = || {
        case.run_detached(&[]).ok();
        None
    };
    each_step(&case, ("outside", 1), &verb, run, |out| gone(&case, &format!("delete, killed: {out}")));
}

#[test]
fn run_killed_at_any_step() {
    let mut case = Case::new();
    ours_alone!(case);
    case.args(&["/probe", "exit", "0"]);
    case.subreaper();
    case.write();
    let verb = ["run", "--bundle", &bundle(&case), &case.id];
    // Most of it is create's story, whose every step is tried above.
    each_step(&case, ("outside", 3), &verb, || None, |out| gone(&case, &format!("run, killed: {out}")));
}

#[test]
fn of_many_creators_of_one_id_one_wins() {
    let case = Case::new();
    not_on!(case, "runc version 1.1", "two of them win");
    case.subreaper();
    case.write();
    for _ in 0..4 {
        let outs: Vec<Out> = std::thread::scope(|scope| {
            let one = |n: usize| {
                let files = integration::command::Files::new(&case.dir, &format!("creator{n}"));
                let mut command = case.command();
                command.args(["create", "--bundle", &bundle(&case), &case.id]);
                move || integration::command::run(&mut command, &files)
            };
            let all: Vec<_> = (0..6).map(|n| scope.spawn(one(n))).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners = outs.iter().filter(|out| out.code == 0).count();
        assert_eq!(winners, 1, "{}", outs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        if case.runtime.kind == Kind::Tare {
            for out in outs.into_iter().filter(|out| out.code != 0) {
                out.refused(&["container with given ID already exists"]);
            }
        }
        assert_eq!(case.status(), "created");
        gone(&case, "after the creators");
    }
}
