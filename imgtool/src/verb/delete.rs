//! `imgtool delete`

use std::sync::Arc;

use super::print;
use crate::cli::DeleteArgs;
use crate::error::{Error, Result};
use crate::registry::Registry;

/// Deletes a manifest from a registry and prints its name by digest.
pub(crate) fn run(args: &DeleteArgs) -> Result<()> {
    let registry = Registry::new(&args.reference, &args.registry.access(), Arc::default()).to("pull,delete");
    let delete = || {
        let digest = match args.reference.digest() {
            Some(digest) => digest.clone(),
            None => registry.current_digest()?.ok_or_else(|| Error::other("the registry does not tell the digest"))?,
        };
        registry.delete_manifest(&digest)?;
        Ok(digest)
    };
    let digest = delete().map_err(|e: Error| e.at(&args.reference))?;
    print(format!("Deleted: {}", args.reference.with_digest(&digest)))
}
