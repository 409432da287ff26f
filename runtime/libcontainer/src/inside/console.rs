//! The container's terminal: a pair of its own devpts, whose master goes to whoever listens on the console socket
//! (runc's `--console-socket` protocol: one descriptor by `SCM_RIGHTS`, the terminal's name as data).

use super::{
    mounts::{clone_of, put_over},
    root::Root,
};
use crate::{
    error::{At, Error, Result},
    spec::ConsoleSize,
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{FileType, Gid, OFlags, ResolveFlags, Uid},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    pty::OpenptFlags,
    termios::Winsize,
};
use std::{io::IoSlice, path::Path};

/// `DEVPTS_SUPER_MAGIC` of the kernel.
const DEVPTS: i64 = 0x1cd1;
/// The multiplexer's number (`devices.txt` of the kernel).
const PTMX: (u32, u32) = (5, 2);

/// Opens a pair and connects the caller's standard streams to it; the caller has become leader of a session.
pub(crate) fn set_up(root: &Root, socket: BorrowedFd<'_>, size: Option<ConsoleSize>, uid: u32) -> Result<OwnedFd> {
    let master = open_master(root)?;
    rustix::pty::unlockpt(&master).at("unlockpt")?;
    // Not by its name: who controls the root controls what a name leads to (CVE-2025-52565).
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .at("open the terminal")?;
    if let Some(ConsoleSize { height, width }) = size {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).at("set the size")?;
    }
    rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>).at("chown the terminal")?;
    send(socket, master.as_fd())?;
    rustix::process::ioctl_tiocsctty(&slave).at("set the controlling terminal")?;
    rustix::stdio::dup2_stdin(&slave).at("dup2")?;
    rustix::stdio::dup2_stdout(&slave).at("dup2")?;
    rustix::stdio::dup2_stderr(&slave).at("dup2")?;
    Ok(slave)
}

/// Makes the terminal appear as `/dev/console`.
pub(crate) fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<()> {
    put_over(root, clone_of(slave, false)?.as_fd(), Path::new("/dev/console")).at("/dev/console")
}

fn open_master(root: &Root) -> Result<OwnedFd> {
    let path = Path::new("/dev/ptmx");
    // Looked at before it is opened: a node that the image has in its place may do something when that happens.
    check_multiplexer(&root.open(path).at("open /dev/ptmx")?)?;
    let master = root.open_for(path, OFlags::RDWR | OFlags::NOCTTY, ResolveFlags::empty()).at("open /dev/ptmx")?;
    check_multiplexer(&master)?;
    Ok(master)
}

fn check_multiplexer(file: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(file).at("stat /dev/ptmx")?;
    let is_multiplexer = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(PTMX.0, PTMX.1);
    // The node of a devpts opens in that devpts; one elsewhere would need a `pts` beside it, which could be anything.
    if is_multiplexer && rustix::fs::fstatfs(file).at("statfs /dev/ptmx")?.f_type == DEVPTS {
        return Ok(());
    }
    Err(Error::other("/dev/ptmx is not the multiplexer of a devpts: mount one on /dev/pts"))
}

pub(crate) fn send(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(b"/dev/ptmx")], &mut control, SendFlags::NOSIGNAL)
        .at("send the terminal to the console socket")
        .map(drop)
}
