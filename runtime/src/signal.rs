//! Signals by name.

use libcontainer::{Error, Kind, Result};

/// Linux's numbers on x86 and ARM, as `linux/signal.h` has them.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.
pub(crate) fn number(text: &str) -> Result<i32> {
    let unknown = || Error::new(Kind::Invalid, format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse() {
        return if (0..=RTMAX).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let real_time = match name.strip_prefix("RTMIN") {
        Some("") => Some(RTMIN),
        Some(offset) => offset.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()).map(|n| RTMIN.saturating_add(n)),
        None => match name.strip_prefix("RTMAX").ok_or_else(unknown)? {
            "" => Some(RTMAX),
            offset => offset.strip_prefix('-').and_then(|n| n.parse::<i32>().ok()).map(|n| RTMAX.saturating_sub(n)),
        },
    };
    real_time.filter(|number| (RTMIN..=RTMAX).contains(number)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, expected) in
            [("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("0", 0), ("64", 64), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(number(text).unwrap(), expected, "{text}");
        }
        for text in ["", "SIG", "NOPE", "-1", "65", "RTMIN+99", "RTMAX-99", "RTMIN+-1", "9 "] {
            assert_eq!(number(text).unwrap_err().to_string(), format!("unknown signal {text:?}"));
        }
    }
}
