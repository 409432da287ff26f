//! The fifos `ctl` and `winsz` in the bundle, through which the caller resizes the terminal and has logs reopened.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, mkfifoat};

use super::socket::remove;
use crate::error::{Context, Result};
use crate::io::fifo::open_both_ends;

/// No honest line is longer.
const MAX_LINE: usize = 199;
/// No terminal is larger.
const MAX_SIZE: u16 = 1000;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Resize { rows: u16, columns: u16 },
    ReopenLogs,
}

/// Which of the two fifos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `1 ROWS COLUMNS` or `2 0 0`.
    Control,
    /// `ROWS COLUMNS`.
    WindowSize,
}

/// A fifo that takes orders.
#[derive(Debug)]
pub(super) struct Fifo {
    fd: OwnedFd,
    kind: Kind,
    line: Vec<u8>,
    /// The rest of a line that is too long.
    skipping: bool,
}

impl Fifo {
    /// Makes the fifo anew.
    pub(super) fn make(bundle: &Path, kind: Kind) -> Result<Self> {
        let path = bundle.join(match kind {
            Kind::Control => "ctl",
            Kind::WindowSize => "winsz",
        });
        remove(&path)?;
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o660)).context(|| format!("make the fifo {}", path.display()))?;
        Ok(Self { fd: open_both_ends(&path)?, kind, line: Vec::new(), skipping: false })
    }

    /// Reads what has come. A line that is no order is given as an error.
    pub(super) fn read(&mut self) -> Vec<std::result::Result<Order, String>> {
        let mut buffer = [0_u8; 4096];
        let mut orders = Vec::new();
        let Ok(count) = rustix::io::read(&self.fd, &mut buffer[..]) else {
            return orders;
        };
        for piece in buffer[..count].split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            let whole = self.line.ends_with(b"\n");
            if self.line.len() > MAX_LINE {
                self.line.clear();
                self.skipping = true;
            }
            if !whole {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let skipped = std::mem::take(&mut self.skipping);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let order = if skipped { None } else { parse(self.kind, &text) };
            orders.push(order.ok_or(text));
        }
        orders
    }
}

impl AsFd for Fifo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn parse(kind: Kind, line: &str) -> Option<Order> {
    let mut numbers = line.split_ascii_whitespace().map(|word| word.parse::<u16>().ok());
    let number = match kind {
        Kind::Control => numbers.next()??,
        Kind::WindowSize => 1,
    };
    let (rows, columns) = (numbers.next()??, numbers.next()??);
    match number {
        1 if rows <= MAX_SIZE && columns <= MAX_SIZE => Some(Order::Resize { rows, columns }),
        2 => Some(Order::ReopenLogs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn orders() {
        let size = |rows, columns| Some(Order::Resize { rows, columns });
        for (line, order) in [
            ("1 24 80", size(24, 80)),
            ("1 0010 0020", size(10, 20)),
            ("1 2 2 3", size(2, 2)),
            ("1 1000 1000", size(1000, 1000)),
            ("2 0 0", Some(Order::ReopenLogs)),
            ("2 1 1", Some(Order::ReopenLogs)),
            ("1 1001 1", None),
            ("1 -1 -1", None),
            ("1 2", None),
            ("1", None),
            ("", None),
            ("foo", None),
            ("999 2 2", None),
            ("1 10.5 20.3", None),
            ("1 0x10 0x20", None),
            ("1 100000 100000", None),
        ] {
            assert_eq!(parse(Kind::Control, line), order, "{line}");
        }
        assert_eq!(parse(Kind::WindowSize, "24 80"), size(24, 80));
        assert_eq!(parse(Kind::WindowSize, "24"), None);
    }

    #[test]
    fn lines_come_in_pieces_and_long_ones_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let mut fifo = Fifo::make(dir.path(), Kind::Control).unwrap();
        let mut writer = std::fs::File::options().write(true).open(dir.path().join("ctl")).unwrap();
        writer.write_all(b"1 2").unwrap();
        assert_eq!(fifo.read(), []);
        writer.write_all(b"4 80\n2 0 0\n").unwrap();
        assert_eq!(fifo.read(), [Ok(Order::Resize { rows: 24, columns: 80 }), Ok(Order::ReopenLogs)]);
        writer.write_all(&[b'#'; 3000]).unwrap();
        assert_eq!(fifo.read(), []);
        writer.write_all(b"\n1 1 1\n").unwrap();
        let read = fifo.read();
        assert!(read[0].is_err());
        assert_eq!(read[1], Ok(Order::Resize { rows: 1, columns: 1 }));
    }

    #[test]
    fn fuzz_shim_control() {
        let seeds = [b"1 24 80\n2 0 0\n".to_vec(), b"1 100000 100000".to_vec()];
        crate::fuzz::fuzz("shim_control", &seeds, |input| {
            for line in String::from_utf8_lossy(input).lines() {
                parse(Kind::Control, line);
                parse(Kind::WindowSize, line);
            }
        });
    }
}
