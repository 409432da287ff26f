//! `shim rm`: removes a container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::runtime::kind_of_complaint;
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::say;
use crate::solo::verb::{kill, pause, wait};

const KILL: u8 = 9;

/// Removes a container that has ended, or with `force` any, whatever state it is in.
pub(crate) fn rm(layout: &Layout, name: &str, force: bool) -> Result<()> {
    let directory = layout.find(name)?;
    let status = directory.status();
    match status {
        Ok(Status::Exited(_)) => directory.await_monitor(),
        Ok(Status::Running { .. } | Status::Starting | Status::Restarting(_)) if !force => {
            let text = format!("container {name} is running: stop it first (shim stop {name}), or use rm -f");
            return Err(Error::new(Kind::FailedPrecondition, text));
        }
        Ok(Status::Running { watched: true, .. } | Status::Starting | Status::Restarting(_)) => {
            kill_watched(&directory)?;
            // What is frozen dies when it is thawed, on cgroup v1.
            pause::thaw(&directory);
            let _: Result<_> = wait::until_ended(&directory);
        }
        // Unreadable records must not keep anybody from getting rid of them.
        Err(error) if !force => return Err(error),
        Ok(Status::Running { .. } | Status::Lost) | Err(_) => forget_in_runtime(&directory)?,
    }
    directory.remove()?;
    say(name);
    Ok(())
}

/// Kills a container whose monitor is at work: it may be about to make the container, or to bury it, and then nobody can be
/// asked to kill it at that moment.
fn kill_watched(directory: &Directory) -> Result<()> {
    while let Err(error) = kill::end(directory, KILL) {
        match directory.status()? {
            Status::Exited(_) => break,
            Status::Lost => return forget_in_runtime(directory),
            _ if kind_of_complaint(error.text()) == Kind::NotFound => std::thread::yield_now(),
            _ => return Err(error),
        }
    }
    Ok(())
}

/// Has the runtime kill and forget a container that nobody watches any more.
pub(crate) fn forget_in_runtime(directory: &Directory) -> Result<()> {
    // Without options there was never a container.
    let Ok(options) = directory.options() else {
        return Ok(());
    };
    let runtime = directory.runtime(&options);
    // The runtime may have refused the name because it has a container of somebody else's under it.
    let state = runtime.call("state").arg(&directory.name).run();
    if state.is_ok_and(|state| is_foreign(&state, &directory.path.join("bundle"))) {
        return Ok(());
    }
    runtime.call("delete").args(["--force", &directory.name]).run().map(drop)
}

/// Whether a runtime's `state` tells of a container from another bundle than `ours`.
fn is_foreign(state: &[u8], ours: &Path) -> bool {
    let state: Value = serde_json::from_slice(state).unwrap_or_default();
    let Some(bundle) = state["bundle"].as_str().filter(|bundle| !bundle.is_empty()).map(Path::new) else {
        return false;
    };
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    bundle != ours && identity(bundle).is_none_or(|theirs| Some(theirs) != identity(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_container_from_our_bundle_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (bundle, link) = (dir.path().join("bundle"), dir.path().join("link"));
        fs::create_dir(&bundle).unwrap();
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let state = |path: &Path| serde_json::json!({"id": "x", "bundle": path}).to_string().into_bytes();
        assert!(!is_foreign(&state(&bundle), &bundle));
        assert!(!is_foreign(&state(&link.join("bundle")), &bundle), "the same by another path");
        assert!(!is_foreign(b"no state", &bundle));
        assert!(is_foreign(&state(dir.path()), &bundle));
        assert!(is_foreign(&state(Path::new("/gone")), &bundle));
    }
}
