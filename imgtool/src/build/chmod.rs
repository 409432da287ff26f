//! `--chmod`: an octal number, or the words of chmod(1).

use rustix::fs::FileType;

use crate::error::{Error, Result};

/// What is done to modes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chmod {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// One `[ugoa][+-=][rwxXst]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Bits of those it is for: 0o700, 0o070, 0o007.
    who: u32,
    operator: char,
    letters: String,
}

impl std::str::FromStr for Chmod {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::malformed(format!("--chmod={text}: want an octal number up to 07777, or as u=rwX,go=rX"));
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Self::Octal).ok_or_else(bad);
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let end = part.find(['+', '-', '=']).ok_or_else(bad)?;
            let mut who = 0;
            for c in part[..end].chars() {
                who |= match c {
                    'u' => 0o700,
                    'g' => 0o070,
                    'o' => 0o007,
                    'a' => 0o777,
                    _ => return Err(bad()),
                };
            }
            let mut rest = &part[end..];
            while let Some(operator) = rest.chars().next() {
                let stop = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
                let letters = &rest[1..stop];
                if !letters.chars().all(|c| "rwxXstugo".contains(c)) {
                    return Err(bad());
                }
                clauses.push(Clause { who: if who == 0 { 0o777 } else { who }, operator, letters: letters.to_owned() });
                rest = &rest[stop..];
            }
        }
        Ok(Self::Symbolic(clauses))
    }
}

impl Chmod {
    /// The new permission bits of a file that has `mode`, type and all.
    pub(crate) fn apply(&self, mode: u32) -> u32 {
        let clauses = match self {
            Self::Octal(mode) => return *mode,
            Self::Symbolic(clauses) => clauses,
        };
        let directory = FileType::from_raw_mode(mode) == FileType::Directory;
        let mut bits = mode & 0o7777;
        for clause in clauses {
            let mut set = 0;
            for letter in clause.letters.chars() {
                set |= match letter {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if directory || bits & 0o111 != 0 => 0o111,
                    's' => {
                        (if clause.who & 0o700 != 0 { 0o4000 } else { 0 })
                            | (if clause.who & 0o070 != 0 { 0o2000 } else { 0 })
                    }
                    't' => 0o1000,
                    'u' => (bits >> 6 & 7) * 0o111,
                    'g' => (bits >> 3 & 7) * 0o111,
                    'o' => (bits & 7) * 0o111,
                    _ => 0,
                };
            }
            let set = set & (clause.who | 0o7000);
            bits = match clause.operator {
                '+' => bits | set,
                '-' => bits & !set,
                _ => bits & !clause.who | set,
            };
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_chmod_has_them() {
        for (text, mode, want) in [
            ("755", 0o100_600, 0o755),
            ("07777", 0o100_600, 0o7777),
            ("u=rwX,go=rX", 0o100_600, 0o644),
            ("u=rwX,go=rX", 0o040_700, 0o755),
            ("u=rwX,go=rX", 0o100_700, 0o755),
            ("+x", 0o100_644, 0o755),
            ("go-rwx", 0o100_777, 0o700),
            ("g=u", 0o100_640, 0o660),
            ("u+s,o+t", 0o100_755, 0o5755),
            ("a=r", 0o100_777, 0o444),
        ] {
            assert_eq!(text.parse::<Chmod>().unwrap().apply(mode), want, "{text} {mode:o}");
        }
        for bad in ["", "8", "17777", "rwx", "u", "x=r", "u=q", "0x1"] {
            assert!(bad.parse::<Chmod>().is_err(), "{bad}");
        }
    }
}
