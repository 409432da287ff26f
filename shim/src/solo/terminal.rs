//! The user's own terminal: raw while a container has it, restored whatever happens.

use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// The first and second key that detach: Ctrl-P, Ctrl-Q.
const DETACH_KEYS: [u8; 2] = [0x10, 0x11];

/// A terminal in raw mode; dropping it restores what was before.
#[derive(Debug)]
pub(crate) struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Makes `terminal` raw: keys go to the container as they are pressed, and only the container interprets them.
    pub(crate) fn enter(terminal: BorrowedFd<'a>) -> Result<Self> {
        let before = tcgetattr(terminal).context(|| "read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Drain, &raw).context(|| "make the terminal raw")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _: rustix::io::Result<()> = tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Rows and columns of the terminal that one of our streams is, if any.
pub(crate) fn size() -> Option<(u16, u16)> {
    let of = |fd: BorrowedFd<'_>| isatty(fd).then(|| tcgetwinsize(fd).ok()).flatten();
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let size = of(stdout.as_fd()).or_else(|| of(stdin.as_fd())).or_else(|| of(stderr.as_fd()))?;
    Some((size.ws_row, size.ws_col))
}

/// The keys that detach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(DETACH_KEYS.to_vec())
    }
}

impl FromStr for DetachKeys {
    type Err = Error;

    /// Reads `ctrl-p,ctrl-q`: letters, and `ctrl-` with a letter or one of `@[\]^_`. Nothing means that no keys detach.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |word: &str| {
            Error::invalid(format!(
                "detach keys {text:?}: {word:?} is no key: give one like a, ctrl-p or ctrl-p,ctrl-q"
            ))
        };
        let words = text.split(',').filter(|_| !text.is_empty());
        let keys = words.map(|word| match (word.as_bytes(), word.strip_prefix("ctrl-").map(str::as_bytes)) {
            (&[key @ b' '..=b'~'], _) => Ok(key),
            (_, Some(&[key @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => Ok(key & 0x1f),
            _ => Err(wrong(word)),
        });
        keys.collect::<Result<_>>().map(Self)
    }
}

/// Recognises the keys that detach in what the user types.
#[derive(Debug)]
pub(crate) struct KeyFilter {
    keys: Vec<u8>,
    /// How many of them have been pressed in a row.
    pressed: usize,
}

impl KeyFilter {
    pub(crate) fn new(keys: Option<DetachKeys>) -> Self {
        Self { keys: keys.unwrap_or_default().0, pressed: 0 }
    }

    /// Moves `typed` to `out` up to the keys. `true` means that they were pressed.
    pub(crate) fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for &key in typed {
            if self.keys.is_empty() {
                out.push(key);
                continue;
            }
            if key != self.keys[self.pressed] {
                // What looked like the beginning was meant for the container.
                out.extend_from_slice(&self.keys[..self.pressed]);
                self.pressed = 0;
            }
            if key == self.keys[self.pressed] {
                self.pressed += 1;
            } else {
                out.push(key);
            }
            if self.pressed == self.keys.len() {
                self.pressed = 0;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_both_keys_in_a_row_detach() {
        for (pieces, out, detached) in [
            (&[&b"ab"[..]][..], &b"ab"[..], false),
            (&[b"a\x10\x11b"], b"a", true),
            (&[b"a\x10", b"\x11"], b"a", true),
            (&[b"\x10", b"x\x11"], b"\x10x\x11", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x11\x10"], b"\x11", false),
        ] {
            let (mut keys, mut got) = (KeyFilter::new(None), Vec::new());
            let seen = pieces.iter().any(|piece| keys.filter(piece, &mut got));
            assert_eq!((got.as_slice(), seen), (out, detached), "{pieces:?}");
        }
    }

    #[test]
    fn other_keys_can_be_chosen() {
        for (text, keys) in [("ctrl-p,ctrl-q", &b"\x10\x11"[..]), ("a", b"a"), ("ctrl-\\,x", b"\x1cx"), ("", b"")] {
            assert_eq!(text.parse::<DetachKeys>().unwrap().0, keys, "{text}");
        }
        for text in ["ctrl-", "ctrl-1", "ab", "ctrl-p,", "ä"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
        let (mut keys, mut got) = (KeyFilter::new(Some("".parse().unwrap())), Vec::new());
        assert!(!keys.filter(b"\x10\x11", &mut got));
        assert_eq!(got, b"\x10\x11");
    }
}
