//! `shim ps`: lists containers.

use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::cli::{Format, Ps};
use crate::error::{Error, Result};
use crate::io::time::{self, rough};
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::record::Ended;
use crate::solo::say;

/// The longest command that is shown whole.
const COMMAND_WIDTH: usize = 30;
/// The same of what a bundle says of itself.
const BUNDLE_WIDTH: usize = 120;
/// What a container can be.
const STATUSES: [&str; 6] = ["created", "running", "paused", "restarting", "exited", "dead"];
/// How a container can feel.
const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];
const HEADING: [&str; 7] = ["NAME", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "PID"];

/// Prints the containers.
pub(crate) fn ps(layout: &Layout, ps: &Ps) -> Result<u8> {
    let filters = ps.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>>>()?;
    let all = ps.all || filters.iter().any(|filter| matches!(filter, Filter::Status(_)));
    let shown = layout.all()?.into_iter().map(|directory| (describe(&directory), directory)).filter(|(row, _)| {
        let lives = matches!(word(row), "running" | "paused" | "restarting" | "created");
        (all || lives) && Filter::accept(&filters, row)
    });
    let shown: Vec<_> = shown.collect();
    if ps.quiet {
        for (_, directory) in &shown {
            say(&directory.name);
        }
        return Ok(0);
    }
    if ps.format == Format::Json {
        let rows: Vec<_> = shown.into_iter().map(|(row, _)| row).collect();
        say(&serde_json::to_string_pretty(&rows)?);
        return Ok(0);
    }
    let rows = shown.iter().map(|(row, directory)| cells(row, directory, ps.no_trunc)).collect::<Vec<_>>();
    for line in table(&rows) {
        say(&line);
    }
    Ok(0)
}

/// What a container must be like to be shown.
#[derive(Debug, PartialEq, Eq)]
enum Filter {
    /// Its name has this in it.
    Name(String),
    Status(String),
    Health(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some(("name", name)) => Ok(Self::Name(name.to_owned())),
            Some(("status", status)) if STATUSES.contains(&status) => Ok(Self::Status(status.to_owned())),
            Some(("status", status)) => {
                Err(Error::invalid(format!("filter status={status}: it is one of {}", STATUSES.join(", "))))
            }
            Some(("health", health)) if HEALTHS.contains(&health) => Ok(Self::Health(health.to_owned())),
            Some(("health", health)) => {
                Err(Error::invalid(format!("filter health={health}: it is one of {}", HEALTHS.join(", "))))
            }
            _ => Err(Error::invalid(format!("filter {text:?}: it is name=TEXT, status=STATUS or health=HEALTH"))),
        }
    }

    /// Whether one of the filters of each kind accepts the container.
    fn accept(filters: &[Self], row: &Map<String, Value>) -> bool {
        let name = row.get("name").and_then(Value::as_str).unwrap_or_default();
        let names =
            || filters.iter().filter_map(|filter| if let Self::Name(part) = filter { Some(part) } else { None });
        let statuses =
            || filters.iter().filter_map(|filter| if let Self::Status(status) = filter { Some(status) } else { None });
        let healths =
            || filters.iter().filter_map(|filter| if let Self::Health(health) = filter { Some(health) } else { None });
        let condition = row.get("health").and_then(Value::as_str).unwrap_or("none");
        (names().next().is_none() || names().any(|part| name.contains(part.as_str())))
            && (statuses().next().is_none() || statuses().any(|status| status == word(row)))
            && (healths().next().is_none() || healths().any(|health| health == condition))
    }
}

fn word(row: &Map<String, Value>) -> &str {
    row.get("status").and_then(Value::as_str).unwrap_or_default()
}

/// A container in fields: `name`, `status`, `status_text` and, where there is one, `pid`, `exit_code`, `oom_killed`, `created`,
/// `command`, `image`, `ports`. What cannot be read is shown as such: a list that fails over one broken container helps nobody.
pub(super) fn describe(directory: &Directory) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("name".into(), directory.name.as_str().into());
    let mut put = |status: &str, text: String| {
        row.insert("status".into(), status.into());
        row.insert("status_text".into(), text.into());
    };
    let (mut pid, mut end, mut health) = (None, None, None);
    match directory.status() {
        Ok(Status::Starting) => put("created", "Starting".to_owned()),
        Ok(Status::Running { state, watched }) => {
            let paused = directory.is_paused();
            health = directory.condition().ok().flatten().map(|condition| condition.status.text());
            let note = match (paused, watched) {
                (true, _) => " (Paused)".to_owned(),
                (false, true) => health.map(|health| format!(" ({health})")).unwrap_or_default(),
                (false, false) => " (monitor lost)".to_owned(),
            };
            put(if paused { "paused" } else { "running" }, format!("Up {}{note}", age(&state.started)));
            pid = Some(state.pid);
        }
        Ok(Status::Restarting(restarted)) => {
            let last = &restarted.last;
            put("restarting", format!("Restarting ({}) {} ago", how(last), age(&last.finished)));
            end = Some(last.clone());
        }
        Ok(Status::Exited(ended)) => {
            put("exited", format!("Exited ({}) {} ago", how(&ended), age(&ended.finished)));
            end = Some(ended);
        }
        Ok(Status::Lost) => put("dead", "Dead (monitor lost)".to_owned()),
        Err(_) => put("dead", "Unreadable".to_owned()),
    }
    if let Some(pid) = pid {
        row.insert("pid".into(), pid.into());
    }
    if let Some(health) = health {
        row.insert("health".into(), health.into());
    }
    if let Some(end) = end {
        row.insert("exit_code".into(), end.code.into());
        row.insert("oom_killed".into(), end.oom_killed.into());
    }
    if let Ok(options) = directory.options() {
        row.insert("created".into(), options.created.into());
        row.insert("command".into(), options.command.into());
        for (key, value) in [("image", options.image), ("ports", options.ports)] {
            row.extend(value.map(|value| (key.to_owned(), value.into())));
        }
    }
    row
}

/// The exit code, and what it does not tell.
fn how(end: &Ended) -> String {
    format!("{}{}", end.code, if end.oom_killed { ", out of memory" } else { "" })
}

fn cells(row: &Map<String, Value>, directory: &Directory, whole: bool) -> [String; 7] {
    let text = |key: &str| row.get(key).and_then(Value::as_str);
    let words = row.get("command").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let command = words.collect::<Vec<_>>().join(" ");
    let width = |most: usize| if whole { usize::MAX } else { most };
    let command = if row.contains_key("command") {
        format!("\"{}\"", shorten(&command, width(COMMAND_WIDTH)))
    } else {
        "?".to_owned()
    };
    let bundles = |key: &str| shorten(text(key).unwrap_or("-"), width(BUNDLE_WIDTH));
    let created = text("created").map_or_else(|| "?".to_owned(), |created| format!("{} ago", age(created)));
    let status = text("status_text").unwrap_or_default().to_owned();
    let pid = row.get("pid").map_or_else(|| "-".to_owned(), Value::to_string);
    [directory.name.clone(), bundles("image"), command, created, status, bundles("ports"), pid]
}

fn age(moment: &str) -> String {
    let age = time::parse(moment).and_then(|moment| SystemTime::now().duration_since(moment).ok());
    rough(age.unwrap_or_default())
}

/// Free of what moves the cursor or turns the direction of a line, and cut to the column's width.
fn shorten(text: &str, width: usize) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let text: String = text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect();
    if text.chars().count() > width { text.chars().take(width - 1).chain(['…']).collect() } else { text }
}

fn table(rows: &[[String; 7]]) -> Vec<String> {
    align(HEADING, rows)
}

/// Lines of cells, each column as wide as it must be.
pub(super) fn align<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let heading = heading.map(str::to_owned);
    let lines = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| lines().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
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
            [name, "web:1", "\"sh\"", "1 second ago", "Up 1 second", "-", pid].map(str::to_owned)
        };
        let lines = table(&[row("a", "1"), row("long-name", "12345")]);
        assert_eq!(lines[0], "NAME        IMAGE   COMMAND   CREATED        STATUS        PORTS   PID");
        assert_eq!(lines[2], "long-name   web:1   \"sh\"      1 second ago   Up 1 second   -       12345");
        assert_eq!(table(&[]).len(), 1);
    }

    #[test]
    fn commands_cannot_spoil_the_table() {
        assert_eq!(shorten("sh -c \x1b[2J\n", COMMAND_WIDTH), "sh -c  [2J ");
        assert_eq!(shorten("a\u{202e}b\u{9b}c", BUNDLE_WIDTH), "a b c");
        assert_eq!(shorten(&"ä".repeat(40), COMMAND_WIDTH).chars().count(), COMMAND_WIDTH);
    }

    #[test]
    fn filters() {
        let row = |name: &str, status: &str| {
            let fields = [("name", name), ("status", status)];
            fields.map(|(key, value)| (key.to_owned(), Value::from(value))).into_iter().collect::<Map<_, _>>()
        };
        let filters = |texts: &[&str]| texts.iter().map(|text| Filter::parse(text).unwrap()).collect::<Vec<_>>();
        let web = row("web-1", "running");
        for (texts, accepted) in [
            (&[][..], true),
            (&["name=web"], true),
            (&["name=db"], false),
            (&["name=db", "name=web"], true),
            (&["name=web", "status=exited"], false),
            (&["status=exited", "status=running"], true),
        ] {
            assert_eq!(Filter::accept(&filters(texts), &web), accepted, "{texts:?}");
        }
        let mut well = row("web-1", "running");
        well.insert("health".into(), "healthy".into());
        assert!(Filter::accept(&filters(&["health=healthy"]), &well));
        assert!(
            !Filter::accept(&filters(&["health=healthy"]), &web) && Filter::accept(&filters(&["health=none"]), &web)
        );
        for text in ["", "name", "status=happy", "health=happy", "color=red"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
