//! `state`: the OCI state of a container, with runc's further fields.

use crate::cli::{Global, Id};
use libcontainer::{
    At, Result,
    life::{self, Status},
    store::{Slot, State},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// As runc prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    oci_version: String,
    pub(crate) id: String,
    pub(crate) pid: i32,
    pub(crate) status: String,
    pub(crate) bundle: PathBuf,
    rootfs: PathBuf,
    pub(crate) created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    pub(crate) owner: String,
}

pub(crate) fn run(global: &Global, args: &Id) -> Result<u8> {
    let slot = super::find(global, &args.id)?;
    let state = life::load(&slot).at_with(|| args.id.clone())?;
    super::print_json(&shown(&slot, state))?;
    Ok(0)
}

/// A container as users see it.
pub(crate) fn shown(slot: &Slot, state: State) -> Shown {
    let status = Status::of(slot, &state);
    Shown {
        pid: if status == Status::Stopped { 0 } else { state.pid },
        status: status.to_string(),
        created: super::rfc3339(state.created / 1_000_000_000, Some((state.created % 1_000_000_000) as u32)),
        owner: user_name(state.owner).unwrap_or_else(|| format!("#{}", state.owner)),
        oci_version: state.oci_version,
        id: state.id,
        bundle: state.bundle,
        rootfs: state.rootfs,
        annotations: state.annotations,
    }
}

/// By the host's `/etc/passwd`.
fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
