//! What `/proc/PID/stat` tells of a process.

use std::fs;

use crate::error::{Context, Error, Result};

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Whether it is a zombie, or not even that.
    pub(crate) dead: bool,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    /// When it was started, in the kernel's ticks: a pid alone can be reused.
    pub(crate) start: u64,
}

impl Stat {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let bytes = fs::read(&path).context(|| format!("read {path}"))?;
        // The name is bytes of the process's choice.
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(&text).ok_or_else(|| Error::other(format!("{path}: {text:?} is not what proc(5) says")))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, can contain anything. After it: state, parent, group, session, …, start.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let dead = matches!(fields.next()?, "Z" | "X");
        let (parent, _group, session) = (fields.next()?, fields.next()?, fields.next()?);
        let start = fields.nth(15)?;
        Some(Self { dead, parent: parent.parse().ok()?, session: session.parse().ok()?, start: start.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_is_no_text_is_there() {
        let renamed = std::thread::spawn(|| {
            fs::write("/proc/thread-self/comm", b"\xff\xfe").unwrap();
            let own = fs::read_link("/proc/thread-self").unwrap();
            Stat::of(own.file_name().unwrap().to_str().unwrap().parse().unwrap()).unwrap()
        });
        assert!(!renamed.join().unwrap().dead);
    }

    #[test]
    fn a_process_name_cannot_forge_anything() {
        let text = "12 (a) R 1 (x) S 7 12 9 34816 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let stat = Stat { dead: false, parent: 7, session: 9, start: 4711 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse(&text.replace(") S ", ") Z ")), Some(Stat { dead: true, ..stat }));
        for cut in ["", "12 (a) S 7", "12 (a"] {
            assert_eq!(Stat::parse(cut), None, "{cut}");
        }
        let own = Stat::of(std::process::id()).unwrap();
        assert_eq!((own.dead, own.parent), (false, std::os::unix::process::parent_id()));
    }
}
