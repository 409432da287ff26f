//! Hands a seccomp notification descriptor to the agent at `listenerPath` (runtime-spec `config-linux.md`,
//! "The Container Process State").

use super::hooks::OciState;
use crate::{
    error::{At, Error, Result},
    spec::Seccomp,
};
use rustix::{
    fd::BorrowedFd,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::Pid,
};
use serde::Serialize;
use std::{io::IoSlice, mem::MaybeUninit, os::unix::net::UnixStream};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a OciState<'a>,
}

/// Sends `listener` with the number of the process that it watches, as the host has it, and the state of its container.
pub(crate) fn send(seccomp: &Seccomp, listener: BorrowedFd<'_>, pid: Pid, state: &OciState<'_>) -> Result<()> {
    if seccomp.listener_path.is_empty() {
        return Err(Error::other("must be set: the profile has SCMP_ACT_NOTIFY"));
    }
    let state = ProcessState {
        oci_version: state.oci_version,
        fds: ["seccompFd"],
        pid: pid.as_raw_nonzero().get(),
        metadata: &seccomp.listener_metadata,
        state,
    };
    let json = serde_json::to_vec(&state).map_err(|error| Error::other(error.to_string()))?;
    let socket = UnixStream::connect(&seccomp.listener_path)
        .at_with(|| format!("failed to connect with seccomp agent at {}", seccomp.listener_path))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [listener];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&socket, &[IoSlice::new(&json)], &mut control, SendFlags::NOSIGNAL).at("send the descriptor").map(drop)
}
