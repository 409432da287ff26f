//! Who comes in at the shim's socket: so many at a time that containers never want for descriptors, and never faster than
//! there are any.

use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::net::UnixListener as StdListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use containerd_shim_protos::ttrpc::r#async::transport::Listener;
use futures_util::stream::unfold;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::error::{Context, Result};

/// The most connections at a time, whatever the limit of descriptors; containerd needs one. Others wait in the socket's
/// queue.
const MOST: u64 = 256;
/// How long after a failed accept the next is tried: the shim, or the machine, may be short of descriptors.
const PATIENCE: Duration = Duration::from_secs(1);

/// A listening socket with its free places.
struct Door {
    listener: UnixListener,
    places: Arc<Semaphore>,
}

/// A connection, and the place that it takes.
struct Guest {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

/// What the ttrpc server listens to.
pub(super) fn open(listener: StdListener) -> Result<Listener> {
    let step = || "watch the listening socket";
    listener.set_nonblocking(true).context(step)?;
    let listener = UnixListener::from_std(listener).context(step)?;
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let places = (descriptors / 2).clamp(1, MOST) as usize;
    Ok(guests(Door { listener, places: Arc::new(Semaphore::new(places)) }))
}

fn guests(door: Door) -> Listener {
    Listener::new(unfold(door, |door| async move { door.admit().await.map(|guest| (Ok(guest), door)) }))
}

impl Door {
    /// Waits for the next guest, and for a place.
    async fn admit(&self) -> Option<Guest> {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
            match self.listener.accept().await {
                Ok((stream, _)) => return Some(Guest { stream, _place: place }),
                // Gone again.
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                // It stays ready: asked at once, it would say the same for ever.
                Err(_) => sleep(PATIENCE).await,
            }
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, poller: &mut Poller<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(poller, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, poller: &mut Poller<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(poller, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        poller: &mut Poller<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(poller, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(poller)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(poller)
    }
}
