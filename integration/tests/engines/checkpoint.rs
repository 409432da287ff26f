//! A container that containerd has written to an image, and brought back.

use std::fs;
use std::time::Duration;

use integration::command::LIMIT;
use integration::peer::containerd::Containerd;
use integration::place::Place;
use integration::{criu, skip, wait};

use crate::containerd::{IMAGE, containerd, pid, status};

/// Counts, and writes down where it is: in memory, which goes to the image, unlike the root file system, and in a file that is
/// there at any moment.
const COUNT: &str = "exec >/dev/shm/count; n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done";

/// How far the container has counted.
fn count(containerd: &Containerd) -> Option<u32> {
    let pid = pid(containerd, "web")?;
    let text = fs::read_to_string(format!("/proc/{pid}/root/dev/shm/count")).ok()?;
    text.lines().last()?.parse().ok()
}

#[track_caller]
fn counts_beyond(containerd: &Containerd, least: u32) -> u32 {
    let found = wait::until(Duration::from_millis(20), LIMIT, || count(containerd).filter(|&count| count > least));
    found.unwrap_or_else(|| panic!("it does not count beyond {least}: {:?}", count(containerd)))
}

#[test]
fn a_container_becomes_an_image_and_goes_on_where_it_was() {
    if let Some(reason) = criu::lacks() {
        skip!("{reason}");
    }
    let place = Place::new();
    let containerd = containerd(&place);
    // criu asks the firewall to hold connections meanwhile, which needs one: here there are none.
    let config = place.dir.join("criu.conf");
    fs::write(&config, "network-lock skip\n").unwrap();
    let annotation = format!("org.criu.config={}", config.display());
    let mark = format!("TARE_TEST={}", place.id);
    let words = ["run", "-d", "--null-io", "--runtime", &Containerd::runtime(), "--annotation", &annotation];
    containerd.ctr(&[&words[..], &["--env", &mark, IMAGE, "web", "/bin/sh", "-c", COUNT]].concat()).ok();
    counts_beyond(&containerd, 20);

    // It goes on after the first, and ends with the second.
    containerd.ctr(&["containers", "checkpoint", "--task", "web", "kept:1"]).ok();
    assert_eq!(status(&containerd, "web"), "RUNNING");
    let before = counts_beyond(&containerd, 20);
    counts_beyond(&containerd, before);
    containerd.ctr(&["tasks", "kill", "-s", "KILL", "web"]).ok();
    let stopped =
        wait::until(Duration::from_millis(20), LIMIT, || (status(&containerd, "web") == "STOPPED").then_some(()));
    assert!(stopped.is_some(), "{}", status(&containerd, "web"));
    containerd.ctr(&["tasks", "rm", "web"]).ok();
    containerd.ctr(&["containers", "rm", "web"]).ok();

    containerd.ctr(&["containers", "restore", "--live", "web", "kept:1"]).ok();
    let again = counts_beyond(&containerd, 20);
    counts_beyond(&containerd, again);
    containerd.ctr(&["tasks", "kill", "-s", "KILL", "web"]).ok();
    let gone = wait::until(Duration::from_millis(20), LIMIT, || {
        matches!(status(&containerd, "web").as_str(), "STOPPED" | "").then_some(())
    });
    assert!(gone.is_some(), "{}", status(&containerd, "web"));
    let _ = containerd.ctr(&["tasks", "rm", "web"]);
    containerd.ctr(&["containers", "rm", "web"]).ok();
}
