//! The handshake between the two sides of a birth.
//!
//! ```text
//!   outside                                inside
//!      |  <------------- NeedsIds ------------|   where the one that was cloned is not yet what needs ids: joined what it joins
//!      |                                      |   by path, init exists
//!      |  ---------------- Go(pid) ---------> |   id maps and cgroup are in place
//!      |  ------------ Network(ns) ---------> |   where the outside makes the network namespace, while the inside mounts
//!      |  <---------- MapIds(mount) ----------|   for each mount of the container's own tree that init may not map itself,
//!      |  ---------------- Mapped ----------> |   being in a user namespace
//!      |  <------------ MountsDone -----------|   the root is built, not yet entered
//!      |  --------------- HooksDone --------> |   prestart and createRuntime hooks ran, limits are in place; awaited where the
//!      |                                      |   root is entered if a hook is to see it before, else after that
//!      |  <--------- Listener(n) -------------|   where the seccomp profile notifies: the filter is loaded, and from now on
//!      |                                      |   each call that it holds waits for the agent; n is the descriptor's number
//!      |  ------------- Taken --------------> |   or Send, where the outside may not take it: Listener comes once more, with the
//!      |                                      |   descriptor itself
//!      |  <------------- Ready ---------------|   all but the program is in place
//!      |  ----------------- Saved ----------> |   the container is on record
//! ```
//!
//! One order for all cases. `MapIds` may be missing or repeated; `NeedsIds`, `Network`, `Listener` and its answer are missing
//! where both sides know from the plan that there is nothing to say; a visit (`exec`), which has neither mounts nor hooks, has no
//! `MountsDone` and no `HooksDone`. Instead of any of its messages the inside may say `Failed(text)`. The end of the stream means
//! that the peer died: the inside then exits, the outside undoes what it made.
//!
//! From `Listener` on the inside is under the container's filter. So it says and hears by write(2) and read(2), which no program
//! can do without, and a profile that notifies of write(2) is refused, here as with runc: the listener goes out by it. All else
//! may be held: the agent has the listener when it happens. The inside does not wait until the agent has it, the kernel makes
//! its calls wait.

use crate::error::{At, Error, Result, shortened};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    io::{Errno, read, retry_on_intr, write},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::{Pid, PidfdGetfdFlags, pidfd_getfd},
};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
};

/// What the inside says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    NeedsIds = 1,
    MapIds,
    MountsDone,
    Listener,
    Ready,
    Failed,
}

/// What the outside says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    Go = 1,
    Network,
    Mapped,
    HooksDone,
    Taken,
    Send,
    Saved,
}

/// Longer texts are cut: a packet is read whole or not at all.
const MAX_TEXT: usize = 8 << 10;

/// The half that the outside keeps.
pub(crate) struct ToInside(OwnedFd);
/// The half that the inside keeps.
pub(crate) struct ToOutside(OwnedFd);

/// Both halves; each side drops the other's right after the clone.
pub(crate) fn pair() -> Result<(ToInside, ToOutside)> {
    sockets().map(|(a, b)| (ToInside(a), ToOutside(b)))
}

/// Two that are connected.
pub(super) fn sockets() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).at("socketpair")
}

/// The descriptor of the next message, if it has one.
pub(super) fn receive_descriptor(socket: &OwnedFd) -> Result<Option<OwnedFd>> {
    receive(socket, &mut [0; 64]).map(|(_, descriptor)| descriptor)
}

impl ToInside {
    /// Says `word`; `pid` is init's on the host.
    pub(crate) fn say(&self, word: Outside, pid: i32) -> Result<()> {
        let mut packet = vec![word as u8];
        packet.extend(pid.to_ne_bytes());
        send(&self.0, &packet, None)
    }

    /// Says `Network`: `namespace` is the one that was made for init.
    pub(crate) fn give_network(&self, namespace: BorrowedFd<'_>) -> Result<()> {
        send(&self.0, &[Outside::Network as u8], Some(namespace))
    }

    /// Waits for `NeedsIds`; returns who init is: the process that was cloned, or one that it made in its stead.
    pub(crate) fn expect_needs_ids(&self, cloned: Pid, pidfd: BorrowedFd<'_>) -> Result<Pid> {
        // A waypoint that dies after it has made init, and before it said so, leaves the stream open in a process that waits
        // for us: the stream alone would never end.
        let mut fds = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
        retry_on_intr(|| poll(&mut fds, None)).at("listen across the birth")?;
        if fds[0].revents().is_empty() && self.is_silent()? {
            return Err(Error::other(format!("the container's init died before it said {:?}", Inside::NeedsIds)));
        }
        let packet = self.hear(Inside::NeedsIds)?;
        let pid = <[u8; 4]>::try_from(packet).map_or(0, i32::from_ne_bytes);
        Ok(Pid::from_raw(pid).unwrap_or(cloned))
    }

    /// Whether nothing has been said that was not heard yet: asked once the speaker is dead.
    fn is_silent(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(retry_on_intr(|| poll(&mut fds, Some(&now))).at("listen across the birth")? == 0)
    }

    /// Waits for `word`.
    ///
    /// # Errors
    /// The inside's own text, or that it died.
    pub(crate) fn expect(&self, word: Inside) -> Result<()> {
        self.hear(word).map(drop)
    }

    /// Serves `MapIds`, by `map`, until `MountsDone` comes.
    pub(crate) fn expect_mounts(&self, map: impl Fn(usize, BorrowedFd<'_>) -> Result<()>) -> Result<()> {
        loop {
            let (word, packet, mount) = self.hear_any(&[Inside::MapIds, Inside::MountsDone])?;
            if word == Inside::MountsDone {
                return Ok(());
            }
            let index = <[u8; 4]>::try_from(packet).map(|bytes| u32::from_ne_bytes(bytes) as usize);
            match (index, mount) {
                (Ok(index), Some(mount)) => map(index, mount.as_fd())?,
                _ => return Err(Error::other("the container's init asked for ids without a mount")),
            }
            self.say(Outside::Mapped, 0)?;
        }
    }

    /// Waits for `Ready`, from the process of `pidfd`. A listener that comes before it goes to `hand_on`, at once: the inside
    /// may be waiting for the agent.
    pub(crate) fn expect_ready(
        &self,
        pidfd: BorrowedFd<'_>,
        hand_on: impl FnOnce(OwnedFd) -> Result<()>,
    ) -> Result<()> {
        let (word, packet, _) = self.hear_any(&[Inside::Listener, Inside::Ready])?;
        if word == Inside::Ready {
            return Ok(());
        }
        let number = <[u8; 4]>::try_from(packet).map(i32::from_ne_bytes);
        let number = number.map_err(|_| Error::other("the container's init named no listener"))?;
        let listener = if let Ok(listener) = pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()) {
            self.say(Outside::Taken, 0)?;
            listener
        } else {
            // pidfd_getfd(2) takes the privilege to trace, which a user does not have over a process that is hidden.
            self.say(Outside::Send, 0)?;
            let (.., listener) = self.hear_any(&[Inside::Listener])?;
            listener.ok_or_else(|| Error::other("the container's init sent no listener"))?
        };
        hand_on(listener)?;
        self.expect(Inside::Ready)
    }

    /// Why the inside has failed, if it has: what the outside does with a process that has ended fails as well, and says less.
    pub(crate) fn last_word(&self) -> Option<Error> {
        let mut buffer = vec![0; MAX_TEXT + 1];
        while !self.is_silent().ok()? {
            let (n, _) = receive(&self.0, &mut buffer).ok()?;
            match buffer.get(..n)? {
                [] => break,
                [said, text @ ..] if *said == Inside::Failed as u8 => {
                    return Some(Error::other(String::from_utf8_lossy(text)));
                }
                _ => {}
            }
        }
        None
    }

    /// Waits for the end of the stream, which close-on-exec brings about: the program runs.
    ///
    /// # Errors
    /// The inside's own text.
    pub(crate) fn expect_end(&self) -> Result<()> {
        let mut buffer = vec![0; MAX_TEXT + 1];
        let (n, _) = receive(&self.0, &mut buffer)?;
        match buffer.get(1..n) {
            None => Ok(()),
            Some(text) => Err(Error::other(String::from_utf8_lossy(text))),
        }
    }

    fn hear(&self, word: Inside) -> Result<Vec<u8>> {
        self.hear_any(&[word]).map(|(_, packet, _)| packet)
    }

    fn hear_any(&self, words: &[Inside]) -> Result<(Inside, Vec<u8>, Option<OwnedFd>)> {
        let mut buffer = vec![0; MAX_TEXT + 1];
        let (n, fd) = receive(&self.0, &mut buffer)?;
        let wanted = || words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        match buffer.get(..n) {
            Some([said, text @ ..]) if *said == Inside::Failed as u8 => {
                Err(Error::other(String::from_utf8_lossy(text)))
            }
            Some([said, rest @ ..]) => match words.iter().find(|word| **word as u8 == *said) {
                Some(word) => Ok((*word, rest.to_vec(), fd)),
                None => Err(Error::other(format!("the container's init said {said} instead of {}", wanted()))),
            },
            Some([]) | None => Err(Error::other(format!("the container's init died before it said {}", wanted()))),
        }
    }
}

impl AsFd for ToOutside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ToOutside {
    /// Says `word`.
    pub(crate) fn say(&self, word: Inside) -> Result<()> {
        self.write(&[word as u8])
    }

    /// Has the other side give the agent the listener of the filter that was just loaded. None stays here: once the agent
    /// is gone, the calls that it should answer have to fail.
    #[allow(clippy::needless_pass_by_value, reason = "it is closed here")]
    pub(crate) fn give_listener(&self, listener: OwnedFd) -> Result<()> {
        let [a, b, c, d] = listener.as_raw_fd().to_ne_bytes();
        self.write(&[Inside::Listener as u8, a, b, c, d])?;
        match self.hear()? {
            (said, _) if said == Outside::Taken as u8 => Ok(()),
            (said, _) if said == Outside::Send as u8 => {
                send(&self.0, &[Inside::Listener as u8], Some(listener.as_fd()))
            }
            _ => Err(Self::silence(Outside::Taken)),
        }
    }

    /// Waits for `Network`; returns the namespace.
    pub(crate) fn expect_network(&self) -> Result<OwnedFd> {
        match receive(&self.0, &mut [0; 5])? {
            (_, Some(namespace)) => Ok(namespace),
            _ => Err(Self::silence(Outside::Network)),
        }
    }

    /// Says `NeedsIds`: `init` is the process that was made in this one's stead, if one was.
    pub(crate) fn say_needs_ids(&self, init: Option<Pid>) -> Result<()> {
        let mut packet = vec![Inside::NeedsIds as u8];
        packet.extend(Pid::as_raw(init).to_ne_bytes());
        send(&self.0, &packet, None)
    }

    /// Has the other side give the detached mount of step `index` its ids.
    pub(crate) fn map_ids(&self, index: usize, mount: BorrowedFd<'_>) -> Result<()> {
        let mut packet = vec![Inside::MapIds as u8];
        packet.extend((index as u32).to_ne_bytes());
        send(&self.0, &packet, Some(mount))?;
        self.expect(Outside::Mapped).map(drop)
    }

    /// Says why this is the end.
    pub(crate) fn fail(&self, error: &Error) {
        let mut packet = vec![Inside::Failed as u8];
        packet.extend(shortened(&error.to_string(), MAX_TEXT).bytes());
        // Nobody is left to tell if the outside died.
        drop(self.write(&packet));
    }

    /// Waits for `word`; returns init's pid on the host.
    pub(crate) fn expect(&self, word: Outside) -> Result<i32> {
        match self.hear()? {
            (said, pid) if said == word as u8 => Ok(pid),
            _ => Err(Self::silence(word)),
        }
    }

    fn silence(word: Outside) -> Error {
        Error::other(format!("the runtime died before it said {word:?}"))
    }

    /// The next word, 0 for none, and init's pid.
    fn hear(&self) -> Result<(u8, i32)> {
        let mut buffer = [0; 5];
        match (retry_on_intr(|| read(&self.0, &mut buffer)), buffer) {
            (Ok(5), [said, a, b, c, d]) => Ok((said, i32::from_ne_bytes([a, b, c, d]))),
            (Ok(_) | Err(Errno::CONNRESET), _) => Ok((0, 0)),
            (Err(error), _) => Err(error).at("listen across the birth"),
        }
    }

    fn write(&self, packet: &[u8]) -> Result<()> {
        retry_on_intr(|| write(&self.0, packet)).at("talk across the birth").map(drop)
    }
}

fn send(socket: &OwnedFd, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(socket.as_fd(), &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)
        .at("talk across the birth")
        .map(drop)
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            // Reset: the peer died with something unheard. What it said itself can still be heard, and then the end.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(error) => return Err(error).at("listen across the birth"),
            Ok(received) => {
                let fd = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                return Ok((received.bytes, fd));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::PidfdFlags;

    #[test]
    fn words_texts_and_descriptors_arrive() {
        let (outside, inside) = pair().unwrap();
        // A process that lives: ourselves.
        let speaker = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        inside.say_needs_ids(None).unwrap();
        assert_eq!(outside.expect_needs_ids(Pid::INIT, speaker.as_fd()).unwrap(), Pid::INIT);
        inside.say_needs_ids(Pid::from_raw(7)).unwrap();
        assert_eq!(outside.expect_needs_ids(Pid::INIT, speaker.as_fd()).unwrap(), Pid::from_raw(7).unwrap());
        outside.say(Outside::Go, 42).unwrap();
        assert_eq!(inside.expect(Outside::Go).unwrap(), 42);
        inside.say(Inside::Ready).unwrap();
        outside.expect_ready(speaker.as_fd(), |_| panic!("nobody gave one")).unwrap();
        inside.fail(&Error::other("no such file").at("chdir"));
        assert_eq!(outside.expect(Inside::Ready).unwrap_err().to_string(), "chdir: no such file");
        assert!(outside.last_word().is_none());
        inside.say(Inside::MountsDone).unwrap();
        inside.fail(&Error::other("no such user"));
        assert_eq!(outside.last_word().unwrap().to_string(), "no such user");
    }

    #[test]
    fn a_listener_is_taken_or_sent() {
        let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        let file = tempfile::tempfile().unwrap();
        let expected = rustix::fs::fstat(&file).unwrap().st_ino;
        // A descriptor that is no pidfd stands for a process that may not be looked into.
        for speaker in [own.as_fd(), file.as_fd()] {
            let (outside, inside) = pair().unwrap();
            let given = file.try_clone().unwrap();
            let speaks = std::thread::spawn(move || {
                inside.give_listener(given.into()).unwrap();
                inside.say(Inside::Ready).unwrap();
            });
            let taken = std::cell::Cell::new(0);
            let take = |listener: OwnedFd| {
                taken.set(rustix::fs::fstat(&listener).unwrap().st_ino);
                Ok(())
            };
            outside.expect_ready(speaker, take).unwrap();
            speaks.join().unwrap();
            assert_eq!(taken.get(), expected);
        }
    }

    #[test]
    fn ids_are_mapped_until_the_mounts_are_done() {
        let (outside, inside) = pair().unwrap();
        let asks = std::thread::spawn(move || {
            let null = std::fs::File::open("/dev/null").unwrap();
            inside.map_ids(7, null.as_fd()).unwrap();
            inside.map_ids(9, null.as_fd()).unwrap();
            inside.say(Inside::MountsDone).unwrap();
        });
        let served = std::cell::RefCell::new(Vec::new());
        let serve = |index, _: BorrowedFd<'_>| {
            served.borrow_mut().push(index);
            Ok(())
        };
        outside.expect_mounts(serve).unwrap();
        asks.join().unwrap();
        assert_eq!(served.into_inner(), [7, 9]);
    }

    #[test]
    fn a_dead_speaker_is_seen_though_another_holds_the_stream() {
        let (outside, inside) = pair().unwrap();
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(dead.id() as i32).unwrap();
        let speaker = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        dead.wait().unwrap();
        assert!(outside.expect_needs_ids(pid, speaker.as_fd()).unwrap_err().to_string().contains("died"));
        // Its last word counts.
        inside.say_needs_ids(Pid::from_raw(7)).unwrap();
        assert_eq!(outside.expect_needs_ids(pid, speaker.as_fd()).unwrap(), Pid::from_raw(7).unwrap());
    }

    #[test]
    fn a_dead_peer_and_a_wrong_word_are_errors() {
        let (outside, inside) = pair().unwrap();
        inside.say(Inside::Ready).unwrap();
        assert!(outside.expect(Inside::NeedsIds).unwrap_err().to_string().contains("instead of"));
        drop(inside);
        assert!(outside.expect(Inside::NeedsIds).unwrap_err().to_string().contains("died"));
        let (outside, inside) = pair().unwrap();
        drop(outside);
        assert!(inside.expect(Outside::Go).unwrap_err().to_string().contains("died"));
    }
}
