//! Where the data of a sparse file goes: the old GNU form in headers, and PAX form 1.0 before the data.

use std::io::BufRead;

use tar::Header;

use super::pax;
use super::tarball::{BLOCK, Tarball, truncated};
use crate::error::{Error, Result, Step};

/// Most pieces of data in a sparse file.
const SPARSE_MAX: usize = 1 << 18;

impl<R: BufRead> Tarball<R> {
    /// The old GNU form: four pieces in the header, more in extension blocks behind it.
    pub(super) fn gnu_sparse(&mut self, header: &Header) -> Result<(Vec<(u64, u64)>, u64)> {
        let gnu = header.as_gnu().ok_or_else(|| Error::malformed("tar: sparse entry without a GNU header"))?;
        let real = gnu.real_size().at("tar: real size of a sparse file")?;
        let mut map = Vec::new();
        let mut add = |pieces: &[tar::GnuSparseHeader]| -> Result<()> {
            for piece in pieces.iter().filter(|p| !p.is_empty()) {
                map.push((piece.offset().at("tar: sparse map")?, piece.length().at("tar: sparse map")?));
            }
            if map.len() > SPARSE_MAX { Err(too_many_pieces()) } else { Ok(()) }
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        let mut extended = tar::GnuExtSparseHeader::new();
        while more {
            let block: &mut [u8; BLOCK] = extended.as_mut_bytes();
            if !self.read_block(block)? {
                return Err(truncated());
            }
            add(extended.sparse())?;
            more = extended.is_extended();
        }
        Ok((map, real))
    }

    /// PAX form 1.0: the map stands before the data, as decimal numbers one a line, padded to a block.
    pub(super) fn sparse_map_in_data(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut numbers = Vec::new();
        let mut wanted = 1;
        // Numbers may span blocks, and the map ends at the end of a block.
        let mut text = Vec::new();
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 || !self.read_block(&mut block)? {
                return Err(truncated());
            }
            self.left -= BLOCK as u64;
            text.extend_from_slice(&block);
            while numbers.len() < wanted
                && let Some(end) = text.iter().position(|&b| b == b'\n')
            {
                let number =
                    pax::decimal(&text[..end]).ok_or_else(|| Error::malformed("tar: sparse map: not a number"))?;
                text.drain(..=end);
                if numbers.is_empty() {
                    let pieces = usize::try_from(number).ok().filter(|&n| n <= SPARSE_MAX);
                    wanted = 1 + 2 * pieces.ok_or_else(too_many_pieces)?;
                }
                numbers.push(number);
            }
            if numbers.len() < wanted && text.len() > BLOCK {
                return Err(Error::malformed("tar: sparse map: not a number"));
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

/// Refuses a map whose pieces overlap, leave the file, or are not the data that the entry has.
pub(super) fn check_sparse(map: &[(u64, u64)], real: u64, stored: u64) -> Result<()> {
    let mut end = 0;
    let mut sum = 0u64;
    for &(offset, len) in map {
        let stop = offset.checked_add(len).filter(|&stop| offset >= end && stop <= real);
        end = stop.ok_or_else(|| Error::malformed("tar: sparse map: pieces overlap or leave the file"))?;
        sum = sum.saturating_add(len);
    }
    if sum == stored {
        Ok(())
    } else {
        Err(Error::malformed(format!("tar: sparse map has {sum} bytes, the entry {stored}")))
    }
}

fn too_many_pieces() -> Error {
    Error::malformed(format!("tar: sparse map has more than {SPARSE_MAX} pieces"))
}
