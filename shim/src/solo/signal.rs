//! Signals by name and number.

use crate::error::{Error, Result};

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first and last real-time signal, as the C library counts them.
const REAL_TIME: (u8, u8) = (34, 64);

/// The number of a signal given as `9`, `KILL`, `SIGKILL` or `RTMIN+3`, in any case.
pub(crate) fn parse(text: &str) -> Result<u8> {
    let unknown = || {
        Error::invalid(format!(
            "unknown signal {text:?}: give a name such as TERM or a number from 1 to 64"
        ))
    };
    if let Ok(number) = text.parse::<u8>() {
        return if (1..=REAL_TIME.1).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|&known| known == name) {
        return Ok(index as u8 + 1);
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        _ => rest.strip_prefix(sign)?.parse::<u8>().ok(),
    };
    let (first, last) = REAL_TIME;
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').and_then(|offset| first.checked_add(offset))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-').and_then(|offset| last.checked_sub(offset))
    } else {
        None
    };
    number
        .filter(|number| (first..=last).contains(number))
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("SYS", 31),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in [
            "", "0", "65", "-9", "SIG", "KILLED", "RTMIN+31", "RTMAX-31", "RTMIN-1", "RTMIN+",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
