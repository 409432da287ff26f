//! `imgtool history`

use serde_json::json;

use super::images::human;
use super::{print_json, print_table};
use crate::cli::{HistoryArgs, ListFormat};
use crate::error::Result;
use crate::layout::Store;
use crate::platform::Platform;
use crate::time;

/// Longest command that a table shows.
const SHOWN: usize = 45;

/// Lists the steps that an image was made by, the last one first.
pub(crate) fn run(store: &Store, args: &HistoryArgs) -> Result<()> {
    let image = store.find(&args.image, &Platform::host())?;
    let mut layers = image.manifest.layers.iter();
    let mut steps = Vec::new();
    for step in &image.config.history {
        let layer = if step.empty_layer == Some(true) { None } else { layers.next() };
        steps.push((step, layer));
    }
    steps.reverse();
    if args.format == ListFormat::Json {
        let all: Vec<_> = steps
            .iter()
            .map(|(step, layer)| {
                json!({
                    "created": step.created, "createdBy": step.created_by, "author": step.author,
                    "comment": step.comment, "layer": layer.map(|layer| &layer.digest),
                    "size": layer.map_or(0, |layer| layer.size),
                })
            })
            .collect();
        return print_json(&all);
    }
    let mut rows = vec![["CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec()];
    for (step, layer) in steps {
        let mut by = step.created_by.clone().unwrap_or_default();
        if !args.no_trunc && by.chars().count() > SHOWN {
            by = by.chars().take(SHOWN - 1).chain(['\u{2026}']).collect();
        }
        rows.push(vec![
            step.created.as_deref().and_then(time::ago).unwrap_or_else(|| "N/A".to_owned()),
            by,
            human(layer.map_or(0, |layer| layer.size)),
            step.comment.clone().unwrap_or_default(),
        ]);
    }
    print_table(&rows)
}
