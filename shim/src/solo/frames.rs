//! The protocol on a container's `attach` socket. README.md documents it for other programs.
//!
//! ```text
//!   client                          monitor
//!   Hello{output} ---------------->            first frame; says whether the client wants output
//!   Stdin, EndOfInput,  ---------->            at any time
//!   Resize, Signal, Stop
//!               <-----------------  Started    once the container runs (at once if it does), and whenever it is run again
//!               <-----------------  Stdout, Stderr, Skipped
//!               <-----------------  Failed     it never started; then the end of the stream
//!               <-----------------  Exited     it has ended and is recorded; then the end of the stream
//! ```
//!
//! A frame is a type byte, the payload's length as four bytes (little endian), and the payload. The end of the stream
//! without `Failed` or `Exited` means that the peer died: the container itself may live on.

use crate::error::{Error, Kind, Result};

/// Bytes before the payload.
pub(crate) const HEADER: usize = 5;
/// The longest payload. Whoever announces more is not talked to any longer.
pub(crate) const MAX_PAYLOAD: usize = 64 * 1024;

/// The type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Type {
    /// Payload: one byte, 1 if the client wants output.
    Hello = 0x01,
    /// Payload: bytes for the container's stdin.
    Stdin = 0x02,
    /// No payload: the client has no more input.
    EndOfInput = 0x03,
    /// Payload: rows and columns, two bytes each, little endian.
    Resize = 0x04,
    /// Payload: one byte, the signal's number.
    Signal = 0x05,
    /// No payload: whatever its restart policy, the container is not to be run again.
    Stop = 0x06,
    /// Payload: bytes that the container wrote (to its terminal, if it has one).
    Stdout = 0x81,
    /// Payload: bytes that the container wrote to stderr.
    Stderr = 0x82,
    /// Payload: eight bytes, little endian: how much output was skipped because this client did not keep up.
    Skipped = 0x83,
    /// Payload: four bytes, little endian: the pid of the container's init.
    Started = 0x84,
    /// Payload: one byte, the kind of failure (125, 126 or 127), and a line of text.
    Failed = 0x85,
    /// Payload: the contents of exit.json.
    Exited = 0x86,
}

impl Type {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Hello,
            Self::Stdin,
            Self::EndOfInput,
            Self::Resize,
            Self::Signal,
            Self::Stop,
            Self::Stdout,
            Self::Stderr,
            Self::Skipped,
            Self::Started,
            Self::Failed,
            Self::Exited,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// A frame within a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Type,
    pub(crate) payload: &'a [u8],
}

/// Appends a frame to `out`. The payload must not be longer than [`MAX_PAYLOAD`].
pub(crate) fn put(out: &mut Vec<u8>, kind: Type, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    out.push(kind as u8);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The first frame in `bytes`, and how many bytes it takes. `None` means that more must come first.
pub(crate) fn first(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [kind, length @ ..] = *header;
    let length = u32::from_le_bytes(length) as usize;
    let kind = Type::from_byte(kind);
    let kind = kind.ok_or_else(|| Error::invalid(format!("frame of unknown type {:#04x}", header[0])))?;
    if length > MAX_PAYLOAD {
        return Err(Error::invalid(format!("frame of {length} bytes: {MAX_PAYLOAD} are allowed")));
    }
    Ok(rest.get(..length).map(|payload| (Frame { kind, payload }, HEADER + length)))
}

/// The payload of `Resize`.
pub(crate) fn size_payload(rows: u16, columns: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (rows.to_le_bytes(), columns.to_le_bytes());
    [a, b, c, d]
}

/// Rows and columns from the payload of `Resize`.
pub(crate) fn size(payload: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d] = payload else { return None };
    Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
}

/// The payload of `Failed`.
pub(crate) fn failure_payload(error: &Error) -> Vec<u8> {
    let mut payload = vec![start_failure_code(error.kind)];
    payload.extend(error.text().as_bytes().iter().take(MAX_PAYLOAD - 1));
    payload
}

/// The error from the payload of `Failed`.
pub(crate) fn failure(payload: &[u8]) -> Error {
    let (code, text) = payload.split_first().map_or((125, &[][..]), |(&code, text)| (code, text));
    let kind = match code {
        126 => Kind::NotExecutable,
        127 => Kind::NoCommand,
        _ => Kind::Other,
    };
    Error::new(kind, String::from_utf8_lossy(text))
}

/// Docker's exit code for a container that could not be started.
pub(crate) fn start_failure_code(kind: Kind) -> u8 {
    match kind {
        Kind::NotExecutable => 126,
        Kind::NoCommand => 127,
        _ => 125,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = Vec::new();
        put(&mut bytes, Type::Hello, &[1]);
        put(&mut bytes, Type::Stdin, b"abc");
        put(&mut bytes, Type::EndOfInput, &[]);
        for cut in 0..=HEADER {
            assert_eq!(first(&bytes[..cut]).unwrap(), None, "{cut} bytes");
        }
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        while let Some((frame, length)) = first(rest).unwrap() {
            seen.push((frame.kind, frame.payload.to_vec()));
            rest = &rest[length..];
        }
        assert_eq!(seen, [(Type::Hello, vec![1]), (Type::Stdin, b"abc".to_vec()), (Type::EndOfInput, vec![])]);
        assert!(rest.is_empty());
    }

    #[test]
    fn garbage_is_refused_before_it_is_waited_for() {
        assert!(first(&[0x00, 0, 0, 0, 0]).is_err(), "unknown type");
        assert!(first(&[0x02, 1, 0, 1, 0]).is_err(), "65537 bytes announced");
        assert!(first(&[0x02, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(first(&[0x02, 0, 0, 1, 0]).unwrap().is_none(), "64 KiB are allowed");
    }

    #[test]
    fn payloads() {
        assert_eq!(size(&size_payload(24, 300)), Some((24, 300)));
        assert_eq!(size(&[1, 2, 3]), None);
        for kind in [Kind::Other, Kind::NoCommand, Kind::NotExecutable] {
            let error = failure(&failure_payload(&Error::new(kind, "why")));
            assert_eq!((error.kind, error.text()), (kind, "why"));
        }
        assert_eq!(failure(&[]).kind, Kind::Other);
    }

    #[test]
    fn fuzz_shim_frames() {
        let mut seed = Vec::new();
        put(&mut seed, Type::Hello, &[1]);
        put(&mut seed, Type::Resize, &size_payload(24, 80));
        put(&mut seed, Type::Stdout, b"text");
        crate::fuzz::fuzz("shim_frames", &[seed], |mut input| {
            while let Ok(Some((frame, length))) = first(input) {
                assert!(frame.payload.len() <= MAX_PAYLOAD && length <= input.len());
                input = &input[length..];
            }
        });
    }
}
