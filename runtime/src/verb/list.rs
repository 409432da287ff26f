//! `list`: all containers below the root.

use super::state::{Shown, shown};
use crate::cli::{Format, Global, List};
use libcontainer::{Kind, Result, store::Store};
use std::fmt::Write as _;

pub(crate) fn run(global: &Global, args: &List) -> Result<u8> {
    let containers = match Store::open(&super::root(global)?, false) {
        // Before the first container there is no default root; a root that was named is expected to be there.
        Err(error) if error.kind() == Kind::NotFound && global.root.is_none() => Vec::new(),
        store => all(&store?)?,
    };
    match (args.quiet, args.format) {
        (true, _) => containers.iter().try_for_each(|container| super::print_line(&container.id))?,
        // runc prints `null` for none; readers take both.
        (false, Format::Json) => {
            let json = serde_json::to_string(&containers);
            super::print_line(&json.map_err(|error| libcontainer::Error::other(error.to_string()))?)?;
        }
        (false, Format::Table) => super::print_line(table(&containers).trim_end())?,
    }
    Ok(0)
}

/// What is deleted while we look is not there; what cannot be read is told of, and does not hide the rest.
fn all(store: &Store) -> Result<Vec<Shown>> {
    let mut containers = Vec::new();
    for id in store.ids()? {
        match store.find(&id).and_then(|slot| Ok(slot.load()?.map(|state| shown(&slot, state)))) {
            Ok(container) => containers.extend(container),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => tracing::warn!("{id}: {error}"),
        }
    }
    Ok(containers)
}

fn table(containers: &[Shown]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(containers.iter().map(|c| {
        let bundle = c.bundle.display().to_string();
        [c.id.clone(), c.pid.to_string(), c.status.clone(), bundle, c.created.clone(), c.owner.clone()]
    }));
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            // As Go's tabwriter pads: at least 12 wide, 3 apart.
            *width = (*width).max(cell.chars().count() + 3).max(12);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (width, cell) in widths.into_iter().zip(row) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:<width$}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
