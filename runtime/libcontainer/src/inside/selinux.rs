//! SELinux labels. What `libselinux` would do for them: write them to files of procfs.

use super::procfs::Procfs;
use crate::error::{At, Error, Result};

/// Refuses a label where the host has none: it would promise what is not there.
pub(crate) fn check(field: &str, label: &str) -> Result<()> {
    if label.is_empty() || std::fs::exists("/sys/fs/selinux/enforce").unwrap_or(false) {
        return Ok(());
    }
    Err(Error::invalid(field, "selinux label is specified in config, but selinux is disabled or not supported"))
}

/// Gives the keys that the caller makes this label, if any, until it executes a program.
pub(crate) fn label_keys(procfs: &Procfs, label: &str) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    procfs.write("self/attr/keycreate", label).at("label the session keyring")
}
