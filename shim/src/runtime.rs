//! Client of an OCI runtime's command line: all that the shim knows of a runtime is how runc is called.
//!
//! A call is prepared by [`Runtime::call`], started by [`Call::spawn`], and judged by [`Running::finish`] once the caller
//! has waited for its end in whatever way suits its event loop.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;

use crate::error::{Context, Error, Kind, Result};

/// Names the runtime binary when no option does.
const RUNTIME_VARIABLE: &str = "TARE_RUNTIME";
/// The name under which a runtime is looked for beside the shim and on PATH.
const RUNTIME_NAME: &str = "runtime";
/// Addressed to the shim's own starter; a runtime must not mistake them for its own.
const PRIVATE_VARIABLES: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
/// More than this of a runtime's complaint helps nobody.
const MAX_COMPLAINT: u64 = 64 * 1024;

/// Makes the log names of calls that run at the same time differ.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// A runtime binary and the global flags that every call of it gets.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    /// Path of the binary, or a name to be found on PATH.
    pub(crate) binary: PathBuf,
    /// `--root`: where the runtime keeps its state. The runtime's default if absent.
    pub(crate) root: Option<PathBuf>,
    /// `--systemd-cgroup`.
    pub(crate) systemd_cgroup: bool,
    /// Where the `--log` files of calls live for the time of the call.
    pub(crate) log_dir: PathBuf,
}

/// Finds the runtime binary: `chosen`, else `$TARE_RUNTIME`, else `runtime` beside the shim, else `runtime` on PATH.
pub(crate) fn locate(chosen: Option<&OsStr>) -> Result<PathBuf> {
    let variable = env::var_os(RUNTIME_VARIABLE);
    if let Some(name) = chosen.or(variable.as_deref()).filter(|name| !name.is_empty()) {
        return if name.as_encoded_bytes().contains(&b'/') {
            std::path::absolute(name).context(|| format!("find the runtime {}", name.display()))
        } else {
            on_path(name)
                .ok_or_else(|| Error::new(Kind::NotFound, format!("runtime {}: not found on PATH", name.display())))
        };
    }
    let beside = env::current_exe().ok().map(|shim| shim.with_file_name(RUNTIME_NAME));
    beside.filter(|path| is_executable(path)).or_else(|| on_path(OsStr::new(RUNTIME_NAME))).ok_or_else(|| {
        let text = "no OCI runtime found: install one as `runtime` beside the shim or on PATH, name it by option \
                    (--runtime, or binary_name under containerd), or set TARE_RUNTIME";
        Error::new(Kind::NotFound, text)
    })
}

fn on_path(name: &OsStr) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

impl Runtime {
    /// Prepares a call of `verb`. Standard streams are: nothing in, both outputs captured.
    pub(crate) fn call(&self, verb: &'static str) -> Call {
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        let log = self.log_dir.join(format!("runtime-{verb}-{}-{number}.log", std::process::id()));
        let mut command = Command::new(&self.binary);
        if let Some(root) = &self.root {
            command.arg("--root").arg(root);
        }
        command.arg("--log").arg(&log).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.arg(verb);
        for name in PRIVATE_VARIABLES {
            command.env_remove(name);
        }
        Call { command, log, streams: None }
    }

    /// The directory in which this runtime keeps the state of container `id`, if its root is known.
    pub(crate) fn state_dir(&self, id: &str) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join(id))
    }
}

/// A prepared call of the runtime.
#[derive(Debug)]
pub(crate) struct Call {
    command: Command,
    log: PathBuf,
    streams: Option<[Stdio; 3]>,
}

impl Call {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds `flag` if `wanted`.
    pub(crate) fn flag(self, flag: &str, wanted: bool) -> Self {
        if wanted { self.arg(flag) } else { self }
    }

    /// Gives the call these streams (a container inherits them) instead of capturing its output.
    pub(crate) fn streams(mut self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Self {
        self.streams = Some([stdin, stdout, stderr]);
        self
    }

    /// Starts the runtime. Streams given to [`Call::streams`] are closed on our side when this returns.
    pub(crate) fn spawn(mut self) -> Result<Running> {
        let mut captured = None;
        let [stdin, stdout, stderr] = if let Some(streams) = self.streams.take() {
            streams
        } else {
            // Memory files instead of pipes: a chatty runtime can never block on them.
            let (out, err) = (capture("stdout")?, capture("stderr")?);
            let streams = [Stdio::null(), duplicate(&out)?.into(), duplicate(&err)?.into()];
            captured = Some((out, err));
            streams
        };
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        let binary = self.command.get_program().display().to_string();
        let child = self.command.spawn().context(|| format!("start the runtime {binary}"))?;
        Ok(Running { child, log: self.log, captured })
    }

    /// Runs the call to its end, blocking.
    pub(crate) fn run(self) -> Result<Vec<u8>> {
        let mut running = self.spawn()?;
        running.wait()?;
        running.finish()
    }
}

fn capture(name: &str) -> Result<File> {
    memfd_create(name, MemfdFlags::CLOEXEC).map(File::from).context(|| "create a memory file")
}

fn duplicate(file: &File) -> Result<OwnedFd> {
    file.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor")
}

/// A call at work.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    captured: Option<(File, File)>,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the runtime, blocking.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.child.wait().map(drop).context(|| "wait for the runtime")
    }

    /// Collects the ended runtime and returns what it printed, or what it complained of.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        let status = self.child.wait().context(|| "wait for the runtime")?;
        let complaint = fs::read(&self.log).ok();
        let _: std::io::Result<()> = fs::remove_file(&self.log);
        let (out, err) = match self.captured.take() {
            Some((out, err)) => (contents(out)?, contents(err)?),
            None => (Vec::new(), Vec::new()),
        };
        if status.success() {
            return Ok(out);
        }
        let logged = complaint.and_then(|log| last_error(&log));
        let said = || Some(String::from_utf8_lossy(&err).trim().to_owned()).filter(|text| !text.is_empty());
        Err(Error::other(logged.or_else(said).unwrap_or_else(|| format!("the runtime ended with {status}"))))
    }
}

fn contents(mut file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.take(MAX_COMPLAINT * 64).read_to_end(&mut bytes))
        .context(|| "read the runtime's output")?;
    Ok(bytes)
}

/// One line of a runtime's `--log-format json`.
#[derive(Deserialize)]
struct LogLine {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The message of the last line of level `error` (or `fatal`) in a runtime's JSON log.
fn last_error(log: &[u8]) -> Option<String> {
    let start = log.len().saturating_sub(MAX_COMPLAINT as usize);
    log[start..]
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<LogLine>(line).ok())
        .filter(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"))
        .map(|line| line.msg.trim().to_owned())
        .rfind(|message| !message.is_empty())
}

/// What a runtime's complaint about a container means to the caller. Runtimes have no error codes, only these texts.
pub(crate) fn kind_of_complaint(text: &str) -> Kind {
    let text = text.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if says(&[
        "process already finished",
        "container not running",
        "no such process",
        "is not running",
        "does not exist",
    ]) {
        Kind::NotFound
    } else {
        Kind::Other
    }
}

/// Tells a command that is missing (127) or cannot be executed (126) from other failures to start `command`.
pub(crate) fn kind_of_start_failure(text: &str, command: &str) -> Kind {
    // A missing mount source is "no such file" too: the complaint must be about the command.
    // (crun does not name it when it cannot open it.)
    if command.is_empty() || !(text.contains(command) || text.starts_with("open executable")) {
        return Kind::Other;
    }
    let text = text.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if says(&["executable file not found", "executable file `", "no such file or directory", "not found in $path"]) {
        Kind::NoCommand
    } else if says(&["permission denied", "operation not permitted", "is a directory", "exec format error"]) {
        Kind::NotExecutable
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_the_complaint() {
        let log = br#"{"level":"warning","msg":"lazy","time":"2024-01-01T00:00:00Z"}
{"level":"error","msg":"first","time":"2024-01-01T00:00:00Z"}
not json
{"level":"error","msg":" container \"x\" does not exist\n","time":"t"}
{"level":"debug","msg":"bye"}"#;
        assert_eq!(last_error(log).as_deref(), Some("container \"x\" does not exist"));
        assert_eq!(last_error(b""), None);
        assert_eq!(last_error(b"{\"level\":\"info\",\"msg\":\"x\"}"), None);
    }

    #[test]
    fn start_failures_are_told_apart_as_docker_does() {
        for (text, command, kind) in [
            (r#"exec: "nope": executable file not found in $PATH: unknown"#, "nope", Kind::NoCommand),
            (r#"exec: "/x/y": stat /x/y: no such file or directory"#, "/x/y", Kind::NoCommand),
            ("executable file `nope` not found in $PATH: No such file or directory", "nope", Kind::NoCommand),
            (r#"exec: "/etc": permission denied"#, "/etc", Kind::NotExecutable),
            (r#"exec: "/etc": is a directory"#, "/etc", Kind::NotExecutable),
            ("open executable: Operation not permitted", "/etc", Kind::NotExecutable),
            ("error mounting \"/nope\": no such file or directory", "sh", Kind::Other),
            ("anything", "", Kind::Other),
        ] {
            assert_eq!(kind_of_start_failure(text, command), kind, "{text}");
        }
    }

    #[test]
    fn complaints_about_absent_containers_are_not_found() {
        for (text, kind) in [
            ("container does not exist", Kind::NotFound),
            ("os: process already finished", Kind::NotFound),
            ("container not running", Kind::NotFound),
            ("kill container: No such process", Kind::NotFound),
            ("permission denied", Kind::Other),
        ] {
            assert_eq!(kind_of_complaint(text), kind, "{text}");
        }
    }

    #[test]
    fn a_failing_runtime_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("fake");
        // The fake plays a runtime: it writes its complaint where --log says.
        fs::write(&script, "#!/bin/sh\nprintf '{\"level\":\"error\",\"msg\":\"no luck\"}\\n' > \"$2\"\nexit 1\n")
            .unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let runtime = Runtime { binary: script, root: None, systemd_cgroup: false, log_dir: dir.path().to_owned() };
        assert_eq!(runtime.call("state").run().unwrap_err().text(), "no luck");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["fake"], "the call's log is gone");
    }
}
