//! What programs that were made for runc rely on, and no specification says.

use std::io::Read;
use std::os::fd::AsFd;

use integration::case::Case;
use integration::command::{self, LIMIT};
use integration::{not_on, wait};
use rustix::io::FdFlags;
use serde_json::json;

const SHELL: [&str; 2] = ["/bin/sh", "-c"];

fn shell_hook(case: &mut Case, point: &str, script: &str) {
    let hook =
        json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] });
    case.spec["hooks"][point] = json!([hook]);
}

#[test]
fn a_hook_that_joins_the_mount_namespace_finds_the_root_where_the_host_has_it() {
    let mut case = Case::new();
    let rootfs = case.rootfs();
    let place = rootfs.join("mnt");
    // The state comes on standard input; the pid is the one number behind its name.
    let script = format!(
        "pid=$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p'); nsenter --mount --target $pid mount -t tmpfs -o size=4k late {0} && \
         nsenter --mount --target $pid touch {0}/seen",
        place.display()
    );
    shell_hook(&mut case, "createRuntime", &script);
    case.attempts(&[("list /mnt", Ok("seen"))]);
    assert!(!place.join("seen").exists(), "the host does not see the mount");
}

#[test]
fn create_container_hooks_start_in_the_root() {
    let mut case = Case::new();
    not_on!(case, "crun", "starts them elsewhere");
    shell_hook(&mut case, "createContainer", "printf here > home/hooked");
    case.attempts(&[("read /home/hooked", Ok("here"))]);
}

#[test]
fn a_created_container_ends_when_it_is_told_to() {
    let case = Case::new();
    not_on!(case, "crun", "init is deaf until it is started");
    case.create().ok();
    case.kill("TERM").ok();
    case.wait();
    assert_eq!(case.status(), "stopped");
    case.delete().ok();
}

#[test]
fn a_caller_that_reads_to_the_end_is_not_held_up_by_a_created_container() {
    let case = Case::new();
    not_on!(case, "crun", "keeps what the caller left open until start");
    case.write();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = case.command();
    command.arg("create").arg("--bundle").arg(case.bundle()).arg(&case.id);
    rustix::io::fcntl_setfd(&writer, FdFlags::empty()).unwrap();
    case.subreaper();
    case.finish(&mut command, &case.files()).ok();
    drop(writer);
    assert!(wait::readable(reader.as_fd(), LIMIT), "the end of the pipe");
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_process_may_be_given_by_a_descriptor() {
    let case = Case::new();
    case.hold();
    let process = json!({ "args": ["/probe", "say", "by descriptor"], "cwd": "/", "env": [] });
    std::fs::write(case.dir.join("process.json"), process.to_string()).unwrap();
    let mut command = std::process::Command::new(SHELL[0]);
    let script = "exec 9<\"$1\"; shift; exec \"$@\"";
    command.args([SHELL[1], script, "sh"]).arg(case.dir.join("process.json")).arg(&case.runtime.binary);
    command.arg("--root").arg(case.state_dir()).args(["exec", "--process", "/dev/fd/9", &case.id]);
    command.env("TARE_TEST", &case.id).stdin(case.stdin());
    assert_eq!(case.finish(&mut command, &case.files()).ok().stdout, "by descriptor\n");
}

#[test]
fn a_terminal_in_the_foreground_leaves_line_ends_alone() {
    let mut case = Case::new();
    not_on!(case, "crun", "leaves it to the terminal");
    not_on!(case, "runc", "needs /dev/tty");
    case.spec["process"]["terminal"] = json!(true);
    case.args(&["/probe", "say", "plain"]);
    assert_eq!(case.run().ok().stdout, "plain\n");
    case.args(&["/probe", "hold"]);
    case.spec["process"]["terminal"] = json!(false);
    case.hold();
    assert_eq!(case.exec_with(&["--tty"], &["/probe", "say", "plain"]).ok().stdout, "plain\n");
}

#[test]
fn a_container_in_the_foreground_is_everybodys() {
    let case = Case::new();
    // The second has its caller's manager to wait for.
    let manager = case.dir.join("manager");
    let _manager = std::os::unix::net::UnixDatagram::bind(&manager).unwrap();
    for notified in [false, true] {
        if notified {
            not_on!(case, "runc", "waits for the word of what is dead");
        }
        case.write();
        let files = case.files();
        let mut command = case.command();
        command.arg("run").arg("--bundle").arg(case.bundle()).arg(&case.id).stdin(case.stdin());
        if notified {
            command.env("NOTIFY_SOCKET", &manager);
        }
        files.attach(&mut command);
        let mut run = command.spawn().unwrap();
        assert!(wait::file(&files.stdout, LIMIT, |text| text.contains("ready")), "it runs");
        assert_eq!(case.status(), "running");
        assert_eq!(case.exec(&["/probe", "say", "beside"]).ok().stdout, "beside\n");
        case.kill("KILL").ok();
        assert!(wait::exited(run.id() as i32, LIMIT), "run ends with the container");
        assert_eq!(command::code(run.wait().unwrap()), 137);
        case.nothing_left();
    }
}

#[test]
fn a_program_that_cannot_be_executed_is_told_once() {
    let mut case = Case::new();
    not_on!(case, "crun", "has words of its own");
    std::fs::write(case.rootfs().join("home/script"), "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(case.rootfs().join("home/script"), mode).unwrap();
    case.args(&["/home/script"]);
    let out = case.run();
    assert_ne!(out.code, 0, "{out}");
    assert_eq!(out.stderr, "exec /home/script: no such file or directory\n");
}

#[test]
fn what_fails_within_is_told_in_runcs_words() {
    let case = Case::new();
    not_on!(case, "crun", "has words of its own");
    // In a line of a log quotes have a backslash before them.
    let says = |out: &command::Out, words: &str| out.stderr.replace('\\', "").contains(words);
    case.hold();
    let out = case.exec(&["/nope"]);
    assert!(says(&out, "exec failed: unable to start container process: exec: \"/nope\": "), "{out}");
    let mut case = Case::new();
    case.mount("/mnt", "bind", "/nope", &["bind"]);
    let words = "unable to start container process: error during container init: error mounting \"/nope\" to rootfs";
    for (verb, out) in [("create", case.create()), ("run", case.run())] {
        let out = out.is(1);
        assert!(says(&out, &format!("runc {verb} failed: {words} at ")), "{out}");
    }
}

#[test]
fn start_hooks_have_the_programs_environment_and_its_filter() {
    let mut case = Case::new();
    not_on!(case, "crun", "runs them before the filter, without the environment");
    not_on!(case, "runc version 1.1", "has other words");
    case.spec["process"]["env"] = json!(["WHOSE=the program's"]);
    case.spec["hooks"]["startContainer"] =
        json!([{ "path": "/probe", "args": ["probe", "try", "mkdir /dev/shm/made"] }]);
    case.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }],
    });
    let out = case.run();
    assert_ne!(out.code, 0, "{out}");
    assert!(out.stderr.contains("error running startContainer hook #0"), "{out}");
    assert!(out.stderr.contains("bad system call"), "{out}");
}

#[test]
fn exec_has_the_containers_personality() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "forgets it");
    case.spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    case.hold();
    let outcomes = case.exec(&["/probe", "try", "read /proc/self/personality"]).ok().outcomes();
    assert_eq!(outcomes[0].value.trim(), "00000008", "{outcomes:?}");
}

#[test]
fn clocks_can_be_set_in_a_user_namespace() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "has no time namespaces");
    not_on!(case, "crun", "fails with a user namespace");
    case.user_namespace().namespace("time", None);
    case.spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1337, "nanosecs": 7 } });
    case.args(&["/probe", "try", "read /proc/self/timens_offsets"]);
    let offsets = case.run().ok().outcomes();
    let words: Vec<&str> = offsets[0].value.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "0", "0", "boottime", "1337", "7"]);
}

#[test]
fn kill_reaches_the_rest_of_a_container_whose_init_is_gone() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "does not reach them");
    not_on!(case, "crun", "does not reach them");
    case.without_namespace("pid");
    case.hold();
    let other = case.exec_detached(&["/probe", "wait"]);
    rustix::process::kill_process(rustix::process::Pid::from_raw(case.pid()).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    case.wait();
    case.kill("KILL").ok();
    assert!(wait::exited(other, LIMIT), "it is killed");
    case.delete().ok();
}

#[test]
fn a_path_that_is_masked_twice_is_covered_once() {
    let mut case = Case::new();
    not_on!(case, "runc version 1.1", "covers it twice");
    not_on!(case, "crun", "covers it twice");
    case.spec["linux"]["maskedPaths"] = json!(["/home", "/home"]);
    case.args(&["/probe", "try", "read /proc/self/mountinfo"]);
    let table = &case.run().ok().outcomes()[0].value;
    assert_eq!(table.lines().filter(|line| line.split(' ').nth(4) == Some("/home")).count(), 1, "{table}");
}

#[test]
fn without_a_pivot_there_is_no_second_procfs() {
    let mut case = Case::new();
    for set in ["bounding", "permitted", "effective"] {
        case.spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    case.spec["linux"]["maskedPaths"] = json!(["/proc/sysrq-trigger"]);
    case.args(&["/probe", "try", "unshare mount", "mount proc /mnt proc"]);
    let outcomes = case.run_with(&["--no-pivot"]).ok().outcomes();
    assert_eq!(outcomes[0].errno, None, "{outcomes:?}");
    assert!(outcomes[1].errno.is_some() || !case.rootfs().join("mnt/sysrq-trigger").exists(), "{outcomes:?}");
}
