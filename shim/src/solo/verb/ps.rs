//! `shim ps`: lists containers.

use std::time::SystemTime;

use crate::cli::Ps;
use crate::error::Result;
use crate::io::time::{self, rough};
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::say;

/// The longest command that is shown whole.
const COMMAND_WIDTH: usize = 30;
const HEADING: [&str; 5] = ["NAME", "COMMAND", "CREATED", "STATUS", "PID"];

/// Prints a table of the containers.
pub(crate) fn ps(layout: &Layout, ps: &Ps) -> Result<u8> {
    let rows = layout
        .all()?
        .iter()
        .filter_map(|directory| row(directory, ps.all))
        .collect::<Vec<_>>();
    for line in table(&rows) {
        say(&line);
    }
    Ok(0)
}

/// One container's cells, if it is to be shown. What cannot be read is shown as such: a list that fails over one broken
/// container helps nobody.
fn row(directory: &Directory, all: bool) -> Option<[String; 5]> {
    let (status, pid) = match directory.status() {
        Ok(Status::Starting) => ("Starting".to_owned(), None),
        Ok(Status::Running { state, watched }) => {
            let note = if watched { "" } else { " (monitor lost)" };
            (format!("Up {}{note}", age(&state.started)), Some(state.pid))
        }
        Ok(Status::Exited(ended)) if all => (
            format!("Exited ({}) {} ago", ended.code, age(&ended.finished)),
            None,
        ),
        Ok(Status::Lost) if all => ("Dead (monitor lost)".to_owned(), None),
        Ok(_) => return None,
        Err(_) if !all => return None,
        Err(_) => ("Unreadable".to_owned(), None),
    };
    let (command, created) = match directory.options() {
        Ok(options) => (
            shorten(&options.command.join(" ")),
            format!("{} ago", age(&options.created)),
        ),
        Err(_) => ("?".to_owned(), "?".to_owned()),
    };
    let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    Some([directory.name.clone(), command, created, status, pid])
}

fn age(moment: &str) -> String {
    let age = time::parse(moment).and_then(|moment| SystemTime::now().duration_since(moment).ok());
    rough(age.unwrap_or_default())
}

/// Quoted, free of control characters, and cut to the column's width.
fn shorten(command: &str) -> String {
    let mut text: String = command
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().count() > COMMAND_WIDTH {
        text = text.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect();
    }
    format!("\"{text}\"")
}

fn table(rows: &[[String; 5]]) -> Vec<String> {
    let heading = HEADING.map(str::to_owned);
    let lines = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| {
        lines()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..HEADING.len()).map(width).collect();
    let line = |row: &[String; 5]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |name: &str, pid: &str| {
            [name, "\"sh\"", "1 second ago", "Up 1 second", pid].map(str::to_owned)
        };
        let lines = table(&[row("a", "1"), row("long-name", "12345")]);
        assert_eq!(
            lines[0],
            "NAME        COMMAND   CREATED        STATUS        PID"
        );
        assert_eq!(
            lines[2],
            "long-name   \"sh\"      1 second ago   Up 1 second   12345"
        );
        assert_eq!(table(&[]).len(), 1);
    }

    #[test]
    fn commands_cannot_spoil_the_table() {
        assert_eq!(shorten("sh -c \x1b[2J\n"), "\"sh -c  [2J \"");
        assert_eq!(shorten(&"ä".repeat(40)).chars().count(), COMMAND_WIDTH + 2);
    }
}
