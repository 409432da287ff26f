//! Archives as sources: ADD unpacks local ones, and a context may be one.

use std::io::Read;
use std::path::Path;

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
        Some(Archive::Xz) => unpack_into(liblzma::read::XzDecoder::new_multi_decoder(whole), directory, powers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
