//! Ways to the runtime's own binary, which runs on the host as root.

use std::fs;
use std::os::unix::fs::symlink;

use integration::case::Case;
use integration::programs::Runtime;
use serde_json::json;

/// The runtime under test as a file of its own, so that an attack that succeeds harms nobody.
fn copied(case: &Case) -> Runtime {
    let copy = case.dir.join("runtime-copy");
    fs::copy(&case.runtime.binary, &copy).unwrap();
    Runtime { binary: copy, ..case.runtime.clone() }
}

#[test]
fn cve_2019_5736_overwriting_the_runtime_through_proc_self_exe() {
    overwrite_while_exec_runs(Case::new());
}

#[test]
fn cve_2019_5736_with_the_right_to_change_mounts() {
    // What makes the file safe must not be a flag of a mount that the container can change.
    let mut case = Case::new();
    for set in ["bounding", "effective", "permitted"] {
        case.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
    }
    overwrite_while_exec_runs(case);
}

fn overwrite_while_exec_runs(mut case: Case) {
    // exec runs /proc/self/exe, which is the runtime itself at that moment. It opens its log, which is a fifo: there it
    // waits, as a process of the container, while another one takes a descriptor of /proc/PID/exe. Once the process
    // has ended nothing keeps the file busy, and the descriptor is opened again for writing.
    case.runtime = copied(&case);
    let before = fs::read(&case.runtime.binary).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, case.rootfs().join("tmp/log"), rustix::fs::Mode::from_bits_truncate(0o666))
        .unwrap();
    case.hold();
    let files = case.files();
    let mut command = case.command();
    command.args(["exec", &case.id, "/proc/self/exe", "--log", "/tmp/log", "--root", "/tmp/state", "start", "nobody"]);
    files.attach(&mut command);
    let mut victim = command.spawn().unwrap();
    let out = case.exec(&["/probe", "ambush", "/tmp/log"]).ok();
    let _ = victim.wait();
    assert_eq!(fs::read(&case.runtime.binary).unwrap(), before, "the runtime's binary was changed: {out}");
    assert!(!out.stdout.contains("overwritten"), "{out}");
    assert!(out.stdout.contains("refused") || out.stdout.contains("never seen"), "{out}");
}

#[test]
fn cve_2019_5736_by_the_containers_own_program() {
    let mut case = Case::new();
    case.runtime = copied(&case);
    let before = fs::read(&case.runtime.binary).unwrap();
    symlink("/proc/self/exe", case.rootfs().join("entry")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, case.rootfs().join("tmp/log"), rustix::fs::Mode::from_bits_truncate(0o666))
        .unwrap();
    case.args(&["/entry", "--log", "/tmp/log", "--root", "/tmp/state", "start", "nobody"]);
    // A second process of the container, in the same pid namespace, by exec before the start.
    let created = case.create();
    if created.code == 0 {
        let files = case.files();
        let mut command = case.command();
        command.args(["exec", &case.id, "/probe", "ambush", "/tmp/log"]);
        files.attach(&mut command);
        let mut ambush = command.spawn().unwrap();
        let said = integration::wait::file(&files.stdout, integration::command::LIMIT, |text| text.contains("waiting"));
        assert!(said);
        let _ = case.start();
        let _ = case.wait();
        let _ = ambush.wait();
        let text = fs::read_to_string(&files.stdout).unwrap();
        assert!(!text.contains("overwritten"), "{text}");
    }
    assert_eq!(fs::read(&case.runtime.binary).unwrap(), before, "the runtime's binary was changed");
}
