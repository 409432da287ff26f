//! The receiving end of `--console-socket`: takes the master of the container's terminal.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::command::LIMIT;
use crate::wait;

/// A socket that waits for a terminal.
pub struct Socket {
    listener: UnixListener,
    /// Its path, for `--console-socket`.
    pub path: PathBuf,
}

impl Socket {
    /// Listens at `dir/console.sock`.
    pub fn new(dir: &Path) -> Self {
        let path = dir.join("console.sock");
        Self { listener: UnixListener::bind(&path).expect("bind the console socket"), path }
    }

    /// Takes the terminal that the runtime sent.
    pub fn receive(&self) -> Terminal {
        assert!(wait::readable(self.listener.as_fd(), LIMIT), "no terminal was sent");
        let (stream, _) = self.listener.accept().expect("accept");
        assert!(wait::readable(stream.as_fd(), LIMIT), "no terminal was sent");
        let mut name = [0_u8; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let length = got.expect("recvmsg").bytes;
        let mut fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(fds.len(), 1, "one descriptor comes with the message");
        let master = fds.remove(0);
        Terminal {
            name: String::from_utf8_lossy(&name[..length]).into_owned(),
            master: File::from(master),
            seen: String::new(),
        }
    }
}

/// The master side of a container's terminal.
pub struct Terminal {
    /// What the message said.
    pub name: String,
    /// The master.
    pub master: File,
    /// Everything read so far.
    pub seen: String,
}

impl Terminal {
    /// Types this text.
    pub fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("write to the terminal");
    }

    /// Reads until the words have been seen.
    #[track_caller]
    pub fn sees(&mut self, words: &str) -> &str {
        self.sees_times(words, 1)
    }

    /// Reads until the words have been seen so many times.
    #[track_caller]
    pub fn sees_times(&mut self, words: &str, times: usize) -> &str {
        let end = Instant::now() + LIMIT;
        let mut buffer = [0_u8; 4096];
        while self.seen.matches(words).count() < times {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                left > Duration::ZERO && wait::readable(self.master.as_fd(), left),
                "'{words}' not seen in: {}",
                self.seen
            );
            match self.master.read(&mut buffer) {
                Ok(n) if n > 0 => self.seen.push_str(&String::from_utf8_lossy(&buffer[..n])),
                // EIO is how a master learns that nobody has the other side open.
                _ => panic!("the terminal closed before '{words}' was seen: {}", self.seen),
            }
        }
        &self.seen
    }

    /// Everything that has come so far, without waiting for more.
    pub fn peek(&mut self) -> &str {
        let mut buffer = [0_u8; 4096];
        while wait::readable(self.master.as_fd(), Duration::ZERO) {
            match self.master.read(&mut buffer) {
                Ok(n) if n > 0 => self.seen.push_str(&String::from_utf8_lossy(&buffer[..n])),
                _ => break,
            }
        }
        &self.seen
    }

    /// Sets rows and columns.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).expect("resize");
    }
}

/// A terminal of the test's own, to start programs on: both sides of it.
pub struct Pty {
    /// The master side.
    pub terminal: Terminal,
    // Kept open, so that the master does not hang up between two programs.
    slave: File,
}

impl Default for Pty {
    fn default() -> Self {
        Self::open()
    }
}

impl Pty {
    /// A new one.
    pub fn open() -> Self {
        let master =
            rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).expect("openpt");
        rustix::pty::grantpt(&master).expect("grantpt");
        rustix::pty::unlockpt(&master).expect("unlockpt");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("ptsname").to_string_lossy().into_owned();
        let slave = std::fs::OpenOptions::new().read(true).write(true).open(&name).expect("open the slave");
        Self { terminal: Terminal { name, master: File::from(master), seen: String::new() }, slave }
    }

    /// Starts the command with this as its controlling terminal.
    pub fn spawn(&self, command: &mut Command, id: &str) -> Child {
        // setsid(1) -c takes its stdin as the controlling terminal, which std cannot do without unsafe code.
        let mut wrapped = Command::new("setsid");
        wrapped.args(["-c", "-w"]).arg(command.get_program()).args(command.get_args());
        let slave = || self.slave.try_clone().expect("a second handle");
        wrapped.stdin(slave()).stdout(slave()).stderr(slave()).env("TARE_TEST", id);
        wrapped.spawn().expect("setsid")
    }
}
