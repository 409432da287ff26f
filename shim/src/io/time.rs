//! Points in time as RFC 3339 text in UTC with nanoseconds, the form that logs and records use.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// Formats a point in time after 1970, for example `2026-02-03T04:05:06.000000007Z`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rfc3339(pub(crate) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (year, month, day) = civil(since.as_secs() / DAY);
        let second = since.as_secs() % DAY;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z",
            since.subsec_nanos()
        )
    }
}

/// Reads what [`Rfc3339`] writes.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let bytes = text.as_bytes();
    if separators
        .iter()
        .any(|&(at, byte)| bytes.get(at) != Some(&byte))
        || bytes.last() != Some(&b'Z')
    {
        return None;
    }
    let days = days_since_epoch(number(0..4)?, number(5..7)?, number(8..10)?)?;
    let seconds = days * DAY + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let fraction = text.get(19..text.len() - 1)?;
    let mut nanoseconds = 0;
    if !fraction.is_empty() {
        let digits = fraction
            .strip_prefix('.')
            .filter(|digits| (1..=9).contains(&digits.len()))?;
        nanoseconds = digits.parse::<u32>().ok()? * 10_u32.pow(9 - digits.len() as u32);
    }
    Some(UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}

/// Year, month and day of a day number. The era of 400 years starts in March, so that leap days come last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let year_of_era = year % 400;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (year / 400 * 146_097 + day_of_era).checked_sub(719_468)
}

/// A duration as people say it: `5 seconds`, `3 minutes`, `2 hours`, `4 days`.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / DAY, "day"),
    };
    let mut text = format!("{count} {unit}");
    if count != 1 {
        let _: fmt::Result = text.write_char('s');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 7, "2000-02-29T00:00:00.000000007Z"),
            (951_868_799, 999_999_999, "2000-02-29T23:59:59.999999999Z"),
            (1_709_251_199, 120_000_000, "2024-02-29T23:59:59.120000000Z"),
            (4_107_542_400, 1, "2100-03-01T00:00:00.000000001Z"),
        ] {
            let moment = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            assert_eq!(Rfc3339(moment).to_string(), text);
            assert_eq!(parse(text), Some(moment));
        }
    }

    #[test]
    fn shorter_fractions_are_read_and_nonsense_is_not() {
        assert_eq!(
            parse("1970-01-01T00:00:01Z"),
            Some(UNIX_EPOCH + Duration::from_secs(1))
        );
        assert_eq!(
            parse("1970-01-01T00:00:01.5Z"),
            Some(UNIX_EPOCH + Duration::from_millis(1500))
        );
        for text in [
            "",
            "Z",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-13-01T00:00:00Z",
            "äää-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_rounded_down() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (7200, "2 hours"),
            (400_000, "4 days"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }
}
