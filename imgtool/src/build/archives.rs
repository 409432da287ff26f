//! Archives as sources: ADD unpacks local ones, and a context may be one.

use std::io::Read;
use std::path::Path;

use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::contexts::unpack_into;
use crate::error::{Error, Result};
use crate::layer::Powers;

/// What an archive is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    Tar,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

/// How many bytes [`kind`] wants to see.
pub(crate) const HEAD: usize = 512;

/// Tells an archive by its beginning. A compressed file counts as one: whether a tar is in it is seen when it is unpacked.
pub(crate) fn kind(head: &[u8]) -> Option<Archive> {
    if head.starts_with(&[0x1f, 0x8b]) {
        return Some(Archive::Gzip);
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Some(Archive::Zstd);
    }
    if head.starts_with(b"BZh") {
        return Some(Archive::Bzip2);
    }
    if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return Some(Archive::Xz);
    }
    (head.len() >= HEAD && is_tar(head)).then_some(Archive::Tar)
}

/// A header's checksum is the sum of its bytes, with blanks in its own place.
fn is_tar(head: &[u8]) -> bool {
    let field = head[148..156].iter().copied().skip_while(|b| *b == b' ');
    let digits: Vec<u8> = field.take_while(u8::is_ascii_digit).collect();
    let want = std::str::from_utf8(&digits).ok().and_then(|text| u32::from_str_radix(text, 8).ok());
    let sum = |at: usize, byte: u8| if (148..156).contains(&at) { 32 } else { u32::from(byte) };
    let have: u32 = head[..HEAD].iter().enumerate().map(|(at, byte)| sum(at, *byte)).sum();
    head[0] != 0 && want == Some(have)
}

/// Who packs an archive says how much memory is needed to unpack it, up to 4 GiB; `xz -9` needs 65 MiB. The other forms have limits
/// of their own: bzip2 has blocks of 900 kB, and zstd refuses windows above 128 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// Says what it means that the limit is reached.
struct Xz<R: Read>(XzDecoder<R>);

impl<R: Read> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer).map_err(|e| {
            let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>());
            if !matches!(inner, Some(liblzma::stream::Error::MemLimit)) {
                return e;
            }
            let text =
                format!("xz: wants more than {} MiB of memory: pack it with a smaller dictionary", XZ_MEMORY >> 20);
            std::io::Error::other(text)
        })
    }
}

/// Unpacks an archive into an empty directory.
pub(crate) fn unpack(mut input: impl Read + Send, directory: &Path, powers: Powers) -> Result<()> {
    let mut head = vec![0; HEAD];
    let mut len = 0;
    while len < HEAD {
        match input.read(&mut head[len..])? {
            0 => break,
            more => len += more,
        }
    }
    head.truncate(len);
    let kind = kind(&head);
    let whole = std::io::Cursor::new(head).chain(input);
    match kind {
        None => Err(Error::malformed("not an archive (tar, plain or compressed by gzip, bzip2, xz or zstd)")),
        Some(Archive::Tar | Archive::Gzip | Archive::Zstd) => unpack_into(whole, directory, powers),
        Some(Archive::Bzip2) => unpack_into(bzip2::read::MultiBzDecoder::new(whole), directory, powers),
        Some(Archive::Xz) => {
            let stream =
                Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED).map_err(|e| Error::other(e.to_string()))?;
            unpack_into(Xz(XzDecoder::new_stream(whole, stream)), directory, powers)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As xz sums its headers up.
    fn crc32(bytes: &[u8]) -> u32 {
        let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
    }

    #[test]
    fn an_archive_that_wants_gigabytes_to_be_unpacked_is_refused() {
        use std::io::Write as _;
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        tar.append_data(&mut header, "x", &b"y"[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let mut packer = liblzma::write::XzEncoder::new(Vec::new(), 9);
        packer.write_all(&tar).unwrap();
        let mut packed = packer.finish().unwrap();
        let unpacked = |packed: &[u8]| {
            let dir = tempfile::tempdir().unwrap();
            let powers = crate::rights::Rights::ROOT.powers();
            let result = unpack(packed, dir.path(), powers);
            result.map(|()| std::fs::read_to_string(dir.path().join("x")).unwrap())
        };
        assert_eq!(unpacked(&packed).unwrap(), "y", "the most that xz does by itself");
        // The header of the first block: its size, flags, the filter and its one property, which is the size of the dictionary.
        let size = usize::from(packed[12]) * 4 + 4;
        assert_eq!(packed[14..16], [0x21, 1]);
        packed[16] = 40;
        let sum = crc32(&packed[12..12 + size - 4]);
        packed[12 + size - 4..12 + size].copy_from_slice(&sum.to_le_bytes());
        let error = unpacked(&packed).unwrap_err().to_string();
        assert!(error.contains("wants more than 256 MiB of memory"), "{error}");
    }

    #[test]
    fn archives_are_told_by_their_first_bytes() {
        let mut header = tar::Header::new_ustar();
        header.set_path("x").unwrap();
        header.set_size(0);
        header.set_cksum();
        assert_eq!(kind(header.as_bytes()), Some(Archive::Tar));
        assert_eq!(kind(&header.as_bytes()[..100]), None);
        assert_eq!(kind(&[0; 512]), None);
        assert_eq!(kind(b"FROM debian\n"), None);
        assert_eq!(kind(&[0x1f, 0x8b, 8]), Some(Archive::Gzip));
        assert_eq!(kind(b"BZh9"), Some(Archive::Bzip2));
    }
}
