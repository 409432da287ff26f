//! A seccomp agent: listens at a profile's `listenerPath` and lets every call that it is asked about go on.

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;

use crate::command::LIMIT;
use crate::wait;

/// `SECCOMP_IOCTL_NOTIF_RECV`, and `_SEND` with `SECCOMP_USER_NOTIF_FLAG_CONTINUE` (`linux/seccomp.h`), for a listener on
/// stdin; each call's number goes to stdout. By perl, for std has no ioctl(2) without unsafe code.
const ANSWER: &str = r#"
    $| = 1;
    for (;;) {
        my $call = "\0" x 80;
        unless (ioctl(STDIN, 0xc0502100, $call)) {
            # The caller was interrupted meanwhile (Go does that to its own threads), or we were.
            next if $! == 2 || $! == 4;
            last;
        }
        my ($id, $pid, $flags, $number) = unpack("QLLl", $call);
        print "$number\n";
        ioctl(STDIN, 0xc0182101, my $answer = pack("QqlL", $id, 0, 0, 1));
    }
"#;

/// An agent that answers until it is dropped.
pub struct Agent {
    /// For `listenerPath`.
    pub path: PathBuf,
    calls: PathBuf,
    serving: Option<JoinHandle<Vec<Value>>>,
}

impl Agent {
    /// Listens at `dir/agent.sock`.
    pub fn new(dir: &Path) -> Self {
        let path = dir.join("agent.sock");
        let calls = dir.join("agent.calls");
        let listener = UnixListener::bind(&path).expect("bind the agent's socket");
        let record = File::options().create(true).append(true).open(&calls).expect("a file for the calls");
        let serving = std::thread::spawn(move || serve(&listener, &record));
        Self { path, calls, serving: Some(serving) }
    }

    /// Numbers of the calls so far, in order.
    pub fn calls(&self) -> Vec<i32> {
        let text = fs::read_to_string(&self.calls).expect("the calls");
        text.lines().map(|line| line.parse().expect("a number")).collect()
    }

    /// Ends; returns the states that came with the listeners.
    pub fn end(mut self) -> Vec<Value> {
        self.hang_up().expect("an agent that served to the end")
    }

    fn hang_up(&mut self) -> Option<Vec<Value>> {
        let serving = self.serving.take()?;
        // Who says nothing is us.
        drop(UnixStream::connect(&self.path).ok()?);
        serving.join().ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// Serves until somebody comes who says nothing.
fn serve(socket: &UnixListener, record: &File) -> Vec<Value> {
    let mut states = Vec::new();
    let mut answering = Vec::new();
    while let Ok((stream, _)) = socket.accept() {
        let Some((state, listener)) = receive(&stream) else { break };
        states.push(serde_json::from_slice(&state).expect("a container process state"));
        answering.push(Answering::to(listener, record));
    }
    states
}

fn receive(stream: &UnixStream) -> Option<(Vec<u8>, OwnedFd)> {
    assert!(wait::readable(stream.as_fd(), LIMIT), "no listener was sent");
    let mut state = vec![0_u8; 64 << 10];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut state)], &mut control, RecvFlags::CMSG_CLOEXEC);
    state.truncate(got.expect("recvmsg").bytes);
    let listener = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Some((state, listener?))
}

struct Answering(Child);

impl Answering {
    fn to(listener: OwnedFd, record: &File) -> Self {
        let record = record.try_clone().expect("the record again");
        Self(Command::new("perl").args(["-e", ANSWER]).stdin(listener).stdout(record).spawn().expect("perl"))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // It fails only for one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
