//! Filters in the kernel. A filter is its thread's own, so that a thread is all the container these need.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use super::super::{compile, supported_flags};
use super::profile;

#[test]
fn a_loaded_filter_answers_calls_and_loads_again_on_top() {
    let filter = compile(&profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 100},
            {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 101,
                "args": [{"index": 1, "op": "SCMP_CMP_EQ", "value": 4294967303}]}]}"#,
    ))
    .unwrap();
    thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        for _ in 0..2 {
            assert!(filter.load().unwrap().is_none());
            assert_eq!(std::fs::create_dir("/nowhere/to/go").unwrap_err().raw_os_error(), Some(100));
        }
        let null = std::fs::File::open("/dev/null").unwrap();
        let seek = |to| rustix::fs::seek(&null, rustix::fs::SeekFrom::Start(to));
        assert_eq!(seek(0x1_0000_0007).map_err(rustix::io::Errno::raw_os_error), Err(101));
        assert_eq!(seek(0x2_0000_0007), Ok(0));
        assert_eq!(seek(7), Ok(0));
    })
    .join()
    .unwrap();
}

#[test]
fn a_notifying_filter_gives_a_listener() {
    let filter = compile(&profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_NOTIFY"}]}"#,
    ))
    .unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let caller = thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        send.send(filter.load().unwrap().unwrap()).unwrap();
        rustix::process::getpgid(None)
    });
    let listener = receive.recv().unwrap();
    assert!(rustix::io::fcntl_getfd(&listener).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let mut waiting = [PollFd::new(&listener, PollFlags::IN)];
    assert_eq!(poll(&mut waiting, None).unwrap(), 1);
    // Nobody answers any more: the kernel says that the call does not exist.
    drop(listener);
    assert_eq!(caller.join().unwrap(), Err(rustix::io::Errno::NOSYS));
}

const CHILD: &str = "TARE_TEST_SECCOMP_CHILD";

#[test]
fn a_killing_filter_kills_the_process() {
    if std::env::var_os(CHILD).is_some() {
        let filter = compile(&profile(
            r#"{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
        ))
        .unwrap();
        rustix::process::setrlimit(
            rustix::process::Resource::Core,
            rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
        )
        .unwrap();
        rustix::thread::set_no_new_privs(true).unwrap();
        filter.load().unwrap();
        let survived = rustix::process::getpgid(None);
        panic!("survived: {survived:?}");
    }
    let name = thread::current().name().unwrap().to_owned();
    let child =
        Command::new(std::env::current_exe().unwrap()).args(["--exact", &name]).env(CHILD, "1").output().unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGSYS), "{child:?}");
}

#[test]
fn a_refused_load_says_what_is_missing() {
    let filter = compile(&profile(r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": []}"#)).unwrap();
    thread::spawn(move || {
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).unwrap();
        if rustix::thread::no_new_privs().unwrap() {
            // Whoever runs the tests has set it for good: then nothing is missing.
            return assert!(filter.load().is_ok());
        }
        let error = filter.load().unwrap_err();
        assert_eq!(error.errno(), Some(libc::EACCES));
        let text = "load seccomp filter: needs process.noNewPrivileges or CAP_SYS_ADMIN: permission denied";
        assert_eq!(error.to_string(), text);
    })
    .join()
    .unwrap();
}

#[test]
fn this_kernel_takes_the_flags() {
    let flags: Vec<_> = supported_flags().collect();
    assert!(
        flags.contains(&"SECCOMP_FILTER_FLAG_SPEC_ALLOW") && flags.contains(&"SECCOMP_FILTER_FLAG_TSYNC"),
        "{flags:?}"
    );
    assert!(!super::super::sys::seccomp::takes_flags(1 << 30));
}
