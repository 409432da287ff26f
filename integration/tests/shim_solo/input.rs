//! What is wrong is refused: one line, the right status, nothing left.

use std::fs;

use integration::command;
use serde_json::json;

use crate::Solo;

#[test]
fn a_name_in_use() {
    let solo = Solo::new();
    solo.hold();
    let out = solo.run(&["-d"]).is(125);
    assert!(out.stderr.contains(solo.name()) && out.stderr.lines().count() == 1, "{out}");
    assert!(solo.ps().unwrap().contains("Up "), "the first is unharmed");
}

#[test]
fn a_name_that_is_none() {
    let solo = Solo::new();
    solo.case.write();
    let bundle = solo.case.bundle();
    for name in ["", "a/b", "..", "-x", "a b", &"x".repeat(300)] {
        let out = solo.shim(&["run", "-d", &format!("--name={name}"), bundle.to_str().unwrap()]).is(125);
        assert_eq!(out.stderr.lines().count(), 1, "{out}");
    }
    solo.gone();
}

#[test]
fn a_bundle_that_is_not_there_or_broken() {
    let solo = Solo::new();
    let out = solo.shim(&["run", "-d", "--name", solo.name(), "/no/such/bundle"]).is(125);
    assert!(out.stderr.contains("/no/such/bundle") && out.stderr.lines().count() == 1, "{out}");
    let out = solo.shim(&["run", "-d", "--name", solo.name(), ""]).is(125);
    assert!(out.stderr.contains("BUNDLE is empty") && out.stderr.lines().count() == 1, "{out}");
    for text in ["", "{", "[]", "{\"process\": 7}"] {
        fs::write(solo.case.bundle().join("config.json"), text).unwrap();
        let bundle = solo.case.bundle();
        let out = solo.shim(&["run", "-d", "--name", solo.name(), bundle.to_str().unwrap()]).is(125);
        assert_eq!(out.stderr.lines().count(), 1, "{out}");
    }
    let config = solo.case.bundle().join("config.json");
    fs::remove_file(&config).unwrap();
    command::tool("mkfifo", &[&config]).ok();
    let bundle = solo.case.bundle();
    let out = solo.shim(&["run", "-d", "--name", solo.name(), bundle.to_str().unwrap()]).is(125);
    assert!(out.stderr.contains("it is not a file"), "nobody will ever write there: {out}");
    solo.gone();
}

#[test]
fn what_the_runtime_refuses() {
    let mut solo = Solo::new();
    solo.case.mount("/mnt/x", "nonsensefs", "none", &[]);
    let out = solo.run(&["-d"]).is(125);
    assert!(out.stderr.lines().count() == 1, "{out}");
    if !solo.case.runtime.is("runc") && !solo.case.runtime.is("crun") {
        assert!(out.stderr.contains("nonsensefs"), "{out}");
    }
    solo.gone();
}

#[test]
fn a_program_that_is_not_there() {
    let solo = Solo::running(&["/no/such/program"]);
    let out = solo.run(&["-d"]).is(127);
    assert!(out.stderr.contains("/no/such/program"), "{out}");
    solo.gone();
    let solo = Solo::running(&["/etc/passwd"]);
    solo.run(&[]).is(126);
    solo.gone();
}

#[test]
fn a_runtime_that_is_not_there() {
    let mut solo = Solo::new();
    let real = solo.case.runtime.binary.clone();
    solo.case.runtime.binary = "/no/such/runtime".into();
    let out = solo.run(&["-d"]).is(125);
    assert!(out.stderr.contains("/no/such/runtime") && out.stderr.lines().count() == 1, "{out}");
    solo.gone();
    solo.case.runtime.binary = real;
}

#[test]
fn a_container_that_is_not_there() {
    let solo = Solo::new();
    for words in [&["logs"][..], &["attach"], &["stop"], &["start"], &["wait"], &["rm"], &["kill"]] {
        let mut words = words.to_vec();
        words.push("nobody");
        let out = solo.shim(&words).is(1);
        assert!(out.stderr.contains("nobody") && out.stderr.lines().count() == 1, "{out}");
    }
    let out = solo.shim(&["exec", "nobody", "true"]);
    assert!(out.code != 0 && out.stderr.contains("nobody"), "{out}");
}

#[test]
fn who_looks_for_images_here_is_told_where_they_are() {
    let solo = Solo::new();
    let out = solo.shim(&["pull", "busybox"]).is(125);
    assert!(out.stderr.contains("imgtool's: imgtool --help"), "{out}");
    assert!(!solo.shim(&["nonsense"]).is(125).stderr.contains("imgtool"));
    let out = solo.shim(&["run", "-p", "80:80", "bundle"]).is(125);
    assert!(out.stderr.contains("imgtool bundle --help") && !out.stderr.contains("as a value"), "{out}");
}

#[test]
fn a_signal_that_is_none() {
    let solo = Solo::new();
    solo.hold();
    let out = solo.shim(&["kill", "-s", "NONSENSE", solo.name()]).is(1);
    assert!(out.stderr.contains("NONSENSE"), "{out}");
    assert!(solo.ps().unwrap().contains("Up "));
}

#[test]
fn a_stop_signal_that_is_none() {
    let mut solo = Solo::new();
    solo.case.spec["annotations"] = json!({ "org.opencontainers.image.stopSignal": "SIGNONSENSE" });
    let out = solo.run(&["-d"]).is(125);
    assert!(out.stderr.contains("SIGNONSENSE") && out.stderr.lines().count() == 1, "{out}");
    solo.gone();
}
