//! Receiving a container's terminal from the runtime.
//!
//! The runtime connects to a unix socket (`--console-socket`) and passes the master's descriptor. It does so before it
//! returns, so that by then the message is waiting and nothing here needs to block.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags, chmod, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, isatty, tcsetwinsize};

use crate::error::{Context, Error, Result};

/// Makes the sockets of terminals that are born at the same time differ.
static SOCKETS: AtomicU32 = AtomicU32::new(0);

/// A socket that waits for one terminal; its file is removed on drop.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Opens a socket in `dir`, which only its owner may enter.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let number = SOCKETS.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("pty{}-{number}", std::process::id()));
        let step = || format!("open the console socket {}", path.display());
        let listener = UnixListener::bind(&path).context(step)?;
        let socket = Self { path, listener };
        chmod(&socket.path, Mode::RUSR | Mode::WUSR).context(|| "restrict the console socket")?;
        socket.listener.set_nonblocking(true).context(|| "prepare the console socket")?;
        Ok(socket)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the terminal's master, non-blocking. Call it once the runtime has returned.
    pub(crate) fn receive(self) -> Result<OwnedFd> {
        let step = || "receive the terminal from the runtime";
        let (stream, _) = self.listener.accept().context(step)?;
        stream.set_nonblocking(true).context(step)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // The message's text is the terminal's path inside the container: of no use here.
        let mut text = [0_u8; 4096];
        recvmsg(&stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).context(step)?;
        let mut received = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let master = received.by_ref().flatten().next();
        let master = master.ok_or_else(|| Error::other("receive the terminal from the runtime: no descriptor came"))?;
        if !isatty(&master) {
            return Err(Error::other("receive the terminal from the runtime: what came is not a terminal"));
        }
        set_nonblocking(&master)?;
        Ok(master)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _: std::io::Result<()> = std::fs::remove_file(&self.path);
    }
}

/// Makes reads and writes of `fd`'s open file description return at once.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> Result<()> {
    let flags = fcntl_getfl(&fd).context(|| "read descriptor flags")?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).context(|| "set descriptor flags")
}

/// Reads what came out of a terminal or a pipe. A terminal that is closed everywhere says EIO, but it can say so while the
/// last output is still on its way through the kernel: that looks for output first and for the closing afterwards, and
/// what does not fit into its buffer is moved there by a worker. Who asks again waits for the worker and gets it.
pub(crate) fn read_output(fd: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    match read(&fd, &mut *buffer) {
        Err(Errno::IO) => read(&fd, buffer),
        other => other,
    }
}

/// Sets a terminal's size. A terminal that is gone needs no size.
pub(crate) fn resize(master: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    match tcsetwinsize(&master, size) {
        Ok(()) | Err(Errno::IO) => Ok(()),
        Err(errno) => Err(errno).context(|| "resize the terminal"),
    }
}
