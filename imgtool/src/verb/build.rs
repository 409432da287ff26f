//! `imgtool build`

use std::path::Path;

use super::print;
use crate::build;
use crate::cli::BuildArgs;
use crate::error::{Error, Result};
use crate::layout::Store;

/// Builds an image and prints its digest, or what else was asked for. `directory` is there in the process that builds, and not in the one that waits
/// for it.
pub(crate) fn run(store: &Store, args: &BuildArgs, directory: Option<&Path>) -> Result<()> {
    let store = &store.with_rights()?;
    if let Some(directory) = directory {
        let said = build::run(store, args, directory)?;
        said.text.lines().try_for_each(print)?;
        return said.failed.map_or(Ok(()), |why| Err(Error::other(why)));
    }
    store.create()?;
    // The builder has its times of its environment.
    let epoch = args.build_arg.iter().rev().find_map(|arg| arg.strip_prefix("SOURCE_DATE_EPOCH="));
    // Without a runtime there is nothing of it to clear away either.
    let runtime = build::runtime(args.runtime.as_deref()).ok();
    let code = build::guard(store, runtime.as_deref(), epoch)?;
    // The builder has said what there is to say.
    if code == 0 { Ok(()) } else { std::process::exit(code.into()) }
}
