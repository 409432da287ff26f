//! Reading a container's output: a little at a time while it has little to say, much at a time while it has much. What a
//! flood needs is given back when the flood is over, for most containers are silent most of the time.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use memmap2::MmapMut;
use rustix::io::Errno;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use super::console::read_output;

/// How much is read at once of a container that has little to say.
pub(crate) const SMALL: usize = 16 * 1024;
/// How much is read at once of one that fills this, and how much its pipe holds then: four times the usual. The writer
/// and the reader wait for each other that much less often.
const LARGE: usize = 256 * 1024;

/// How long it must be quiet until a flood counts as over. Shorter, and a writer that is a little slower than its reader
/// would have the memory given back and taken again all the time.
pub(crate) const CALM: Duration = Duration::from_millis(200);

/// The buffer of a flood.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// Memory of its own: the allocator would keep what is given back to it.
    large: Option<MmapMut>,
    /// The pipe that was made to hold more, and how much it held before.
    widened: Option<(RawFd, usize)>,
}

impl Intake {
    /// Reads from `output` into whichever buffer is right. The caller's is for quiet times: it may be on the stack.
    pub(crate) fn read<'a>(&'a mut self, output: impl AsFd, small: &'a mut [u8; SMALL]) -> Result<&'a [u8], Errno> {
        if self.large.is_none() {
            let count = read_output(&output, &mut small[..])?;
            if count == SMALL {
                self.large = MmapMut::map_anon(LARGE).ok();
                self.widened = widen(&output);
            }
            return Ok(&small[..count]);
        }
        let large = self.large.as_deref_mut().unwrap_or_default();
        let count = read_output(output, large)?;
        Ok(&large[..count])
    }

    /// Whether there is memory to be given back.
    pub(crate) fn is_flooded(&self) -> bool {
        self.large.is_some()
    }

    /// Gives the memory back, and has those of the outputs hold what they held before that still are there. What an
    /// ordinary user's pipes hold together is limited.
    pub(crate) fn calm(&mut self, outputs: impl IntoIterator<Item = impl AsFd>) {
        self.large = None;
        let Some((number, before)) = self.widened.take() else { return };
        for output in outputs {
            if output.as_fd().as_raw_fd() == number {
                let _: rustix::io::Result<usize> = fcntl_setpipe_size(output, before);
            }
        }
    }
}

/// Has a pipe hold more, unless it does: the container may have seen to that itself, and a terminal is no pipe.
fn widen(output: impl AsFd) -> Option<(RawFd, usize)> {
    let before = fcntl_getpipe_size(&output).ok().filter(|&size| size < LARGE)?;
    fcntl_setpipe_size(&output, LARGE).ok()?;
    Some((output.as_fd().as_raw_fd(), before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::fifo::pipe;
    use rustix::io::{read, write};

    #[test]
    fn a_flood_is_read_in_large_pieces_until_it_is_over() {
        let (reader, writer) = pipe().unwrap();
        let usual = fcntl_getpipe_size(&reader).unwrap();
        let (mut intake, mut small) = (Intake::default(), [0; SMALL]);
        write(&writer, b"little").unwrap();
        assert_eq!(intake.read(&reader, &mut small).unwrap(), b"little");
        assert!(!intake.is_flooded());
        // As much as the pipe takes, and as much as it takes then.
        let much: Vec<u8> = (0..LARGE).map(|n| n as u8).collect();
        assert_eq!(write(&writer, &much[..usual]).unwrap(), usual);
        assert_eq!(intake.read(&reader, &mut small).unwrap(), &much[..SMALL]);
        assert!(intake.is_flooded());
        let more = write(&writer, &much[usual..]).unwrap();
        assert_eq!(usual + more, LARGE);
        assert_eq!(intake.read(&reader, &mut small).unwrap(), &much[SMALL..]);
        intake.calm([&reader]);
        assert_eq!(fcntl_getpipe_size(&reader).unwrap(), usual);
        write(&writer, b"little").unwrap();
        assert_eq!(intake.read(&reader, &mut small).unwrap(), b"little");
    }

    #[test]
    fn a_pipe_of_another_size_stays_as_it_is() {
        let (reader, writer) = pipe().unwrap();
        let (other, _end) = pipe().unwrap();
        let ours = fcntl_setpipe_size(&reader, 2 * LARGE).unwrap();
        let mut intake = Intake::default();
        write(&writer, &[0; SMALL]).unwrap();
        intake.read(&reader, &mut [0; SMALL]).unwrap();
        intake.calm([&reader, &other]);
        assert_eq!(fcntl_getpipe_size(&reader).unwrap(), ours);
        write(&writer, b"x").unwrap();
        assert_eq!(read(&reader, &mut [0; 8]).unwrap(), 1);
    }
}
