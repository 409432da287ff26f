//! `shim exec`: runs a command in a running container.
//!
//! The command never gets our own streams, least of all our terminal: what runs in the container could read what is
//! typed after it, or type itself. It gets pipes or a terminal of its own, and we stand in between.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, pidfd_send_signal, set_child_subreaper, setsid};
use rustix::termios::isatty;

use crate::cli::Exec;
use crate::error::{Context, Error, Result};
use crate::io::console::{self, ConsoleSocket, set_nonblocking};
use crate::io::fifo::pipe;
use crate::reap::{self, Exit};
use crate::runtime::{Call, kind_of_start_failure};
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::process;
use crate::solo::record::{Options, write_bytes};
use crate::solo::relay::{self, Asked, OUT_OF_PATIENCE, Outlet, Signals};
use crate::solo::terminal::{self, DetachKeys, KeyFilter, Raw};
use crate::solo::verb::not_running;
use crate::solo::warn;

/// How much input waits for the command before the user has to wait.
const MAX_INPUT: usize = 64 * 1024;

/// Runs the command. Returns its exit code.
pub(crate) fn exec(layout: &Layout, exec: &Exec) -> Result<u8> {
    let directory = layout.find(&exec.name)?;
    let options = directory.options()?;
    let Status::Running { state, .. } = directory.status()? else {
        return Err(not_running(&exec.name));
    };
    if directory.is_paused() {
        return Err(Error::other(format!("container {0} is paused: unpause it first (shim unpause {0})", exec.name)));
    }
    if exec.tty && exec.interactive && !exec.detach && !isatty(io::stdin()) {
        return Err(Error::invalid("the input device is not a TTY: leave out -t, or -i, or use -d"));
    }
    // The command becomes our child when the runtime leaves, so that we learn how it ends.
    set_child_subreaper(Some(getpid())).context(|| "become a subreaper")?;
    let signals = Signals::take(true)?;
    let Begun { pidfd, streams, .. } = begin(&directory, &options, exec, state.pid)?;
    if exec.detach {
        return hold_open(streams).map(|()| 0);
    }
    let keys = exec.detach_keys.clone().or(options.detach_keys);
    match stand_between(&signals, &pidfd, streams, exec, keys)? {
        Left::Ended(exit) => Ok(u8::try_from(exit.status).unwrap_or(u8::MAX)),
        // The command goes on without us.
        Left::Detached(streams) => hold_open(streams).map(|()| 0),
        Left::OutOfPatience(streams) => {
            warn(&format!("{OUT_OF_PATIENCE}: the command goes on in container {}", exec.name));
            hold_open(streams).map(|()| 1)
        }
    }
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) streams: Streams,
}

/// Has the runtime start the command in the container whose init is `pid`. Who calls this must be a subreaper.
pub(crate) fn begin(directory: &Directory, options: &Options, exec: &Exec, pid: u32) -> Result<Begun> {
    let pid_file = Scratch(directory.run.join(format!("exec-{}", std::process::id())));
    // A terminal has its size from the first moment on: the command may ask at once.
    let process = process::derive(&directory.config()?, exec, pid, terminal::size())?;
    let process_file = Scratch(directory.path.join(format!(".exec-{}.json", std::process::id())));
    write_bytes(&process_file.0, &serde_json::to_vec(&process)?)?;
    let call = directory.runtime(options).call("exec").arg("--detach").arg("--pid-file").arg(&pid_file.0);
    let streams = start(call.arg("--process").arg(&process_file.0), exec, &directory.run)?;
    drop(process_file);
    let pid = pid_file.read()?;
    Ok(Begun { pid, pidfd: reap::open(pid)?, streams })
}

/// The first argument of the process that keeps a command's output open after its user has left.
pub(crate) const HOLD: &str = "exec-output";

/// Leaves processes behind that keep the command's outputs open: it would be hung up on, or end when it writes.
fn hold_open(streams: Streams) -> Result<()> {
    for output in [streams.stdout, streams.stderr].into_iter().flatten() {
        let mut holder = Command::new("/proc/self/exe");
        holder.arg0("shim").arg(HOLD).current_dir("/").stdin(output).stdout(Stdio::null()).stderr(Stdio::null());
        holder.spawn().context(|| "keep the command's output open")?;
    }
    Ok(())
}

/// Reads the terminal or pipe that is our stdin until nobody has it open any more.
pub(crate) fn hold() -> ExitCode {
    let _: rustix::io::Result<_> = setsid();
    let output = io::stdin();
    let mut buffer = [0_u8; 4096];
    loop {
        match rustix::io::read(&output, &mut buffer[..]) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let ready = relay::wait(&mut [PollFd::new(&output, PollFlags::IN)]);
                if ready.is_err() {
                    return ExitCode::FAILURE;
                }
            }
            Err(_) => return ExitCode::SUCCESS,
        }
    }
}

/// How the user and the command part.
enum Left {
    Ended(Exit),
    /// By the keys.
    Detached(Streams),
    /// We were asked to end too often.
    OutOfPatience(Streams),
}

/// Our ends of the command's streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// A file between us and the runtime, gone on drop.
struct Scratch(PathBuf);

impl Scratch {
    /// The pid that the runtime has written.
    fn read(&self) -> Result<u32> {
        let text = fs::read_to_string(&self.0).context(|| format!("read {}", self.0.display()))?;
        text.trim().parse().map_err(|_| Error::other(format!("{}: {text:?} is not a pid", self.0.display())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _: io::Result<()> = fs::remove_file(&self.0);
    }
}

/// Has the runtime start the command.
fn start(call: Call, exec: &Exec, run: &Path) -> Result<Streams> {
    let judge = |error: Error| {
        let command = exec.command.first().map_or("", String::as_str);
        Error::new(kind_of_start_failure(error.text(), command), error.text())
    };
    let finish = |call: Call| call.arg(&exec.name);
    if exec.tty {
        let socket = ConsoleSocket::open(run)?;
        finish(call.arg("--console-socket").arg(socket.path())).run().map_err(judge)?;
        let master = socket.receive()?;
        if let Some((rows, columns)) = terminal::size() {
            console::resize(&master, rows, columns)?;
        }
        let writer = master.try_clone().context(|| "duplicate the terminal")?;
        return Ok(Streams { stdin: Some(writer), stdout: Some(master), stderr: None });
    }
    let mut streams = Streams::default();
    let mut theirs = [Stdio::null(), Stdio::null(), Stdio::null()];
    if exec.interactive {
        let (reader, writer) = pipe()?;
        set_nonblocking(&writer)?;
        theirs[0] = reader.into();
        streams.stdin = Some(writer);
    }
    if !exec.detach {
        let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
        set_nonblocking(&stdout)?;
        set_nonblocking(&stderr)?;
        [theirs[1], theirs[2]] = [out.into(), err.into()];
        (streams.stdout, streams.stderr) = (Some(stdout), Some(stderr));
    }
    let [stdin, stdout, stderr] = theirs;
    let mut running = finish(call).streams(stdin, stdout, stderr).spawn()?;
    running.wait()?;
    running.finish().map_err(judge)?;
    Ok(streams)
}

/// Moves bytes and passes signals on until the command has ended and what it wrote is with the user.
fn stand_between(
    signals: &Signals,
    pidfd: &OwnedFd,
    mut streams: Streams,
    exec: &Exec,
    keys: Option<DetachKeys>,
) -> Result<Left> {
    let mut keys = KeyFilter::new(keys);
    let (user_in, user_out, user_err) = (io::stdin(), io::stdout(), io::stderr());
    let (mut out, mut err) = (Outlet::to(&user_out)?, Outlet::to(&user_err)?);
    let raw = exec.tty && exec.interactive && isatty(&user_in);
    let _raw = raw.then(|| Raw::enter(user_in.as_fd())).transpose()?;
    let mut input = Vec::new();
    let mut input_open = exec.interactive;
    let mut exit = None;
    loop {
        if let Some(exit) = exit
            && streams.stdout.is_none()
            && streams.stderr.is_none()
        {
            out.finish()?;
            err.finish()?;
            return Ok(Left::Ended(exit));
        }
        let idle = signals.as_fd();
        let reads_input = input_open && input.len() < MAX_INPUT;
        let [to_command, from_out, from_err] =
            [&streams.stdin, &streams.stdout, &streams.stderr].map(|fd| fd.as_ref().map(AsFd::as_fd));
        let mut fds = [
            relay::watch_if(true, Some(idle), PollFlags::IN, idle),
            relay::watch_if(exit.is_none(), Some(pidfd.as_fd()), PollFlags::IN, idle),
            relay::watch_if(!input.is_empty(), to_command, PollFlags::OUT, idle),
            relay::watch_if(out.is_empty(), from_out, PollFlags::IN, idle),
            relay::watch_if(err.is_empty(), from_err, PollFlags::IN, idle),
            relay::watch_if(reads_input, Some(user_in.as_fd()), PollFlags::IN, idle),
            relay::watch_if(!out.is_empty(), Some(out.as_fd()), PollFlags::OUT, idle),
            relay::watch_if(!err.is_empty(), Some(err.as_fd()), PollFlags::OUT, idle),
        ];
        relay::wait(&mut fds)?;
        let ready = fds.map(|fd| !fd.revents().is_empty());
        while let Some(asked) = signals.next() {
            if obey(asked, pidfd, streams.stdout.as_ref().filter(|_| exec.tty))? {
                return Ok(Left::OutOfPatience(streams));
            }
        }
        if ready[1] && exit.is_none() {
            exit = reap::collect(pidfd.as_fd())?;
        }
        if ready[5] && reads_input {
            let mut buffer = [0_u8; relay::CHUNK];
            match relay::read_some(&user_in, &mut buffer)? {
                None => {}
                Some(0) => input_open = false,
                Some(count) if raw && keys.filter(&buffer[..count], &mut input) => {
                    return Ok(Left::Detached(streams));
                }
                Some(_) if raw => {}
                Some(count) => input.extend_from_slice(&buffer[..count]),
            }
        }
        write_input(&mut streams, &mut input, input_open, exec.tty)?;
        for (ready, stream, outlet) in
            [(ready[3], &mut streams.stdout, &mut out), (ready[4], &mut streams.stderr, &mut err)]
        {
            // After the command's end, what is there is all there is: others may hold the pipe open for ever.
            if (ready || exit.is_some()) && outlet.is_empty() {
                read_output(stream, outlet, exit.is_some())?;
            }
        }
        if ready[6] && !out.is_empty() {
            out.flush()?;
        }
        if ready[7] && !err.is_empty() {
            err.flush()?;
        }
    }
}

/// Does what a signal asks for. `true` means that we are to leave.
fn obey(asked: Asked, pidfd: &OwnedFd, master: Option<&OwnedFd>) -> Result<bool> {
    match (asked, master, terminal::size()) {
        (Asked::Resize, Some(master), Some((rows, columns))) => console::resize(master, rows, columns)?,
        (Asked::Resize, _, _) => {}
        (Asked::PassOn(number) | Asked::PassOnAndLeave(number), _, _) => {
            if let Some(signal) = Signal::from_named_raw(number.into()) {
                // It may have ended already.
                let _: rustix::io::Result<()> = pidfd_send_signal(pidfd, signal);
            }
        }
    }
    Ok(matches!(asked, Asked::PassOnAndLeave(_)))
}

/// Gives the command what the user typed; closes its stdin after the last of it.
fn write_input(streams: &mut Streams, input: &mut Vec<u8>, open: bool, tty: bool) -> Result<()> {
    let Some(stdin) = &streams.stdin else {
        input.clear();
        return Ok(());
    };
    while !input.is_empty() {
        match rustix::io::write(stdin, input) {
            Ok(count) => drop(input.drain(..count)),
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::IO) => {
                streams.stdin = None;
                input.clear();
                return Ok(());
            }
            Err(errno) => return Err(errno).context(|| "write the command's input"),
        }
    }
    // A terminal is one stream in both directions: it has no end of input.
    if !open && !tty {
        streams.stdin = None;
    }
    Ok(())
}

fn read_output(stream: &mut Option<OwnedFd>, outlet: &mut Outlet, ended: bool) -> Result<()> {
    let Some(fd) = stream else { return Ok(()) };
    let mut buffer = [0_u8; relay::CHUNK];
    match relay::read_some(&*fd, &mut buffer)? {
        Some(0) => *stream = None,
        None if ended => *stream = None,
        None => {}
        Some(count) => outlet.push(&buffer[..count]),
    }
    Ok(())
}
