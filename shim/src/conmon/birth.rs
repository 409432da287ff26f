//! Calling the runtime: `create`, `restore` or `exec`, as conmon's callers expect it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::termios::{OptionalActions, OutputModes, tcgetattr, tcsetattr};

use super::flags::Flags;
use super::{LAUNCH, pipes};
use crate::error::{Context, Error, Result};
use crate::io::console::{ConsoleSocket, set_nonblocking};
use crate::io::fifo::pipe;
use crate::reap;

/// More of a runtime's complaint does not help.
const MAX_COMPLAINT: usize = 8192;

/// A container or command that runs, with our ends of its streams.
#[derive(Debug)]
pub(super) struct Born {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// Where the runtime writes the pid.
pub(super) fn pid_file(flags: &Flags) -> PathBuf {
    let default = || PathBuf::from(format!("pidfile-{}", flags.cid));
    let path = flags.container_pidfile.clone().unwrap_or_else(default);
    std::path::absolute(&path).unwrap_or(path)
}

/// Has the runtime make the container, or the command in it.
pub(super) fn bear(flags: &Flags, bundle: Option<&Path>, passthrough: bool, signals: &SignalFd) -> Result<Born> {
    let pid_file = pid_file(flags);
    // A former one's number would be taken for this one's.
    let _: std::io::Result<()> = fs::remove_file(&pid_file);
    let console = flags.terminal.then(Console::open).transpose()?;
    let mut command = command(flags, bundle, &pid_file, console.as_ref());
    let mut born = (None, None, None);
    let theirs = if passthrough {
        [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()]
    } else {
        let mut theirs = [Stdio::null(), Stdio::null(), Stdio::null()];
        if flags.stdin && !flags.terminal {
            let (reader, writer) = pipe()?;
            open_to_all(&reader)?;
            set_nonblocking(&writer)?;
            theirs[0] = reader.into();
            born.0 = Some(writer);
        }
        if !flags.terminal {
            let (ours, stdout) = output()?;
            theirs[1] = stdout;
            born.1 = Some(ours);
        }
        // With a terminal too: until there is one, the runtime complains here.
        let (ours, stderr) = output()?;
        theirs[2] = stderr;
        born.2 = Some(ours);
        theirs
    };
    let [stdin, stdout, stderr] = theirs;
    let mut child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn();
    let child = child.as_mut().map_err(|error| {
        Error::other(format!("start the runtime {}: {}", flags.runtime.display(), crate::error::plain(error)))
    })?;
    // The command holds their ends.
    drop(command);
    let status = wait(child, signals)?;
    let verb = if flags.exec { "exec" } else { "create" };
    if !status.success() {
        let failed = format!("`{} {verb}` failed: {status}", flags.runtime.display());
        return Err(Error::other(complaint(born.2.as_ref()).unwrap_or(failed)));
    }
    if let Some(console) = console {
        let master = console.receive()?;
        born.0 = Some(master.try_clone().context(|| "duplicate the terminal")?);
        born.1 = Some(master);
    }
    let pid = read_pid(&pid_file)
        .map_err(|error| Error::other(complaint(born.2.as_ref()).unwrap_or_else(|| error.text().to_owned())))?;
    Ok(Born { pid, pidfd: reap::open(pid)?, stdin: born.0, stdout: born.1, stderr: born.2 })
}

/// The runtime's command line.
fn command(flags: &Flags, bundle: Option<&Path>, pid_file: &Path, console: Option<&Console>) -> Command {
    let mut command = if replaces_listen_pid(flags) {
        let mut command = Command::new("/proc/self/exe");
        command.arg(LAUNCH).arg(&flags.runtime);
        command
    } else {
        Command::new(&flags.runtime)
    };
    for variable in [pipes::SYNC, pipes::START, pipes::ATTACH] {
        command.env_remove(variable);
    }
    if flags.systemd_cgroup && !flags.exec {
        command.arg("--systemd-cgroup");
    }
    command.args(&flags.runtime_args);
    if flags.exec {
        let spec = flags.exec_process_spec.as_deref().unwrap_or(Path::new(""));
        command.args([
            OsStr::new("exec"),
            "--pid-file".as_ref(),
            pid_file.as_ref(),
            "--process".as_ref(),
            spec.as_ref(),
        ]);
        command.arg("--detach");
    } else {
        let bundle = bundle.unwrap_or(Path::new("."));
        command.arg(if flags.restore.is_some() { "restore" } else { "create" });
        command.arg("--bundle").arg(bundle).arg("--pid-file").arg(pid_file);
        if flags.no_pivot {
            command.arg("--no-pivot");
        }
        if flags.no_new_keyring {
            command.arg("--no-new-keyring");
        }
        if let Some(image) = &flags.restore {
            command.arg("--detach").arg("--image-path").arg(image).arg("--work-path").arg(bundle);
        }
    }
    command.args(&flags.runtime_opts);
    if let Some(console) = console {
        command.arg("--console-socket").arg(console.socket.path());
    }
    command.arg(&flags.cid);
    command
}

/// Whether sockets that a service manager has passed are for the container: then the runtime must find its own number
/// in LISTEN_PID.
fn replaces_listen_pid(flags: &Flags) -> bool {
    env::var("LISTEN_PID").is_ok_and(|pid| flags.replace_listen_pid || pid == std::process::id().to_string())
}

/// Becomes the runtime, after telling it its own pid. Arguments: the runtime's command line.
pub(super) fn launch(mut words: impl Iterator<Item = OsString>) -> Error {
    use std::os::unix::process::CommandExt;
    let runtime = words.next().unwrap_or_default();
    let error = Command::new(&runtime).args(words).env("LISTEN_PID", std::process::id().to_string()).exec();
    Error::other(format!("start the runtime {}: {}", runtime.display(), crate::error::plain(&error)))
}

/// Waits for the runtime. Signals that ask us to go are for it.
fn wait(child: &mut Child, signals: &SignalFd) -> Result<ExitStatus> {
    let pidfd = reap::open(child.id())?;
    loop {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "wait for the runtime"),
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            if let Some(signal) = Signal::from_named_raw(signal.ssi_signo as i32).filter(|&s| s != Signal::CHILD) {
                let _: rustix::io::Result<()> = pidfd_send_signal(&pidfd, signal);
            }
        }
        if reap::has_ended(&pidfd)? {
            return child.wait().context(|| "wait for the runtime");
        }
    }
}

/// A pipe for output: our end, and theirs.
fn output() -> Result<(OwnedFd, Stdio)> {
    let (ours, theirs) = pipe()?;
    open_to_all(&theirs)?;
    set_nonblocking(&ours)?;
    Ok((ours, theirs.into()))
}

/// Lets the container's user open /dev/stdout and its like again.
fn open_to_all(pipe: &impl AsFd) -> Result<()> {
    fchmod(pipe, Mode::from_raw_mode(0o777)).context(|| "open a pipe to the container's user")
}

/// What the runtime wrote to stderr.
fn complaint(stderr: Option<&OwnedFd>) -> Option<String> {
    let mut buffer = [0_u8; MAX_COMPLAINT];
    let count = rustix::io::read(stderr?, &mut buffer[..]).ok()?;
    Some(String::from_utf8_lossy(&buffer[..count]).into_owned()).filter(|text| !text.trim().is_empty())
}

fn read_pid(path: &Path) -> Result<u32> {
    let text = fs::read_to_string(path).context(|| format!("Failed to read pidfile {}", path.display()))?;
    text.trim().parse().map_err(|_| Error::other(format!("{}: {text:?} is not a pid", path.display())))
}

/// A console socket in a directory of its own: the bundle's path may be too long for a socket.
struct Console {
    socket: ConsoleSocket,
    // After the socket in it.
    _dir: Scratch,
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _: std::io::Result<()> = fs::remove_dir(&self.0);
    }
}

impl Console {
    fn open() -> Result<Self> {
        let mut random = [0_u8; 8];
        getrandom(&mut random, GetRandomFlags::empty()).context(|| "choose a name")?;
        let dir = env::temp_dir().join(format!("conmon-term.{:016x}", u64::from_ne_bytes(random)));
        fs::DirBuilder::new().mode(0o700).create(&dir).context(|| format!("make {}", dir.display()))?;
        let scratch = Scratch(dir);
        Ok(Self { socket: ConsoleSocket::open(&scratch.0)?, _dir: scratch })
    }

    /// Takes the terminal. Its newlines become carriage returns and newlines, whatever the runtime has set.
    fn receive(self) -> Result<OwnedFd> {
        let master = self.socket.receive().map_err(|_| Error::other("Runtime did not set up terminal"))?;
        let mut settings = tcgetattr(&master).context(|| "read the terminal's settings")?;
        settings.output_modes |= OutputModes::ONLCR;
        tcsetattr(&master, OptionalActions::Now, &settings).context(|| "set up the terminal")?;
        Ok(master)
    }
}
