//! Finds out how a stream is compressed, by its first bytes, and inflates it.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result};

/// Compressed input is read in pieces of this size.
const INPUT: usize = 128 << 10;
/// Largest zstd window, as a power of two: what the zstd tool itself accepts by default (128 MiB).
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A stream that reads as its uncompressed content.
pub(crate) enum Inflated<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Inflated<R> {
    pub(crate) fn new(inner: R) -> Result<Self> {
        let mut input = BufReader::with_capacity(INPUT, inner);
        Ok(match detect(input.fill_buf()?)? {
            Compression::None => Self::Plain(input),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    /// Reads on in the compressed input, so that it has been seen to its end; gives up after `most` bytes.
    pub(crate) fn drain_input(&mut self, most: u64) -> io::Result<()> {
        let input = match self {
            Self::Plain(input) => input,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        };
        let mut seen = 0;
        while seen < most {
            let len = input.fill_buf()?.len();
            if len == 0 {
                break;
            }
            input.consume(len);
            seen += len as u64;
        }
        Ok(())
    }
}

impl<R: Read> Read for Inflated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

fn detect(start: &[u8]) -> Result<Compression> {
    let foreign = |name| {
        Err(Error::malformed(format!("{name} compression: only gzip, zstd and uncompressed tars are supported")))
    };
    match start {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        // The second is a skippable frame, with which a stream may begin.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => foreign("xz"),
        [b'B', b'Z', b'h', ..] => foreign("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => foreign("lz4"),
        _ => Ok(Compression::None),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn inflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut inflated = Inflated::new(bytes)?;
        let mut out = Vec::new();
        inflated.read_to_end(&mut out)?;
        inflated.drain_input(u64::MAX)?;
        Ok(out)
    }

    #[test]
    fn each_form_is_known_by_its_first_bytes() {
        let text = b"some text, some text, some text".repeat(100);
        let gz = |text: &[u8]| {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gz.write_all(text).unwrap();
            gz.finish().unwrap()
        };
        let members = [gz(&text[..100]), gz(&text[100..])].concat();
        assert_eq!(inflate(&members).unwrap(), text);
        assert_eq!(inflate(&zstd::encode_all(&text[..], 3).unwrap()).unwrap(), text);
        assert_eq!(inflate(&text).unwrap(), text);
        assert_eq!(inflate(b"").unwrap(), b"");
        assert!(inflate(&gz(&text)[..60]).is_err(), "a cut stream must not pass");
        assert!(inflate(b"\xfd7zXZ\0....").unwrap_err().to_string().contains("xz"));
    }
}
