//! `imgtool tags`

use std::sync::Arc;

use serde_json::json;

use super::{print, print_json};
use crate::cli::{ListFormat, TagsArgs};
use crate::error::{Result, Step};
use crate::registry::Registry;

/// Prints the tags of a repository, one a line.
pub(crate) fn run(args: &TagsArgs) -> Result<()> {
    let registry = Registry::new(&args.repository, &args.registry.access(), Arc::default());
    let tags = registry.tags().with(|| args.repository.name())?;
    match args.format {
        ListFormat::Json => print_json(&json!({"repository": args.repository.name(), "tags": tags})),
        ListFormat::Table => tags.iter().try_for_each(print),
    }
}
