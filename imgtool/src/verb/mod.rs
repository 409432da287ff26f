//! One verb a file.

pub(crate) mod build;
pub(crate) mod bundle;
pub(crate) mod bundles;
pub(crate) mod commit;
mod confirm;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod diff;
pub(crate) mod du;
pub(crate) mod export;
pub(crate) mod filter;
pub(crate) mod fsck;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod port;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod referrers;
pub(crate) mod rm;
pub(crate) mod save;
pub(crate) mod tag;
pub(crate) mod tags;
pub(crate) mod umount;
pub(crate) mod unbundle;
pub(crate) mod volume;

use std::fmt::Display;
use std::io::{self, Write as _};

use crate::error::{Error, Result, Step, one_line};

/// Prints a line on stdout. Names from images and archives stand in it: control characters do not reach a terminal.
fn print(line: impl Display) -> Result<()> {
    write_line(&one_line(line.to_string()))
}

fn write_line(line: &str) -> Result<()> {
    match writeln!(io::stdout(), "{line}") {
        // `imgtool images | head -1` is no failure.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.at("write to stdout"),
    }
}

/// Prints rows in columns, the first one as their heading.
fn print_table(rows: &[Vec<String>]) -> Result<()> {
    // What comes from images may be anything: its width is counted as it is printed.
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| one_line(cell.clone())).collect()).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        print(cells.join("   ").trim_end())?;
    }
    Ok(())
}

/// Prints a value as indented JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::other(e.to_string()))?;
    // JSON escapes the controls of ASCII by itself, but neither DEL nor those above it (U+009B begins a sequence too).
    let text = text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
    write_line(&text)
}
