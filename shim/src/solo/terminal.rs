//! The user's own terminal: raw while a container has it, restored whatever happens.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::{Context, Result};

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
        let _: rustix::io::Result<()> =
            tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Rows and columns of the terminal that one of our streams is, if any.
pub(crate) fn size() -> Option<(u16, u16)> {
    let of = |fd: BorrowedFd<'_>| isatty(fd).then(|| tcgetwinsize(fd).ok()).flatten();
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let size = of(stdout.as_fd())
        .or_else(|| of(stdin.as_fd()))
        .or_else(|| of(stderr.as_fd()))?;
    Some((size.ws_row, size.ws_col))
}

/// Recognises the keys that detach in what the user types.
#[derive(Debug, Default)]
pub(crate) struct DetachKeys {
    half: bool,
}

impl DetachKeys {
    /// Moves `typed` to `out` up to the keys. `true` means that they were pressed.
    pub(crate) fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        let [first, second] = DETACH_KEYS;
        for &key in typed {
            if self.half && key == second {
                self.half = false;
                return true;
            }
            if self.half {
                out.push(first);
            }
            self.half = key == first;
            if !self.half {
                out.push(key);
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
            let (mut keys, mut got) = (DetachKeys::default(), Vec::new());
            let seen = pieces.iter().any(|piece| keys.filter(piece, &mut got));
            assert_eq!((got.as_slice(), seen), (out, detached), "{pieces:?}");
        }
    }
}
