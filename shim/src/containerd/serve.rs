//! The resident shim: one thread, one event loop.

use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim_protos::ttrpc::asynchronous::Server;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::close;
use rustix::process::{getpid, set_child_subreaper, setsid};
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::container::Surroundings;
use super::door;
use super::events::{self, Destination};
use super::flags::Flags;
use super::sandbox::SandboxService;
use super::task::TaskService;
use super::watch as readiness;
use crate::descriptors::close_inherited;
use crate::error::{Context, Error, Result};

/// How long events that are still queued at the end may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long the answer to the request that ends the shim may take to leave.
const LAST_ANSWER: Duration = Duration::from_millis(20);

/// Serves until containerd shuts the shim down or a signal does.
pub(crate) fn serve(flags: &Flags) -> Result<()> {
    close_inherited();
    // containerd's session and its signals are not ours.
    setsid().context(|| "leave containerd's session")?;
    set_child_subreaper(Some(getpid())).context(|| "become a subreaper")?;
    let listener = take_listener()?;
    let signals = block_signals()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let name = Arc::new(SocketName(Mutex::new(flags.socket.strip_prefix("unix://").map(PathBuf::from))));
    let served = runtime.context(|| "start the event loop")?.block_on(run(flags, listener, signals, &name));
    name.remove();
    served
}

/// The name of the listening socket. It goes before the answer to the request that ends the shim: whoever starts the next
/// shim of this name must not find this one, and its socket must not be taken for ours.
#[derive(Debug)]
pub(crate) struct SocketName(Mutex<Option<PathBuf>>);

impl SocketName {
    /// Removes it, once.
    pub(crate) fn remove(&self) {
        if let Some(path) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _: io::Result<()> = std::fs::remove_file(path);
        }
    }
}

/// The listening socket came as stdin; nothing that is started later must find it there. What is opened next takes the
/// place: whatever is started gets a stdin of its own, and a null that nobody reads would be one more descriptor in every
/// shim.
fn take_listener() -> Result<UnixListener> {
    let step = || "take over the listening socket";
    let listener: OwnedFd = io::stdin().as_fd().try_clone_to_owned().context(step)?;
    close(io::stdin().as_raw_fd()).context(step)?;
    Ok(UnixListener::from(listener))
}

/// Signals become readable: children that end, and requests to go.
fn block_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        set.add(signal);
    }
    set.thread_block().context(|| "block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context(|| "make a signal descriptor")
}

async fn run(flags: &Flags, listener: UnixListener, signals: SignalFd, name: &Arc<SocketName>) -> Result<()> {
    let (events, queue) = events::queue(&flags.namespace);
    let destination = match env::var("TTRPC_ADDRESS") {
        Ok(address) if !address.is_empty() => Destination::Ttrpc(address),
        _ => Destination::Binary { binary: flags.publish_binary.clone(), address: flags.address.clone() },
    };
    let delivery = tokio::spawn(events::deliver(destination, queue));

    let socket = flags.socket.strip_prefix("unix://").map(Path::new).and_then(Path::parent);
    let socket_dir = socket.map_or_else(env::temp_dir, PathBuf::from);
    let around = Surroundings { namespace: flags.namespace.clone(), events, socket_dir };
    let shutdown = watch::Sender::new(false);
    let mut ended = shutdown.subscribe();
    let service = TaskService::new(around.clone(), shutdown, Arc::clone(name));
    let sandboxes = SandboxService::new(&around, Arc::clone(&service));
    drop(around);
    let mut server = Server::new().add_listener(door::open(listener)?);
    server = server.register_service(service.register()).register_service(sandboxes.register());
    server.start().await.map_err(|error| Error::other(format!("serve: {error}")))?;

    tokio::select! {
        _ = ended.wait_for(|&ended| ended) => sleep(LAST_ANSWER).await,
        handled = handle_signals(signals) => handled?,
    }
    name.remove();
    server.stop_listen().await;
    drop(server);
    drop((service, sandboxes));
    // Whatever containerd has not heard by now, it will hardly ever.
    let _: std::result::Result<_, _> = timeout(FAREWELL, delivery).await;
    Ok(())
}

/// Collects orphans until somebody asks the shim to go.
async fn handle_signals(signals: SignalFd) -> Result<()> {
    let signals = readiness::register(OwnedFd::from(signals), Interest::READABLE)?;
    loop {
        let mut ready = signals.readable().await.context(|| "wait for signals")?;
        // Only the first field of each record matters here: the signal's number.
        let mut records = [0_u8; 128 * 8];
        match rustix::io::read(&signals, &mut records[..]) {
            Ok(length) => {
                let numbers = records[..length]
                    .chunks_exact(128)
                    .map(|record| i32::from_ne_bytes([record[0], record[1], record[2], record[3]]));
                for number in numbers {
                    if number != Signal::SIGCHLD as i32 {
                        return Ok(());
                    }
                }
                readiness::sweep();
            }
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(errno) => return Err(errno).context(|| "read signals"),
        }
    }
}
