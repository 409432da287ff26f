//! Reads a tar stream entry by entry: ustar, GNU and PAX forms, long names, xattrs, sparse files.
//!
//! The fields of a header are read by the `tar` crate; the framing is done here, because whatever an attacker may put
//! in front of an entry (a name, a PAX block, a sparse map) must have a limit, and because two readers that disagree on
//! where an entry ends see two different archives (CVE-2025-62518). The rules are those of Go's `archive/tar`, which the
//! other tools of the field are built on.

use std::io::{self, BufRead};
use std::ops::Range;

use tar::{EntryType, Header};

use super::pax;
use super::sparse::check_sparse;
use crate::error::{Error, Result, Step};

pub(super) const BLOCK: usize = 512;
/// Largest PAX block or GNU long name: far beyond what `PATH_MAX` and the kernel's xattr limit allow.
const EXTENSION_MAX: u64 = 1 << 20;

/// Where a header has its numbers.
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// An entry's header, with everything that extensions said folded in.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    /// Size of the file when unpacked, in bytes.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since the epoch and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    /// Names and values, in the archive's order.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes, as (offset, length); the rest of the file is a hole.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}

/// The reader. Call [`Tarball::next`] for a header, then [`Tarball::chunk`] until it is empty for the data.
pub(crate) struct Tarball<R> {
    input: R,
    /// Bytes of the current entry's data that were not read yet.
    pub(super) left: u64,
    /// Bytes behind the data up to the next block.
    padding: u64,
    /// Bytes of the last chunk, to be consumed before the next read.
    lent: usize,
}

/// What the extension headers before an entry said.
#[derive(Default)]
struct Extensions {
    pax: pax::Records,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: BufRead> Tarball<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, lent: 0 }
    }

    /// The next entry, or `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        let mut pending = false;
        loop {
            let mut block = [0; BLOCK];
            if !self.read_header(&mut block)? {
                if pending {
                    return Err(Error::malformed("tar: the archive ends after an extension header"));
                }
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            match header.entry_type() {
                EntryType::XHeader => extensions.pax = pax::parse(&self.read_extension(header)?)?,
                // Defaults for all entries: Docker's tools leave them aside too.
                EntryType::XGlobalHeader => drop(self.read_extension(header)?),
                EntryType::GNULongName => {
                    extensions.path = Some(until_nul(self.read_extension(header)?));
                }
                EntryType::GNULongLink => {
                    extensions.link = Some(until_nul(self.read_extension(header)?));
                }
                _ => return self.entry(header, extensions).map(Some),
            }
            pending = true;
        }
    }

    /// The next piece of the current entry's data; empty at its end.
    pub(crate) fn chunk(&mut self) -> Result<&[u8]> {
        self.settle();
        if self.left == 0 {
            return Ok(&[]);
        }
        let available = self.input.fill_buf()?;
        if available.is_empty() {
            return Err(truncated());
        }
        let len = available.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.lent = len;
        self.left -= len as u64;
        Ok(&available[..len])
    }

    /// Reads whatever follows the archive's end, so that the whole stream has been seen.
    pub(crate) fn drain(mut self) -> Result<()> {
        self.settle();
        loop {
            let len = self.input.fill_buf()?.len();
            if len == 0 {
                return Ok(());
            }
            self.input.consume(len);
        }
    }

    fn settle(&mut self) {
        self.input.consume(std::mem::take(&mut self.lent));
    }

    fn skip_rest(&mut self) -> Result<()> {
        while !self.chunk()?.is_empty() {}
        let padding = std::mem::take(&mut self.padding);
        self.skip(padding)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let len = self.input.fill_buf()?.len();
            if len == 0 {
                return Err(truncated());
            }
            let len = len.min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.input.consume(len);
            bytes -= len as u64;
        }
        Ok(())
    }

    /// Reads one block; `false` at the end of the archive: two blocks of zeros, or the end of the stream between entries.
    fn read_header(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        if !self.read_block(block)? {
            return Ok(false);
        }
        if block.iter().all(|&b| b == 0) {
            if !self.read_block(block)? || block.iter().all(|&b| b == 0) {
                return Ok(false);
            }
            return Err(Error::malformed("tar: data after a block of zeros"));
        }
        check_sum(block)?;
        Ok(true)
    }

    pub(super) fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut have = 0;
        while have < BLOCK {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                return if have == 0 { Ok(false) } else { Err(truncated()) };
            }
            let len = available.len().min(BLOCK - have);
            block[have..have + len].copy_from_slice(&available[..len]);
            self.input.consume(len);
            have += len;
        }
        Ok(true)
    }

    fn read_extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = stored_size(header)?;
        if size > EXTENSION_MAX {
            return Err(Error::malformed(format!("tar: extension header of {size} bytes (at most {EXTENSION_MAX})")));
        }
        let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        self.left = size;
        self.padding = padding_of(size);
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
        }
        self.skip_rest()?;
        Ok(data)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry> {
        let Extensions { pax, path, link } = extensions;
        // POSIX: what PAX says stands above the header; GNU's long names come without PAX.
        let mut path = pax.path.or(path).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.linkpath.or(link).or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let kind = kind_of(header, &path)?;
        let mut stored = match pax.size {
            Some(size) => size,
            None => stored_size(header)?,
        };
        if kind != Kind::File {
            // Links, directories and devices have no data, whatever their size field says.
            stored = 0;
        }
        self.left = stored;
        self.padding = padding_of(stored);
        let (mut size, mut sparse) = (stored, None);
        if header.entry_type() == EntryType::GNUSparse {
            let (map, real) = self.gnu_sparse(header)?;
            (size, sparse) = (real, Some(map));
        } else if kind == Kind::File
            && let Some(described) = pax.sparse
        {
            if let Some(name) = described.name {
                path = name;
            }
            let map = match described.map {
                Some(map) => map,
                None => self.sparse_map_in_data()?,
            };
            (size, sparse) = (described.real_size, Some(map));
        }
        if let Some(map) = &sparse {
            check_sparse(map, size, self.left)?;
        }
        Ok(Entry {
            kind,
            path,
            link: link.unwrap_or_default(),
            size,
            mode: if is_blank(header, MODE) { 0 } else { header.mode().at("tar: mode")? },
            uid: match pax.uid {
                Some(uid) => uid,
                None if is_blank(header, UID) => 0,
                None => header.uid().at("tar: uid")?,
            },
            gid: match pax.gid {
                Some(gid) => gid,
                None if is_blank(header, GID) => 0,
                None => header.gid().at("tar: gid")?,
            },
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None if is_blank(header, MTIME) => (0, 0),
                None => (header.mtime().at("tar: mtime")?.cast_signed(), 0),
            },
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            xattrs: pax.xattrs,
            sparse,
        })
    }
}

fn kind_of(header: &Header, path: &[u8]) -> Result<Kind> {
    Ok(match header.entry_type() {
        // Before ustar a directory was a file whose name ends in a slash.
        EntryType::Regular if header.as_bytes()[156] == 0 && path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Link => Kind::Hardlink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Directory => Kind::Directory,
        EntryType::Fifo => Kind::Fifo,
        other => {
            let name = String::from_utf8_lossy(path).into_owned();
            return Err(Error::malformed(format!(
                "tar: {name}: unsupported entry type {:?}",
                char::from(other.as_byte())
            )));
        }
    })
}

/// A numeric field without a number counts as zero, as in Go: some programs leave out what they do not know.
fn is_blank(header: &Header, field: Range<usize>) -> bool {
    header.as_bytes()[field].iter().all(|&b| b == 0 || b == b' ')
}

fn stored_size(header: &Header) -> Result<u64> {
    if is_blank(header, SIZE) { Ok(0) } else { header.entry_size().at("tar: size") }
}

fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let wanted =
        Header::from_byte_slice(block).cksum().map_err(|_| Error::malformed("tar: not a header (no checksum)"))?;
    let field = 148..156;
    let bytes = || block.iter().enumerate().map(|(at, &b)| if field.contains(&at) { b' ' } else { b });
    let unsigned: u32 = bytes().map(u32::from).sum();
    // Some old programs summed signed bytes.
    let signed: i32 = bytes().map(|b| i32::from(b.cast_signed())).sum();
    if wanted == unsigned || i64::from(wanted) == i64::from(signed) {
        Ok(())
    } else {
        Err(Error::malformed("tar: header checksum does not match"))
    }
}

fn padding_of(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    bytes
}

pub(super) fn truncated() -> Error {
    io::Error::new(io::ErrorKind::InvalidData, "tar: the archive ends in the middle of an entry").into()
}
