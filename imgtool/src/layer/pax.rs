//! PAX extended headers: records of the form `LENGTH KEY=VALUE\n` before an entry.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::error::{Error, Result};

/// What a PAX block says about the entry that follows it.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
}

/// GNU's sparse files in PAX form (versions 0.0, 0.1 and 1.0).
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: u64,
    /// The map; `None` when it stands before the data (1.0).
    pub(super) map: Option<Vec<(u64, u64)>>,
}

/// Reads a PAX block. The length decides where a record ends: values may contain newlines.
pub(super) fn parse(mut block: &[u8]) -> Result<Records> {
    let mut records = Records::default();
    let mut sparse = SparseKeys::default();
    while !block.is_empty() {
        let (key, value, rest) = record(block).ok_or_else(|| Error::malformed("tar: malformed PAX header"))?;
        block = rest;
        let bad = || Error::malformed(format!("tar: PAX {}: invalid value", String::from_utf8_lossy(key)));
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            // An empty value takes the record back: the header's own field counts.
            continue;
        }
        match key {
            b"path" => records.path = Some(no_nul(value).ok_or_else(bad)?),
            b"linkpath" => records.linkpath = Some(no_nul(value).ok_or_else(bad)?),
            b"size" => records.size = Some(decimal(value).ok_or_else(bad)?),
            b"uid" => records.uid = Some(decimal(value).ok_or_else(bad)?),
            b"gid" => records.gid = Some(decimal(value).ok_or_else(bad)?),
            b"mtime" => records.mtime = Some(time(value).ok_or_else(bad)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    set(&mut records.xattrs, name, value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    // libarchive writes both forms; the raw one counts where both are there.
                    if !records.xattrs.iter().any(|(have, _)| have == name) {
                        let end = value.iter().rposition(|&b| b != b'=').map_or(0, |at| at + 1);
                        set(&mut records.xattrs, name, STANDARD_NO_PAD.decode(&value[..end]).map_err(|_| bad())?);
                    }
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    sparse.take(name, value).ok_or_else(bad)?;
                }
            }
        }
    }
    records.sparse = sparse.finish()?;
    Ok(records)
}

fn record(block: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = block.iter().position(|&b| b == b' ')?;
    let len = usize::try_from(decimal(&block[..space])?).ok()?;
    if len <= space || len > block.len() {
        return None;
    }
    let body = block[space + 1..len].strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, &block[len..]))
}

fn set(xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: Vec<u8>) {
    xattrs.retain(|(have, _)| have != name);
    xattrs.push((name.to_vec(), value));
}

fn no_nul(value: &[u8]) -> Option<Vec<u8>> {
    (!value.contains(&0)).then(|| value.to_vec())
}

/// A decimal number without sign or blanks.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, possibly before the epoch.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |n, at| n * 10 + u32::from(fraction.get(at).map_or(0, |d| d - b'0')));
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[derive(Default)]
struct SparseKeys {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    pieces: Vec<u64>,
    seen: bool,
}

impl SparseKeys {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.seen = true;
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = Some(no_nul(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            // 0.0: the two keys take turns.
            b"offset" if self.pieces.len().is_multiple_of(2) => self.pieces.push(decimal(value)?),
            b"numbytes" if self.pieces.len() % 2 == 1 => self.pieces.push(decimal(value)?),
            b"numblocks" => drop(decimal(value)?),
            b"map" => {
                self.pieces = value.split(|&b| b == b',').map(decimal).collect::<Option<_>>()?;
            }
            _ => return None,
        }
        Some(())
    }

    fn finish(self) -> Result<Option<Sparse>> {
        if !self.seen {
            return Ok(None);
        }
        let real_size = self.size.ok_or_else(|| Error::malformed("tar: sparse file without its size"))?;
        let map = match (self.major, self.minor) {
            (Some(1), Some(0)) => None,
            (None | Some(0), _) if self.pieces.len().is_multiple_of(2) => {
                Some(self.pieces.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
            }
            _ => return Err(Error::malformed("tar: unknown form of sparse file")),
        };
        Ok(Some(Sparse { name: self.name, real_size, map }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut len = body + 1;
            while len != body + len.to_string().len() {
                len = body + len.to_string().len();
            }
            out.extend_from_slice(format!("{len} {key}=").as_bytes());
            out.extend_from_slice(value);
            out.push(b'\n');
        }
        out
    }

    #[test]
    fn values_may_contain_newlines_and_equals_signs() {
        let caps = b"\x01\x00\n5 a=b\n";
        let parsed =
            parse(&block(&[("SCHILY.xattr.security.capability", caps), ("path", b"a\nb=c"), ("size", b"7")])).unwrap();
        assert_eq!(parsed.xattrs, [(b"security.capability".to_vec(), caps.to_vec())]);
        assert_eq!(parsed.path.unwrap(), b"a\nb=c");
        assert_eq!(parsed.size, Some(7));
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"99 path=a\n",
            b"0 a=b\n",
            b"3 a\n",
            b"-6 a=b\n",
            b"6 =bc\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        for (key, value) in [("size", "-1"), ("size", "1e9"), ("uid", " 1"), ("mtime", "1.2.3"), ("path", "a\0b")] {
            assert!(parse(&block(&[(key, value.as_bytes())])).is_err(), "{key}={value:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let time_of = |text: &str| parse(&block(&[("mtime", text.as_bytes())])).unwrap().mtime.unwrap();
        assert_eq!(time_of("12"), (12, 0));
        assert_eq!(time_of("12.5"), (12, 500_000_000));
        assert_eq!(time_of("12.1234567891"), (12, 123_456_789));
        assert_eq!(time_of("-1.25"), (-2, 750_000_000));
    }
}
