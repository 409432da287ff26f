//! Whose a container's cgroup is (runtime-spec `config-linux.md`, "Cgroup ownership").

use super::{Cgroup, Mode};
use crate::error::{At, Result};
use rustix::{
    fs::{AtFlags, Uid, chownat},
    io::Errno,
};

/// What a kernel has that does not list them (before 4.15).
const DELEGATED: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads";

impl Cgroup {
    /// Gives the cgroup to a user, who can then make cgroups in it and move its processes among them. Its limits stay the
    /// host's: only the directory and the files that the kernel lists for this change hands. v1 cannot be given safely, and
    /// stays as it is.
    pub fn give_to(&self, uid: u32) -> Result<()> {
        if self.placement().mode != Mode::V2 {
            return Ok(());
        }
        let Some(dir) = self.clone_into() else { return Ok(()) };
        let owner = Some(Uid::from_raw(uid));
        chownat(dir, "", owner, None, AtFlags::EMPTY_PATH).at("give the cgroup to the container's user")?;
        let listed = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
        for file in listed.as_deref().unwrap_or(DELEGATED).lines().filter(|it| !it.contains('/')) {
            match chownat(dir, file, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
                // Of a controller that is not here.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).at_with(|| format!("give {file} to the container's user")),
            }
        }
        Ok(())
    }
}
