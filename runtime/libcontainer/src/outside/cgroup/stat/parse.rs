//! The forms in which the kernel writes numbers.

use super::{super::file, Psi, Stall};
use crate::error::{At, Error, Result};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// The text of a file; None where the kernel or the cgroup has no such file.
pub(super) fn text(dir: BorrowedFd<'_>, name: &str) -> Result<Option<String>> {
    match file::read(dir, name) {
        // Not supported: pressure of a kernel that has it switched off.
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV) => Ok(None),
        text => text.at_with(|| format!("read {name}")).map(Some),
    }
}

/// One number, `max` being the largest.
pub(super) fn number(dir: BorrowedFd<'_>, name: &str) -> Result<Option<u64>> {
    let Some(text) = text(dir, name)? else { return Ok(None) };
    unsigned(text.trim()).map(Some).ok_or_else(|| strange(name, &text))
}

/// `key value` lines.
pub(super) fn pairs(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<(String, u64)>>> {
    let Some(text) = text(dir, name)? else { return Ok(None) };
    let pair = |line: &str| {
        let value = line.split_once(' ').and_then(|(key, value)| Some((key.to_owned(), unsigned(value.trim())?)));
        value.ok_or_else(|| strange(name, line))
    };
    text.lines().map(pair).collect::<Result<_>>().map(Some)
}

/// A file with the value of `key` on a line.
pub(super) fn value_of(dir: BorrowedFd<'_>, name: &str, key: &str) -> Result<Option<u64>> {
    Ok(pairs(dir, name)?.map(|all| all.iter().find(|(it, _)| it == key).map_or(0, |(_, value)| *value)))
}

/// Some counters of v1 can become negative by mistakes of the kernel: they are 0.
pub(super) fn unsigned(word: &str) -> Option<u64> {
    match word {
        "max" => Some(u64::MAX),
        _ if word.starts_with('-') => word[1..].bytes().all(|byte| byte.is_ascii_digit()).then_some(0),
        _ => word.parse().ok(),
    }
}

pub(super) fn strange(name: &str, text: &str) -> Error {
    Error::other(format!("{name}: not of the known form: {:?}", text.trim_end()))
}

pub(super) fn psi(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Psi>> {
    let Some(text) = text(dir, name)? else { return Ok(None) };
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        *stall = words.try_fold(Stall::default(), add).ok_or_else(|| strange(name, line))?;
    }
    Ok(Some(psi))
}

fn add(mut stall: Stall, word: &str) -> Option<Stall> {
    let (key, value) = word.split_once('=')?;
    match key {
        "avg10" => stall.avg10 = value.parse().ok()?,
        "avg60" => stall.avg60 = value.parse().ok()?,
        "avg300" => stall.avg300 = value.parse().ok()?,
        "total" => stall.total = value.parse().ok()?,
        _ => {}
    }
    Some(stall)
}

/// `0-2,7`.
pub(super) fn list(name: &str, text: &str) -> Result<Vec<u16>> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bounds = first.parse::<u16>().ok().zip(last.parse::<u16>().ok()).filter(|(first, last)| first <= last);
        let (first, last) = bounds.ok_or_else(|| strange(name, text))?;
        all.extend(first..=last);
    }
    Ok(all)
}

/// The sizes of huge pages that this machine has, as cgroup files name them.
pub(super) fn page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut sizes: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

pub(super) fn page_size(kib: u64) -> String {
    match kib {
        0x10_0000.. => format!("{}GB", kib >> 20),
        0x400.. => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    }
}
