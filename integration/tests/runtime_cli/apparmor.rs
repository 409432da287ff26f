//! AppArmor profiles. Needs a host that has AppArmor (`hack/vm`).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::case::Case;
use integration::{not_on, skip};
use serde_json::json;

/// A profile of the test's own, in the kernel until it is dropped.
struct Profile(String);

impl Profile {
    /// Allows everything but writing to `/guarded`.
    fn load(id: &str) -> Self {
        let name = format!("{id}-profile");
        let rules = "file, capability, network, mount, umount, pivot_root, signal, ptrace, unix, deny /guarded w,";
        let rules = rules.replace(", ", ",\n  ");
        let profile = Self(name);
        profile.parser("-r", &format!("profile {} flags=(attach_disconnected) {{\n  {rules}\n}}\n", profile.0));
        profile
    }

    fn parser(&self, flag: &str, text: &str) {
        let path = std::env::temp_dir().join(&self.0);
        fs::write(&path, text).unwrap();
        let status = Command::new("apparmor_parser").arg(flag).arg("-K").arg(&path).stderr(Stdio::inherit()).status();
        fs::remove_file(path).unwrap();
        assert!(status.unwrap().success());
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("-R", &format!("profile {} {{}}\n", self.0));
    }
}

macro_rules! needs_apparmor {
    () => {
        if !Path::new("/sys/kernel/security/apparmor/profiles").exists() {
            skip!("this machine has no AppArmor");
        }
    };
}

#[test]
fn a_profile_holds_for_the_process_and_for_exec() {
    needs_apparmor!();
    let mut case = Case::new();
    let profile = Profile::load(&case.id);
    fs::write(case.rootfs().join("guarded"), "").unwrap();
    fs::write(case.rootfs().join("open"), "").unwrap();
    case.spec["process"]["apparmorProfile"] = json!(profile.0);
    case.hold();
    let name = fs::read_to_string(format!("/proc/{}/attr/current", case.pid())).unwrap();
    assert_eq!(name.trim(), format!("{} (enforce)", profile.0));
    case.exec_attempts(&[
        ("read /proc/self/attr/current", Ok(&*format!("{} (enforce)", profile.0))),
        ("write /guarded x", Err("EACCES")),
        ("write /open x", Ok("")),
    ]);
}

#[test]
fn exec_can_choose_another_profile() {
    needs_apparmor!();
    let case = Case::new();
    let profile = Profile::load(&case.id);
    case.hold();
    let out = case.exec_with(&["--apparmor", &profile.0], &["/probe", "try", "read /proc/self/attr/current"]);
    assert!(out.ok().stdout.contains(&format!("{} (enforce)", profile.0)));
    let out = case.exec(&["/probe", "try", "read /proc/self/attr/current"]);
    assert!(out.ok().stdout.contains("unconfined"));
}

#[test]
fn a_profile_that_is_not_loaded_is_refused() {
    needs_apparmor!();
    let mut case = Case::new();
    not_on!(case, "crun", "tells of it on start");
    case.spec["process"]["apparmorProfile"] = json!("tare-no-such-profile");
    case.create().refused(&["apparmor", "tare-no-such-profile"]);
    case.nothing_left();
}
