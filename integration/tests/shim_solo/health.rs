//! Health checks, and what a service manager is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use integration::command::LIMIT;
use integration::wait;
use serde_json::{Value, json};

use crate::{Solo, over_others};

/// Succeeds once the container has a directory /state.
const CHECK: [&str; 5] = ["CMD", "/probe", "report", "--to", "/state/report"];
const QUICK: [&str; 7] = ["-d", "--health-interval", "50ms", "--health-retries", "2", "--stop-timeout", "0"];

fn checked(test: &[&str]) -> Solo {
    let mut solo = Solo::new();
    let check = json!({"Test": test}).to_string();
    solo.case.spec["annotations"]["org.tare.healthcheck"] = check.into();
    solo.case.spec["root"]["readonly"] = false.into();
    solo
}

fn inspect(solo: &Solo) -> Value {
    let list: Value = serde_json::from_str(&solo.shim(&["inspect", solo.name()]).ok().stdout).unwrap();
    list[0].clone()
}

#[track_caller]
fn becomes(solo: &Solo, health: &str) {
    let seen = wait::until(Duration::from_millis(10), LIMIT, || (inspect(solo)["health"] == health).then_some(()));
    assert!(seen.is_some(), "{}", inspect(solo));
}

#[test]
fn a_container_falls_ill_and_recovers() {
    let solo = checked(&CHECK);
    solo.run(&QUICK).ok();
    becomes(&solo, "unhealthy");
    let checks = inspect(&solo)["health_checks"].clone();
    assert!(checks["failing_streak"].as_u64() >= Some(2), "{checks}");
    assert_ne!(checks["log"][0]["exit_code"], 0, "{checks}");
    assert!(checks["log"][0]["output"].as_str().unwrap().contains("No such file"), "{checks}");
    assert!(solo.ps().unwrap().contains("(unhealthy)"), "{:?}", solo.ps());
    assert!(solo.shim(&["ps", "-q", "-f", "health=healthy"]).ok().stdout.is_empty());
    fs::create_dir(solo.case.rootfs().join("state")).unwrap();
    becomes(&solo, "healthy");
    assert_eq!(inspect(&solo)["health_checks"]["failing_streak"], 0);
    let well = solo.shim(&["ps", "-q", "-f", "health=healthy"]).ok().stdout;
    assert_eq!(well, format!("{}\n", solo.name()));
    // Frozen, it is not blamed for not answering.
    solo.shim(&["pause", solo.name()]).ok();
    solo.shim(&["unpause", solo.name()]).ok();
    becomes(&solo, "healthy");
    solo.shim(&["stop", solo.name()]).ok();
    assert_eq!(inspect(&solo)["health"], Value::Null);
}

#[test]
fn a_check_that_hangs_is_ended() {
    let solo = checked(&["CMD", "/probe", "wait"]);
    solo.run(&[&QUICK[..], &["--health-timeout", "100ms"]].concat()).ok();
    becomes(&solo, "unhealthy");
    let checks = inspect(&solo)["health_checks"].clone();
    assert_eq!(checks["log"][0]["exit_code"], -1);
    assert!(checks["log"][0]["output"].as_str().unwrap().contains("timeout"), "{checks}");
    // At most the one that is at work now.
    let processes = solo.shim(&["top", solo.name()]).ok().stdout;
    assert!(processes.matches("/probe wait").count() <= 1, "{processes}");
}

/// Lets a check leave three children behind, time after time.
fn leaves_nobody_behind(mut solo: Solo) {
    let check = json!({"Test": ["CMD", "/probe", "crowd", "3"]}).to_string();
    solo.case.spec["annotations"]["org.tare.healthcheck"] = check.into();
    solo.run(&[&QUICK[..], &["--health-timeout", "200ms"]].concat()).ok();
    let several = wait::until(Duration::from_millis(20), LIMIT, || {
        (inspect(&solo)["health_checks"]["failing_streak"].as_u64() >= Some(4)).then_some(())
    });
    assert!(several.is_some(), "{}", inspect(&solo));
    // Those of the one that is at work now may be there, and those that are just going.
    let children = || solo.shim(&["top", solo.name()]).ok().stdout.matches("/proc/self/exe wait").count();
    let few = wait::until(Duration::from_millis(10), LIMIT, || (children() <= 3).then_some(()));
    assert!(few.is_some(), "{}", solo.shim(&["top", solo.name()]));
    solo.shim(&["stop", solo.name()]).ok();
}

#[test]
fn a_check_that_hangs_is_ended_with_what_it_has_started() {
    leaves_nobody_behind(Solo::new());
}

#[test]
fn the_same_over_other_runtimes() {
    over_others(leaves_nobody_behind);
}

#[test]
fn a_check_at_work_does_not_outlive_its_container() {
    let solo = checked(&["CMD", "/probe", "wait"]);
    solo.run(&["--rm", "-d", "--health-interval", "10ms"]).ok();
    let checks = wait::until(Duration::from_millis(10), LIMIT, || {
        solo.shim(&["top", solo.name()]).stdout.contains("/probe wait").then_some(())
    });
    assert!(checks.is_some());
    solo.shim(&["kill", solo.name()]).ok();
    solo.gone();
}

#[test]
fn failures_do_not_count_in_the_beginning() {
    let solo = checked(&["CMD", "/probe", "exit", "1"]);
    let period = ["--health-start-period", "1h", "--health-start-interval", "10ms"];
    solo.run(&[&QUICK[..], &period].concat()).ok();
    let many = wait::until(Duration::from_millis(10), LIMIT, || {
        (inspect(&solo)["health_checks"]["log"].as_array().unwrap().len() == 5).then_some(())
    });
    assert!(many.is_some(), "{}", inspect(&solo));
    assert_eq!(inspect(&solo)["health"], "starting");
}

#[test]
fn the_command_line_goes_before_the_bundle() {
    let solo = checked(&["CMD", "/probe", "exit", "1"]);
    solo.run(&["-d", "--no-healthcheck"]).ok();
    assert_eq!(inspect(&solo)["options"]["health"], Value::Null);
    let solo = checked(&["CMD", "/probe", "exit", "1"]);
    solo.run(&["-d", "--health-cmd", "true it is"]).ok();
    assert_eq!(inspect(&solo)["options"]["health"]["test"], json!(["CMD-SHELL", "true it is"]));
    for (flags, words) in [
        (&["-d", "--health-interval", "often"][..], "often"),
        (&["-d", "--health-cmd", "x", "--health-interval", "1us"], "Interval in Healthcheck cannot be less than 1ms"),
        (&["-d", "--sdnotify", "nobody"], "nobody"),
    ] {
        let out = Solo::new().run(flags).is(125);
        assert!(out.stderr.contains(words), "{out}");
    }
    let solo = Solo::new();
    assert!(solo.run(&["-d", "--health-retries", "1"]).is(125).stderr.contains("--health-cmd"));
    assert!(solo.run(&["-d", "--sdnotify", "healthy"]).is(125).stderr.contains("--health-cmd"));
    let solo = checked(&["curl", "x"]);
    assert!(solo.run(&["-d"]).is(125).stderr.contains("CMD-SHELL"));
    assert_eq!(solo.ps(), None);
}

/// A service manager's socket, and the environment that names it.
fn manager(solo: &Solo) -> UnixDatagram {
    let path = solo.case.dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

#[track_caller]
fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    let count = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

fn run(solo: &Solo, flags: &[&str]) {
    let mut command = solo.run_command(flags);
    command.env("NOTIFY_SOCKET", solo.case.dir.join("notify"));
    integration::command::run(&mut command, &solo.case.files()).ok();
}

#[test]
fn the_service_manager_hears_of_the_start() {
    let solo = Solo::new();
    let socket = manager(&solo);
    run(&solo, &["-d", "--sdnotify", "shim"]);
    let text = told(&socket);
    let pid: i32 = text.strip_prefix("MAINPID=").unwrap().strip_suffix("\nREADY=1").unwrap().parse().unwrap();
    solo.shim(&["stop", solo.name()]).ok();
    assert!(wait::exited(pid, LIMIT), "the monitor is the main process");
}

#[test]
fn the_service_manager_hears_of_the_first_success() {
    let solo = checked(&CHECK);
    let socket = manager(&solo);
    run(&solo, &[&QUICK[..], &["--sdnotify", "healthy"]].concat());
    assert!(told(&socket).starts_with("MAINPID="));
    becomes(&solo, "unhealthy");
    fs::create_dir(solo.case.rootfs().join("state")).unwrap();
    assert!(told(&socket).contains("READY=1"));
}

#[test]
fn the_container_speaks_for_itself() {
    let mut solo = Solo::running(&["/probe", "notify", "READY=1\nMAINPID=1\nSTATUS=well"]);
    fs::create_dir_all(solo.case.rootfs().join("run/notify")).unwrap();
    solo.case.spec["process"]["env"] = json!(["NOTIFY_SOCKET=/nowhere"]);
    let socket = manager(&solo);
    run(&solo, &["-d", "--sdnotify", "container"]);
    assert!(told(&socket).starts_with("MAINPID="));
    // Which process is the main one is not for the container to say.
    assert_eq!(told(&socket), "READY=1\nSTATUS=well");
    solo.shim(&["wait", solo.name()]).ok();
}
