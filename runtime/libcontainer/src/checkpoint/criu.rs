//! criu's RPC: one `criu swrk` for each request, on a socket pair (<https://criu.org/RPC>; the numbers are `rpc.proto`'s).
//!
//! ```text
//!   we                                   criu
//!    |  ---------- request -------------> |
//!    |  <--------- notification --------- |   any number of times: a script's name, perhaps a pid or a descriptor
//!    |  ---------- go on ---------------> |
//!    |  <--------- response ------------- |
//! ```
//!
//! Descriptors in a request are our numbers: criu opens them through `/proc/<our pid>/fd`. The numbers of inherited ones are its
//! own, which are the same, because it is our child.

use super::wire::{Message, Value, fields};
use crate::error::{At, Error, Kind, Result};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    io::{Errno, FdFlags, fcntl_setfd, retry_on_intr},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
        recvmsg, send, socketpair,
    },
};
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    process::{Child, Command, Stdio},
};

/// `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kinds {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
}

// Truth values of `criu_opts`.
pub(super) const LEAVE_RUNNING: u64 = 3;
pub(super) const EXT_UNIX_SK: u64 = 4;
pub(super) const TCP_ESTABLISHED: u64 = 5;
pub(super) const EVASIVE_DEVICES: u64 = 6;
pub(super) const SHELL_JOB: u64 = 7;
pub(super) const FILE_LOCKS: u64 = 8;
pub(super) const NOTIFY_SCRIPTS: u64 = 12;
pub(super) const TRACK_MEM: u64 = 15;
pub(super) const AUTO_DEDUP: u64 = 16;
pub(super) const LINK_REMAP: u64 = 18;
pub(super) const RST_SIBLING: u64 = 26;
pub(super) const TCP_SKIP_IN_FLIGHT: u64 = 46;
pub(super) const LAZY_PAGES: u64 = 48;
pub(super) const ORPHAN_PTS_MASTER: u64 = 50;

/// `criu_opts`.
#[derive(Clone, Debug, Default)]
pub(super) struct Request(Message);

impl Request {
    pub(super) fn images_dir(&mut self, fd: i32) {
        self.0.number(1, fd as u64);
    }

    pub(super) fn work_dir(&mut self, fd: i32) {
        self.0.number(17, fd as u64);
    }

    pub(super) fn pid(&mut self, pid: i32) {
        self.0.number(2, pid as u64);
    }

    pub(super) fn flags(&mut self, flags: &[(u64, bool)]) {
        for (field, value) in flags {
            self.0.number(*field, u64::from(*value));
        }
    }

    /// 4 is everything.
    pub(super) fn log(&mut self, level: u64, name: &str) {
        self.0.number(9, level);
        self.0.text(10, name);
    }

    pub(super) fn page_server(&mut self, address: &str, port: u16) {
        let mut server = Message::default();
        server.text(1, address);
        server.number(2, port.into());
        self.0.message(11, &server);
    }

    pub(super) fn root(&mut self, path: &str) {
        self.0.text(13, path);
    }

    pub(super) fn parent(&mut self, path: &str) {
        self.0.text(14, path);
    }

    pub(super) fn cgroups(&mut self, mode: u64) {
        // The older field says whether at all.
        self.0.number(24, 1);
        self.0.number(34, mode);
    }

    pub(super) fn cgroup_root(&mut self, controller: &str, path: &str) {
        let mut root = Message::default();
        root.text(1, controller);
        root.text(2, path);
        self.0.message(25, &root);
    }

    /// A mount that leads out of the container, and its name or its source.
    pub(super) fn external_mount(&mut self, key: &str, value: &str) {
        self.pair(23, key, value);
    }

    /// `TYPE[INODE]:KEY`.
    pub(super) fn external(&mut self, text: &str) {
        self.0.text(37, text);
    }

    pub(super) fn inherit(&mut self, key: &str, fd: i32) {
        let mut inherit = Message::default();
        inherit.text(1, key);
        inherit.number(2, fd as u64);
        self.0.message(27, &inherit);
    }

    pub(super) fn join_namespace(&mut self, kind: &str, path: &str) {
        self.pair(39, kind, path);
    }

    pub(super) fn empty_namespaces(&mut self, flags: u64) {
        self.0.number(38, flags);
    }

    pub(super) fn freezer(&mut self, path: &str) {
        self.0.text(44, path);
    }

    pub(super) fn config(&mut self, path: &str) {
        self.0.text(51, path);
    }

    pub(super) fn lsm(&mut self, profile: Option<&str>, mount_context: Option<&str>) {
        for (field, text) in [(53, profile), (63, mount_context)] {
            if let Some(text) = text {
                self.0.text(field, text);
            }
        }
    }

    fn pair(&mut self, field: u64, first: &str, second: &str) {
        let mut pair = Message::default();
        pair.text(1, first);
        pair.text(2, second);
        self.0.message(field, &pair);
    }
}

/// What criu tells on its way.
#[derive(Debug, Default)]
pub(super) struct Notification {
    pub(super) script: String,
    pub(super) pid: i32,
    pub(super) fd: Option<OwnedFd>,
}

/// `criu_resp`.
#[derive(Debug, Default)]
struct Response {
    kind: u64,
    success: bool,
    errno: i32,
    message: String,
    pid: i32,
    notification: Notification,
    /// Of a feature check: dirty memory is tracked, pages can be fetched late.
    features: (bool, bool),
}

impl Response {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut response = Self::default();
        for (field, value) in fields(bytes)? {
            match (field, value) {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (4, Value::Bytes(restored)) => {
                    for (field, value) in fields(restored)? {
                        if let (1, Value::Number(pid)) = (field, value) {
                            response.pid = pid as i32;
                        }
                    }
                }
                (5, Value::Bytes(notification)) => {
                    for (field, value) in fields(notification)? {
                        match (field, value) {
                            (1, Value::Bytes(script)) => {
                                response.notification.script = String::from_utf8_lossy(script).into_owned();
                            }
                            (2, Value::Number(pid)) => response.notification.pid = pid as i32,
                            _ => {}
                        }
                    }
                }
                (7, Value::Number(errno)) => response.errno = errno as i32,
                (8, Value::Bytes(features)) => {
                    for (field, value) in fields(features)? {
                        match (field, value) {
                            (1, Value::Number(value)) => response.features.0 = value != 0,
                            (2, Value::Number(value)) => response.features.1 = value != 0,
                            _ => {}
                        }
                    }
                }
                (9, Value::Bytes(message)) => response.message = String::from_utf8_lossy(message).into_owned(),
                _ => {}
            }
        }
        Some(response)
    }
}

/// A running criu.
pub(super) struct Criu<'a> {
    child: Child,
    socket: OwnedFd,
    interrupt: Option<&'a OwnedFd>,
}

impl<'a> Criu<'a> {
    /// Starts it with `inherited` descriptors under their own numbers; with our standard streams where `streams` is set, which
    /// a restored container gets. Nobody waits for it any more once `interrupt` can be read.
    pub(super) fn start(streams: bool, inherited: &[BorrowedFd<'_>], interrupt: Option<&'a OwnedFd>) -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).at("socketpair")?;
        for fd in inherited.iter().copied().chain([theirs.as_fd()]) {
            fcntl_setfd(fd, FdFlags::empty()).at("hand a descriptor to criu")?;
        }
        let stream = || if streams { Stdio::inherit() } else { Stdio::null() };
        let mut command = Command::new("criu");
        command.arg("swrk").arg(theirs.as_raw_fd().to_string());
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn();
        let child = child.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::other("criu is not on PATH: install it to checkpoint and restore"),
            _ => Error::from(error).at("run criu"),
        })?;
        for fd in inherited {
            fcntl_setfd(fd, FdFlags::CLOEXEC).at("take a descriptor back from criu")?;
        }
        Ok(Self { child, socket: ours, interrupt })
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends the request, answers notifications by `notify`, and returns the pid of what was restored.
    pub(super) fn serve(
        mut self,
        kind: Kinds,
        request: &Request,
        mut notify: impl FnMut(&mut Notification) -> Result<()>,
    ) -> Result<i32> {
        let mut message = Message::default();
        message.number(1, kind as u64);
        message.message(2, &request.0);
        self.say(&message)?;
        let response = loop {
            let mut response = self.hear(kind)?;
            if response.kind != Kinds::Notify as u64 {
                break response;
            }
            tracing::debug!("criu notifies: {}", response.notification.script);
            notify(&mut response.notification).at_with(|| format!("criu {}", response.notification.script))?;
            let mut go_on = Message::default();
            go_on.number(1, Kinds::Notify as u64);
            go_on.number(3, 1);
            self.say(&go_on)?;
        };
        if response.kind != kind as u64 {
            return Err(Error::other(format!("criu answered {kind:?} with {}", response.kind)));
        }
        self.finish(kind)?;
        Ok(response.pid)
    }

    /// Refuses what the kernel or criu cannot do.
    pub(super) fn require(mem_track: bool, lazy_pages: bool) -> Result<()> {
        let criu = Criu::start(false, &[], None)?;
        let mut features = Message::default();
        for (field, _) in [(1, mem_track), (2, lazy_pages)].into_iter().filter(|(_, wanted)| *wanted) {
            features.number(field, 1);
        }
        let mut message = Message::default();
        message.number(1, Kinds::FeatureCheck as u64);
        message.message(5, &features);
        criu.say(&message)?;
        let (has_track, has_lazy) = criu.hear(Kinds::FeatureCheck)?.features;
        for (name, wanted, has) in [("MemTrack", mem_track, has_track), ("LazyPages", lazy_pages, has_lazy)] {
            if wanted && !has {
                return Err(Error::new(Kind::Invalid, format!("criu is missing features: [{name}]")));
            }
        }
        Ok(())
    }

    fn finish(&mut self, kind: Kinds) -> Result<()> {
        // The end of requests: after a pre-dump it would wait for the next one.
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).at("end the talk with criu")?;
        let status = self.child.wait().at("wait for criu")?;
        if status.success() || kind == Kinds::PreDump {
            return Ok(());
        }
        Err(Error::other(format!("criu failed: {status}")))
    }

    /// For the next word.
    fn wait(&self) -> Result<()> {
        let mut fds: Vec<_> =
            std::iter::once(&self.socket).chain(self.interrupt).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        retry_on_intr(|| poll(&mut fds, None)).at("hear from criu")?;
        match fds.get(1) {
            Some(interrupt) if !interrupt.revents().is_empty() => {
                Err(Error::other("a signal came while criu was at work"))
            }
            _ => Ok(()),
        }
    }

    fn say(&self, message: &Message) -> Result<()> {
        send(&self.socket, message.as_bytes(), SendFlags::NOSIGNAL).at("talk to criu").map(drop)
    }

    fn hear(&self, kind: Kinds) -> Result<Response> {
        let mut buffer = vec![0; 64 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        self.wait()?;
        let count = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                received => break received.at("hear from criu")?.bytes,
            }
        };
        if count == 0 {
            return Err(Error::other(format!("criu failed: type {kind:?}: it ended without an answer")));
        }
        let text = || Error::other("criu's answer is not of the known form");
        let mut response = Response::parse(buffer.get(..count).unwrap_or_default()).ok_or_else(text)?;
        response.notification.fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if !response.success && response.kind != Kinds::Notify as u64 {
            let reason =
                if response.message.is_empty() { String::new() } else { format!(": {}", response.message.trim()) };
            return Err(Error::other(format!("criu failed: type {kind:?} errno {}{reason}", response.errno)));
        }
        Ok(response)
    }
}

impl Drop for Criu<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may be in the middle of something that failed on our side. Both fail only where it is gone.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let mut notification = Message::default();
        notification.text(1, "post-restore");
        notification.number(2, 42);
        let mut message = Message::default();
        message.number(1, Kinds::Notify as u64);
        message.number(2, 1);
        message.message(5, &notification);
        let response = Response::parse(message.as_bytes()).unwrap();
        assert_eq!((response.notification.script.as_str(), response.notification.pid), ("post-restore", 42));
        assert!(response.success && Response::parse(b"\x0b").is_none());
    }
}
