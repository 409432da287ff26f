//! Who runs from a bundle. A root file system that is written to, and hooks that keep something beside it, serve one
//! container at a time: a second one would write into the first one's files and take its addresses.
//!
//! The monitor of a container holds a lock (flock) on the directory of its bundle, shared if others may run from the
//! bundle beside it. A container whose monitor was killed holds none, but its record is there: it is looked for.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use super::directory::{Directory, Layout, Status};
use super::record::Options;
use crate::error::{Error, Kind, Result};

/// Takes the bundle for a container. `None`: it has no directory that we may read, or one on a file system that knows no
/// locks.
pub(super) fn claim(layout: &Layout, directory: &Directory, options: &Options) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(bundle) = openat(CWD, &options.bundle, flags, Mode::empty()) else {
        return Ok(None);
    };
    let operation = if options.shares_bundle {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    let bundle = File::from(bundle);
    let locked = match flock(&bundle, operation) {
        Ok(()) => true,
        Err(Errno::WOULDBLOCK) => return Err(taken(options, user(layout, directory, options, &bundle)?.as_ref())),
        Err(_) => false,
    };
    match user(layout, directory, options, &bundle)? {
        Some(other) => Err(taken(options, Some(&other))),
        None => Ok(locked.then(|| bundle.into())),
    }
}

/// Another container of ours that runs from the bundle and does not bear us beside it. One that is just being started is
/// none: of two at a time, one has the lock.
fn user(layout: &Layout, directory: &Directory, options: &Options, bundle: &File) -> Result<Option<Directory>> {
    let Ok(own) = bundle.metadata() else { return Ok(None) };
    let same = |path: &Path| fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()));
    let others = layout.all()?.into_iter().filter(|other| other.name != directory.name);
    Ok(others.into_iter().find(|other| {
        // One that cannot be read, or is just going, is none.
        other.options().is_ok_and(|theirs| !(theirs.shares_bundle && options.shares_bundle) && same(&theirs.bundle))
            && matches!(other.status(), Ok(Status::Running { .. } | Status::Restarting(_)))
    }))
}

fn taken(options: &Options, user: Option<&Directory>) -> Error {
    let bundle = options.bundle.display();
    let advice = "what it keeps there is for one container at a time: make another bundle";
    let text = match user {
        Some(Directory { name, .. }) => {
            format!(
                "bundle {bundle} is in use by container {name}: {advice}, or stop that one first (shim stop {name})"
            )
        }
        None => format!("bundle {bundle} is in use by another container: {advice}"),
    };
    Error::new(Kind::FailedPrecondition, text)
}
