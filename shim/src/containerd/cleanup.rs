//! `delete`: cleans up after a container whose shim is gone. containerd also calls it after every normal end, when there
//! is nothing left to do, so the usual case must be quick.

use std::io::Write;
use std::path::PathBuf;
use std::{env, io};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;

use super::bootstrap;
use super::container::{PID_FILE, read_pid};
use super::events::timestamp;
use super::flags::Flags;
use super::options::Options;
use super::rootfs;
use crate::error::{Context, Error, Result};
use crate::reap::Exit;

const SIGKILL: u32 = 9;

/// Answers `delete`.
pub(crate) fn delete(flags: &Flags) -> Result<()> {
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => working_directory()?.with_file_name(&flags.id),
    };
    let options = Options::load(&bundle)?;
    remove(flags, &options, &bundle);
    if let Err(error) = rootfs::unmount_all(&bundle.join("rootfs")) {
        warn(&error);
    }
    bootstrap::remove_dead_socket(&bundle);
    let exit = Exit::by_signal(SIGKILL);
    let response = DeleteResponse {
        // A container that never came to be has no pid.
        pid: read_pid(&bundle.join(PID_FILE)).unwrap_or(0),
        exit_status: exit.status,
        exited_at: Some(timestamp(exit.at)).into(),
        ..DeleteResponse::default()
    };
    let response = response.write_to_bytes().map_err(|error| Error::other(format!("encode the answer: {error}")))?;
    io::stdout().write_all(&response).context(|| "answer containerd")
}

/// Has the runtime remove what it still knows of the container, by force: nobody else is left to kill it.
fn remove(flags: &Flags, options: &Options, bundle: &std::path::Path) {
    let runtime = match options.runtime(&flags.namespace, bundle) {
        Ok(runtime) => runtime,
        Err(error) => return warn(&error),
    };
    if runtime.state_dir(&flags.id).is_some_and(|state| state.exists())
        && let Err(error) = runtime.call("delete").args(["--force", &flags.id]).run()
    {
        warn(&error);
    }
}

fn working_directory() -> Result<PathBuf> {
    env::current_dir().context(|| "find the working directory")
}

/// containerd logs what the helper says on stderr.
fn warn(error: &Error) {
    let _: io::Result<()> = writeln!(io::stderr(), "{error}");
}
