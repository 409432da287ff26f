//! User namespaces that nobody lives in: id-mapped mounts take their maps from one.

use crate::{
    error::{At, Error, Result},
    inside::mounts::{self, IdMap, Ids, Step, What},
    outside::ids::Maps,
    sys::{self, Born, clone3},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::{WaitId, WaitIdOptions, waitid},
};

/// One for each mapping that a mount asks for.
#[derive(Default)]
pub(super) struct UserNamespaces(Vec<(Ids, OwnedFd)>);

impl UserNamespaces {
    /// Those that `steps` need. To be called in the namespaces and with the privilege of the caller.
    pub(super) fn of(steps: &[Step]) -> Result<Self> {
        let mut all = Self(Vec::new());
        for step in steps {
            let What::Bind { id_map: Some(id_map), .. } = &step.what else { continue };
            if all.find(&id_map.ids).is_none() {
                let namespace = open(&id_map.ids).at_with(|| step.failing.clone())?;
                all.0.push((id_map.ids.clone(), namespace));
            }
        }
        Ok(all)
    }

    /// Gives the detached `mount` the ids of its mapping.
    pub(super) fn map(&self, mount: BorrowedFd<'_>, id_map: &IdMap) -> Result<()> {
        let namespace = self.find(&id_map.ids).ok_or_else(|| Error::other("its mapping is not at hand"))?;
        mounts::map_ids(mount, id_map.recursive, namespace)
    }

    fn find(&self, ids: &Ids) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(known, _)| known == ids).map(|(_, namespace)| namespace.as_fd())
    }
}

fn open(ids: &Ids) -> Result<OwnedFd> {
    match ids {
        Ids::Namespace(path) => {
            rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
                .at_with(|| format!("failed to open existing userns {}", path.display()))
        }
        Ids::Maps { uids, gids } => make(&Maps::of(uids, gids, true)).at("failed to create userns for id-mapping"),
    }
}

/// A namespace needs a first process; it goes when the namespace is held by its descriptor.
fn make(maps: &Maps) -> Result<OwnedFd> {
    let (held, hold) = pipe_with(PipeFlags::CLOEXEC).at("pipe")?;
    let (pid, pidfd) = match clone3(libc::CLONE_NEWUSER as u64, None).at("clone3")? {
        Born::Child => {
            drop(hold);
            // Until the other end is closed, also by the caller's death.
            let _ = rustix::io::read(&held, &mut [0]);
            sys::exit(0)
        }
        Born::Parent { pid, pidfd } => (pid, pidfd),
    };
    let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
    let made = maps.write(pid).and_then(|()| {
        rustix::fs::openat(CWD, &*path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .at_with(|| format!("open {path}"))
    });
    drop(hold);
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).at("wait for the namespace's process")?;
    made
}
