//! `shim logs`: prints what a container has written, and with -f what it goes on to write.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::cli::Logs;
use crate::error::{Context, Error, Result};
use crate::io::log::Stream;
use crate::io::log::json::Record;
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::record::open_alive;
use crate::solo::relay;
use crate::solo::session::Session;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// No honest record is longer: 16 KiB of text, every byte of it escaped.
const MAX_RECORD: usize = 256 * 1024;

/// Prints the log. Returns the exit code.
pub(crate) fn logs(layout: &Layout, logs: &Logs) -> Result<u8> {
    let directory = layout.find(&logs.name)?;
    let mut printer = Printer::open(&directory)?;
    if !logs.follow {
        printer.catch_up()?;
        return Ok(0);
    }
    // Watched before it is read: nothing can be written unnoticed in between.
    let changes = watch(&directory)?;
    while printer.catch_up()? {
        let Some(end) = end_of(&directory)? else {
            printer.catch_up()?;
            break;
        };
        relay::wait(&mut [PollFd::new(&changes, PollFlags::IN), PollFd::new(&end, PollFlags::IN)])?;
        forget_changes(&changes)?;
        if crate::reap::has_ended(&end)? {
            // What was written before the end is recorded with it.
            let _: Result<_> = super::wait::until_ended(&directory);
            printer.catch_up()?;
            break;
        }
    }
    Ok(0)
}

/// Something that becomes readable at the container's end. `None` means that it has ended.
fn end_of(directory: &Directory) -> Result<Option<OwnedFd>> {
    loop {
        return Ok(match directory.status()? {
            Status::Running { state, .. } => open_alive(&state),
            Status::Exited(_) | Status::Lost => None,
            // Its monitor answers once it runs, or hangs up.
            Status::Starting => {
                if let Some(mut session) = Session::connect(directory, false)?
                    && session.await_start().is_ok()
                {
                    continue;
                }
                None
            }
        });
    }
}

fn watch(directory: &Directory) -> Result<OwnedFd> {
    let step = || format!("watch {}", directory.log().display());
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(step)?;
    inotify::add_watch(&changes, directory.log(), WatchFlags::MODIFY).context(step)?;
    Ok(changes)
}

fn forget_changes(changes: &impl AsFd) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(changes, &mut space);
    loop {
        match events.next() {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno).context(|| "watch the log"),
        }
    }
}

/// Reads records and prints them where they belong.
struct Printer {
    log: File,
    pending: Vec<u8>,
    stdout: BufWriter<io::Stdout>,
}

impl Printer {
    fn open(directory: &Directory) -> Result<Self> {
        let path = directory.log();
        let log = File::open(&path).context(|| format!("open {}", path.display()))?;
        Ok(Self { log, pending: Vec::new(), stdout: BufWriter::with_capacity(CHUNK, io::stdout()) })
    }

    /// Prints all whole records up to the end of the file. `false` means that nobody reads any more.
    fn catch_up(&mut self) -> Result<bool> {
        let mut buffer = vec![0_u8; CHUNK];
        loop {
            let count = self.log.read(&mut buffer).context(|| "read the log")?;
            if count == 0 {
                return readers(self.stdout.flush());
            }
            self.pending.extend_from_slice(&buffer[..count]);
            let mut done = 0;
            while let Some(length) = self.pending[done..].iter().position(|&byte| byte == b'\n') {
                let record = done..done + length;
                done += length + 1;
                if !readers(self.print(record))? {
                    return Ok(false);
                }
            }
            self.pending.drain(..done);
            if self.pending.len() > MAX_RECORD {
                return Err(Error::other("read the log: a record does not end"));
            }
        }
    }

    fn print(&mut self, record: std::ops::Range<usize>) -> io::Result<()> {
        // A line that the disk had no room for is no record.
        let Ok(record) = serde_json::from_slice::<Record>(&self.pending[record]) else {
            return Ok(());
        };
        match record.stream {
            Stream::Stdout => self.stdout.write_all(record.log.as_bytes()),
            Stream::Stderr => {
                self.stdout.flush()?;
                io::stderr().write_all(record.log.as_bytes())
            }
        }
    }
}

/// Whether somebody still reads what is printed.
fn readers(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context(|| "print the log"),
    }
}
