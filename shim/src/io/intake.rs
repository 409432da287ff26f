//! Reading a container's output: a little at a time while it has little to say, much at a time while it has much. What a
//! flood needs is given back when the flood is over, for most containers are silent most of the time.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;

use super::console::read_output;

/// How much is read at once of a container that has little to say.
pub(crate) const SMALL: usize = 16 * 1024;
/// How much is read at once of one that fills this: the usual capacity of a pipe.
const LARGE: usize = 64 * 1024;

/// How long it must be quiet until a flood counts as over. Shorter, and a writer that is a little slower than its reader
/// would have the memory given back and taken again all the time.
pub(crate) const CALM: Duration = Duration::from_millis(200);

/// The buffer of a flood.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    large: Vec<u8>,
}

impl Intake {
    /// Reads from `output` into whichever buffer is right. The caller's is for quiet times: it may be on the stack.
    pub(crate) fn read<'a>(&'a mut self, output: impl AsFd, small: &'a mut [u8; SMALL]) -> Result<&'a [u8], Errno> {
        if self.large.is_empty() {
            let count = read_output(output, &mut small[..])?;
            if count == SMALL {
                self.large = vec![0; LARGE];
            }
            return Ok(&small[..count]);
        }
        let count = read_output(output, &mut self.large)?;
        Ok(&self.large[..count])
    }

    /// Whether there is memory to be given back.
    pub(crate) fn is_flooded(&self) -> bool {
        !self.large.is_empty()
    }

    /// Gives the memory back.
    pub(crate) fn calm(&mut self) {
        self.large = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::fifo::pipe;
    use rustix::io::write;

    #[test]
    fn a_flood_is_read_in_large_pieces_until_it_is_over() {
        let (reader, writer) = pipe().unwrap();
        let (mut intake, mut small) = (Intake::default(), [0; SMALL]);
        write(&writer, b"little").unwrap();
        assert_eq!(intake.read(&reader, &mut small).unwrap(), b"little");
        assert!(!intake.is_flooded());
        let much: Vec<u8> = (0..LARGE).map(|n| n as u8).collect();
        assert_eq!(write(&writer, &much).unwrap(), LARGE);
        assert_eq!(intake.read(&reader, &mut small).unwrap(), &much[..SMALL]);
        assert!(intake.is_flooded());
        assert_eq!(intake.read(&reader, &mut small).unwrap(), &much[SMALL..]);
        intake.calm();
        write(&writer, b"little").unwrap();
        assert_eq!(intake.read(&reader, &mut small).unwrap(), b"little");
    }
}
