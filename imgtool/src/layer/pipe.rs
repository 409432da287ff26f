//! One pass over a layer: one thread reads, proves and inflates the blob, another hashes and unpacks the tar.
//!
//! ```text
//!   reading thread                          calling thread
//!   blob -> (digest) -> inflate --buffers--> diff ID -> tar -> files
//!                               <--buffers-- (empty ones come back)
//! ```
//! Either side's failure ends the other: a closed channel stops the reader, an error sent through it stops the unpacker.

use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::apply::Unpacker;
use super::decompress::Inflated;
use super::lower::LowerStack;
use super::tarball::Tarball;
use super::terms::{Limits, Powers, Unpacked};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};

/// Size of the buffers between the threads, in bytes.
const BUFFER: usize = 256 << 10;
/// How many full buffers may wait.
const DEPTH: usize = 4;
/// How much more of a blob is read, after its tar turned out to be bad, to tell a bad layer from a bad transfer.
const AFTERMATH: u64 = 32 << 20;
/// What a tar stream may hold besides files: headers, padding.
const FRAMING_MAX: u64 = 4 << 30;

/// Takes a copy of the uncompressed tar as it passes; `import` compresses it into a blob.
pub(crate) trait TarSink: Send {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// What is unpacked where.
pub(crate) struct Job<'a> {
    /// The diff ID that the tar must have; with `None` any is good (import).
    pub(crate) diff_id: Option<&'a Digest>,
    pub(crate) root: OwnedFd,
    pub(crate) powers: Powers,
    pub(crate) limits: Limits,
    /// Size of the compressed blob in bytes, where it is known, to tell a bomb by its ratio.
    pub(crate) compressed: Option<u64>,
    /// The layers below, top first, for a layer that does not stand alone.
    pub(crate) lower: Option<&'a LowerStack>,
}

/// Unpacks the layer that `blob` reads as. `blob` proves its own digest and size, and fails at its end if they are wrong.
pub(crate) fn unpack<R: Read + Send>(blob: R, job: Job<'_>, sink: Option<&mut dyn TarSink>) -> Result<Unpacked> {
    let (full, filled) = sync_channel::<Result<Vec<u8>>>(DEPTH);
    let (give_back, empties) = channel::<Vec<u8>>();
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .name("inflate".into())
            .spawn_scoped(scope, move || read_blob(blob, &full, &empties, sink))
            .map_err(Error::from)?;
        let unpacked = unpack_tar(filled, give_back, job);
        let read = reader.join().unwrap_or_else(|_| Err(Error::other("the reading thread panicked")));
        match (unpacked, read) {
            // A blob that is not what it should be explains whatever was wrong with the tar in it.
            (_, Err(e)) if e.kind() == Kind::Damaged => Err(e),
            (Err(e), _) | (Ok(_), Err(e)) => Err(e),
            (Ok(unpacked), Ok(())) => Ok(unpacked),
        }
    })
}

/// The reading side. Goes on to the blob's end when the tar turns out to be bad, because only the digest tells whether
/// the layer is at fault or the transfer.
fn read_blob<R: Read>(
    blob: R,
    full: &SyncSender<Result<Vec<u8>>>,
    empties: &Receiver<Vec<u8>>,
    mut sink: Option<&mut dyn TarSink>,
) -> Result<()> {
    let mut inflated = match Inflated::new(blob) {
        Ok(inflated) => inflated,
        Err(e) => {
            let _ = full.send(Err(e.clone()));
            return Err(e);
        }
    };
    loop {
        let mut buffer = empties.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        match fill(&mut inflated, &mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                if len == 0 {
                    break;
                }
                if let Some(Err(e)) = sink.as_deref_mut().map(|sink| sink.take(&buffer)) {
                    let e = Error::from(e);
                    let _ = full.send(Err(e.clone()));
                    return Err(e);
                }
                if full.send(Ok(buffer)).is_err() {
                    inflated.drain_input(AFTERMATH)?;
                    return Ok(());
                }
            }
            Err(e) => {
                let mut e = Error::from(e);
                if e.kind() != Kind::Damaged
                    && let Err(end) = inflated.drain_input(AFTERMATH).map_err(Error::from)
                    && end.kind() == Kind::Damaged
                {
                    e = end;
                }
                let _ = full.send(Err(e.clone()));
                return Err(e);
            }
        }
    }
    inflated.drain_input(u64::MAX)?;
    Ok(())
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}

/// The unpacking side.
fn unpack_tar(filled: Receiver<Result<Vec<u8>>>, give_back: Sender<Vec<u8>>, job: Job<'_>) -> Result<Unpacked> {
    let Job { diff_id, root, powers, limits, compressed, lower } = job;
    let algorithm = diff_id.map_or(crate::digest::Algorithm::Sha256, Digest::algorithm);
    let limits = limits.for_blob(compressed);
    let mut buffers = Buffers {
        filled,
        give_back,
        current: Vec::new(),
        at: 0,
        size: 0,
        most: limits.bytes.saturating_add(FRAMING_MAX),
        hasher: Some(Hasher::new(algorithm)),
    };
    let mut unpacker = Unpacker::new(root, powers, limits, lower)?;
    let mut tar = Tarball::new(&mut buffers);
    while let Some(entry) = tar.next()? {
        unpacker.entry(&entry, &mut tar)?;
    }
    tar.drain()?;
    let mut unpacked = unpacker.finish()?;
    let got = buffers.hasher.take().map(Hasher::finish).ok_or_else(|| Error::other("the tar was hashed twice"))?;
    if let Some(want) = diff_id
        && got != *want
    {
        return Err(Error::malformed(format!("the uncompressed layer is {got}, the image config says {want}")));
    }
    unpacked.diff_id = Some(got);
    unpacked.tar_size = buffers.size;
    Ok(unpacked)
}

/// The channel's end as a reader; hashes what passes.
struct Buffers {
    filled: Receiver<Result<Vec<u8>>>,
    give_back: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    size: u64,
    most: u64,
    hasher: Option<Hasher>,
}

impl BufRead for Buffers {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            let spent = std::mem::take(&mut self.current);
            if spent.capacity() > 0 {
                let _ = self.give_back.send(spent);
            }
            self.at = 0;
            match self.filled.recv() {
                Ok(Ok(buffer)) => {
                    self.size += buffer.len() as u64;
                    if self.size > self.most {
                        return Err(Error::malformed(format!(
                            "the uncompressed tar goes on after {} bytes",
                            self.most
                        ))
                        .into());
                    }
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&buffer);
                    }
                    self.current = buffer;
                }
                Ok(Err(e)) => return Err(e.into()),
                Err(_) => {} // the reader is done
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Buffers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}
