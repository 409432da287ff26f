//! Hooks (runtime-spec `config.md`, "POSIX-platform Hooks"): programs that get the container's state on standard input.

use crate::{
    error::{At, Error, Result},
    spec::Hook,
    sys,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::AsFd,
    fs::MemfdFlags,
    process::{Pid, PidfdFlags},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

/// What a failing hook printed is quoted up to here, in bytes.
const QUOTED: u64 = 4096;

/// The OCI state (runtime-spec `runtime.md`, "State"), as hooks and `state` show it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciState<'a> {
    /// Of the configuration.
    pub oci_version: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'a str,
    /// As the host numbers it; 0 when there is none.
    pub pid: i32,
    /// Absolute.
    pub bundle: &'a Path,
    /// Of the configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<String, String>,
}

/// Runs `hooks` in order, in the directory `cwd`; the first failure ends it.
pub(crate) fn run(name: &str, hooks: &[Hook], state: &OciState<'_>, cwd: Option<&Path>) -> Result<()> {
    run_with(name, hooks, state, cwd, &[])
}

/// The same, with the environment for hooks that have none of their own.
pub(crate) fn run_with(
    name: &str,
    hooks: &[Hook],
    state: &OciState<'_>,
    cwd: Option<&Path>,
    env: &[String],
) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(state).map_err(|error| Error::other(error.to_string()))?;
    for (i, hook) in hooks.iter().enumerate() {
        tracing::debug!("{name} hook #{i}: {}", hook.path.display());
        run_one(hook, &state, cwd, env)
            .at_with(|| format!("error running {name} hook #{i}: {}", hook.path.display()))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8], cwd: Option<&Path>, env: &[String]) -> Result<()> {
    // Files and not pipes: a hook that does not read its input cannot hold us up, nor can a daemon that it leaves behind with
    // its output open.
    let file = || Ok::<_, Error>(File::from(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC).at("memfd_create")?));
    let (mut input, mut output) = (file()?, file()?);
    input.write_all(state)?;
    input.rewind()?;
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    let env = if hook.env.is_empty() { env } else { &hook.env };
    command.env_clear().envs(env.iter().filter_map(|entry| entry.split_once('=')));
    command.stdin(Stdio::from(input)).stdout(output.try_clone()?).stderr(output.try_clone()?);
    if let Some(cwd) = cwd {
        command.current_dir(cwd);
    }
    sys::start_unblocked(&mut command);
    let mut child = command.spawn()?;
    let status = wait(&mut child, hook.timeout)?;
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    output.rewind()?;
    output.take(QUOTED).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal: {}", sys::signal_text(signal.unwrap_or_default())),
    };
    let output = match text.trim() {
        "" => String::new(),
        text => format!(", output: {}", text.replace('\n', "; ")),
    };
    Err(Error::other(format!("{ended}{output}")))
}

fn wait(child: &mut Child, timeout: Option<i64>) -> Result<ExitStatus> {
    let Some(seconds) = timeout else { return Ok(child.wait()?) };
    let pid = Pid::from_raw(child.id() as i32).ok_or_else(|| Error::other("the hook has no pid"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).at("pidfd_open")?;
    let limit = Timespec { tv_sec: seconds.max(0), tv_nsec: 0 };
    if poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&limit))? == 0 {
        child.kill()?;
        child.wait()?;
        return Err(Error::other(format!("still running after {seconds} s (its timeout), killed")));
    }
    Ok(child.wait()?)
}
